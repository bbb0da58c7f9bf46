#!/usr/bin/env python3
"""hai-eval kl: a model beside itself and beside its int4, perplexity from the logits; what
hai-quantize --calibrate changes; what both refuse.

usage: eval_kl.py HAI_EVAL HAI_QUANTIZE HAI_TOKENIZE
"""
import array
import json
import math
import os
import struct
import sys
import tempfile

from checks import check, closing, run
import ggufwrite

MODEL = "tests/fixtures/models/llama_gqa"
LATENT = "tests/fixtures/models/dsv3"
TEXT = "".join("Line %d of a text with words, numbers like %d and signs; nothing more.\n" %
               (i, i * i * 7919) for i in range(60))
def kl(evaluate, text, other, *more, model=MODEL):
    code, out, err = run(evaluate, "kl", "--model", model, "--other", other, "--text", text, *more)
    check(code == 0 and not err, "%s: exit %d: %s" % (other, code, err))
    return json.loads(out) if code == 0 else {}


def perplexity(evaluate, model, ids, window, scratch):
    """exp of the mean negative log-likelihood, from the logits of each window by itself."""
    total, n = 0.0, 0
    for at in range(0, len(ids) - window + 1, window):
        part, out = ids[at:at + window], scratch + "/logits.npy"
        code, _, err = run(evaluate, "logits", "--model", model, "--token-ids",
                           " ".join(map(str, part)), "--out", out)
        check(code == 0, err)
        data = open(out, "rb").read()
        logits = array.array("f", data[10 + struct.unpack("<H", data[8:10])[0]:])
        n_vocab = len(logits) // window
        for t in range(window - 1):
            row = logits[t * n_vocab:(t + 1) * n_vocab]
            top = max(row)
            total -= row[part[t + 1]] - top - math.log(math.fsum(math.exp(x - top) for x in row))
            n += 1
    return math.exp(total / n)


def check_kl(evaluate, quantize, tokenize, text, scratch):
    int4 = scratch + "/int4"
    code, _, err = run(quantize, MODEL, int4, "--type", "int4")
    check(code == 0, err)
    same = kl(evaluate, text, MODEL, "--tokens", 300, "--window", 64, "-q")
    check(same["kl"] == 0 and same["rms_logit_error"] == 0 and same["same_best"] == 1 and
          same["perplexity"] == same["perplexity_other"] and same["positions"] == 256, str(same))
    other = kl(evaluate, text, int4, "--tokens", 300, "--window", 64)
    # What is skipped and the rest make the whole.
    all64, first32, late32 = (kl(evaluate, text, int4, "--tokens", *more) for more in (
        (64, "--window", 64), (32, "--window", 32), (64, "--window", 64, "--skip", 32)))
    check(late32["positions"] == 32 and first32["kl"] != late32["kl"] and
          abs(2 * all64["kl"] - first32["kl"] - late32["kl"]) < 1e-5 * all64["kl"],
          "%s is not %s and %s" % (all64, first32, late32))
    check(other["kl"] > 1e-4 and other["rms_logit_error"] > 0 and other["same_best"] < 1, str(other))
    check(other["perplexity"] == same["perplexity"] != other["perplexity_other"], str(other))
    code, out, err = run(tokenize, "encode", "--model", MODEL, stdin=json.dumps(TEXT) + "\n")
    check(code == 0, err)
    ids = json.loads(out)[:256]
    for model, got in ((MODEL, other["perplexity"]), (int4, other["perplexity_other"])):
        wanted = perplexity(evaluate, model, ids, 64, scratch)
        check(abs(got / wanted - 1) < 1e-4, "%s: perplexity %g, not %g" % (model, got, wanted))
    # Rounded first, the plain one is another model; these weights are bf16 already.
    rounded = kl(evaluate, text, int4, "--tokens", 128, "--window", 64, "--dtype", "bf16")
    plain = kl(evaluate, text, int4, "--tokens", 128, "--window", 64)
    check(rounded["perplexity"] == plain["perplexity"] and rounded["kl"] != plain["kl"],
          "%s and %s" % (rounded, plain))


def check_cache_dtype(evaluate, text):
    """Keys and values in 16 bits cost something, float16 less than bfloat16; more where a router that
    stands between two experts takes the other one."""
    for model, most in ((MODEL, 1e-3), (LATENT, 0.1)):
        costs = [kl(evaluate, text, model, "--tokens", 256, "--window", 64, "--cache-dtype", dtype,
                    model=model)["kl"] for dtype in ("f32", "f16", "bf16")]
        check(costs[0] == 0 < costs[1] < costs[2] < most, "%s: %s" % (model, costs))
    code, _, err = run(evaluate, "kl", "--model", MODEL, "--other", MODEL, "--text", text,
                       "--cache-dtype", "f8")
    check(code == 2 and "--cache-dtype is 'f8'; expected f32, f16 or bf16" in err, err)


def check_fast(evaluate, quantize, text, scratch):
    """--fast-prefill is another form of the same: its error is far below that of rounding to int8,
    which it is beside. Where there is no other form it changes nothing."""
    int8 = scratch + "/latent8"
    code, _, err = run(quantize, LATENT, int8, "--type", "int8")
    check(code == 0, err)
    plain = "--tokens", 256, "--window", 64
    of_int8 = kl(evaluate, text, int8, *plain, model=LATENT)
    for model, most in ((LATENT, 1e-3), (int8, 0.8)):
        same = kl(evaluate, text, model, *plain, model=model)
        fast = kl(evaluate, text, model, *plain, "--fast-prefill", model=model)
        check(same["rms_logit_error"] == 0, str(same))
        check(0 < fast["rms_logit_error"] < most * of_int8["rms_logit_error"] and
              abs(fast["perplexity_other"] / fast["perplexity"] - 1) < 0.01, "%s: %s beside %s" %
              (model, fast, of_int8))
        short = kl(evaluate, text, model, "--tokens", 94, "--window", 47, "--fast-prefill",
                   model=model)
        check(short["rms_logit_error"] == 0, "47 rows: %s" % short)
    other = kl(evaluate, text, MODEL, *plain, "--fast-prefill")
    check(other["rms_logit_error"] == 0, str(other))


def vectors(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    return {name: array.array("f", data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]])
            for name, t in header.items() if name != "__metadata__"}


def check_importance(quantize, text, scratch):
    """With what was measured the weighted error of every matrix is no larger, of all together
    smaller, at the cost of the plain one."""
    importance, errors = scratch + "/importance", {}
    plain = ggufwrite.read_folder(MODEL)
    for how, more in (("with", ["--importance", importance, "--calibrate", text, "--tokens", 600]),
                      ("without", [])):
        out, back = scratch + "/" + how, scratch + "/back." + how
        code, _, err = run(quantize, MODEL, out, "--type", "int4", *more)
        check(code == 0, err)
        config = json.load(open(out + "/config.json"))["quantization_config"]
        check(config["importance"] is (how == "with"), str(config))
        check(run(quantize, out, back, "--type", "bf16")[0] == 0, back)
        errors[how] = {}
        got = ggufwrite.read_folder(back)
        for name, weights in vectors(importance).items():
            n = len(weights)
            squares = [(x - y) ** 2 for x, y in zip(plain[name][1], got[name][1])]
            errors[how][name] = (sum(s * weights[i % n] for i, s in enumerate(squares)), sum(squares))
    check(len(errors["with"]) > 10 and len(errors["with"]) == len(errors["without"]),
          "%d matrices" % len(errors["with"]))
    for name, (weighted, _) in errors["with"].items():
        check(weighted <= errors["without"][name][0] * 1.001, "%s: %g" % (name, weighted))
    for i, better, worse in ((0, "with", "without"), (1, "without", "with")):
        a, b = (sum(e[i] for e in errors[how].values()) for how in (better, worse))
        check(a < 0.999 * b, "%s: %g, %s: %g" % (better, a, worse, b))


def check_refusals(evaluate, text):
    for more, says in (([], "--model, --other and --text"),
                       (["--window", "1"], "--window is '1'; expected a whole number from 2"),
                       (["--model", MODEL, "--other", MODEL, "--text", text, "--skip", "256"],
                        "--skip is 256; expected less than --window, 256"),
                       (["--dtype", "f8"], "--dtype is 'f8'"), (["--nonsense"], "usage:"),
                       (["x"], "unexpected 'x'"),
                       (["--model", MODEL, "--other", MODEL, "--text", text, "--window", "9999"],
                        "--window is 9999; expected at most the"),
                       (["--model", MODEL, "--other", MODEL, "--text", text + ".long", "--window",
                         "5000", "--tokens", "6000"],
                        "--window is 5000; expected at most max_position_embeddings of " + MODEL)):
        code, out, err = run(evaluate, "kl", *more)
        check(code == 2 and says in err and not out, "%s: exit %d: %s" % (more, code, err))
    code, out, err = run(evaluate, "kl", "--help")
    check(code == 0 and out.startswith("usage: ") and not err, out + err)


def main():
    evaluate, quantize, tokenize = (os.path.abspath(a) for a in sys.argv[1:4])
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as scratch:
        text = scratch + "/text"
        open(text, "w").write(TEXT)
        open(text + ".long", "w").write(TEXT * 10)
        check_kl(evaluate, quantize, tokenize, text, scratch)
        check_cache_dtype(evaluate, text)
        check_fast(evaluate, quantize, text, scratch)
        check_importance(quantize, text, scratch)
        check_refusals(evaluate, text)
    sys.exit(closing())


main()
