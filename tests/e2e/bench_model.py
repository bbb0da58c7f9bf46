#!/usr/bin/env python3
"""hai-bench: what it makes runs, and what it measures hangs together.

usage: bench_model.py HAI_BENCH HAI_GENERATE
"""
import json
import os
import sys
import tempfile

from checks import check, closing, run

MODELS = "tests/fixtures/models/"
def weights(folder):
    return open(folder + "/model.safetensors", "rb").read()


def check_make(bench, generate, scratch):
    sizes = {}
    for dtype in ("bf16", "f32", "fp8"):
        made = scratch + "/" + dtype
        code, out, err = run(bench, "--make", made, "--like", "tiny", "--dtype", dtype,
                             "--threads", 1)
        check(code == 0 and not out and not err, "--make %s: exit %d: %s" % (dtype, code, err))
        sizes[dtype] = len(weights(made))
        code, out, err = run(generate, "--model", made, "--prompt", "Hello", "--max-tokens", 8,
                             "--ignore-eos", "--print-ids")
        check(code == 0 and len(set(json.loads(out))) > 1, "%s: %s%s" % (dtype, out, err))
    check(sizes["f32"] > 1.9 * sizes["bf16"] > 2 * sizes["fp8"], str(sizes))
    again, other = scratch + "/again", scratch + "/other"
    run(bench, "--make", again, "--like", "tiny", "--threads", 3)
    check(weights(again) == weights(scratch + "/bf16"), "threads change the values")
    run(bench, "--make", other, "--like", "tiny", "--seed", 1)
    check(weights(other) != weights(again), "the seed does not change the values")
    left = [n for n in os.listdir(scratch) if ".tmp" in n]
    check(not left and sorted(os.listdir(again)) == ["config.json", "model.safetensors",
                                                     "tokenizer_config.json"], "left: %s" % left)
    code, _, err = run(bench, "--make", again, "--like", "tiny")
    check(code == 2 and "is there already" in err, "%d %s" % (code, err))


def check_numbers(bench, model, *more):
    code, out, err = run(bench, "--model", model, "--context", "0,70", "--prefill", 33,
                         "--decode", 5, "--repeat", 3, "--requests", 4, "--json", *more)
    check(code == 0 and not err, "%s: exit %d: %s" % (model, code, err))
    if code:
        return
    got = json.loads(out)
    check(got["weights_bytes"] >= got["token_bytes"] > 0, out)
    check(got["peak_rss_bytes"] > got["peak_private_bytes"] > 0, out)
    check([c["context_tokens"] for c in got["contexts"]] == [0, 70], out)
    spreads = [got["requests_tokens_per_s"], got["requests_first_token_s"], got["requests_gap_s"],
               got["first_token_warm_s"]]
    for c in got["contexts"]:
        spreads += [c["prefill_tokens_per_s"], c["decode_tokens_per_s"]]
        rate = c["decode_tokens_per_s"]["median"] * got["token_bytes"]
        check(abs(c["decode_bytes_per_s"] / rate - 1) < 1e-9, out)
    for s in spreads:
        check(0 < s["least"] <= s["median"] <= s["most"], str(s))
    check(got["requests_first_token_s"]["n"] == 4 and got["requests_gap_s"]["n"] == 16, out)
    cold = got["first_token_cold_s"]
    check(cold is None or cold["least"] > 0, out)


def check_modes(bench):
    """What ran is said: the option, and whether the model has another form."""
    for model, options, says, same in (
            ("dsv3", [], "row-invariant prefill", True),
            ("dsv3", ["--fast-prefill"], "fast prefill", False),
            ("llama_mha", ["--fast-prefill"], "row-invariant prefill (this model has no other)",
             True)):
        common = ["--model", MODELS + model, "--prefill", 64, "--decode", 2, "--repeat", 1,
                  "--no-first", *options]
        code, out, err = run(bench, *common)
        check(code == 0 and out.splitlines()[0].endswith(", " + says), out + err)
        code, out, err = run(bench, *common, "--json")
        check(code == 0 and json.loads(out)["row_invariant"] is same, out + err)


def check_text(bench):
    code, out, err = run(bench, "--model", MODELS + "llama_mha", "--prefill", 8, "--decode", 2,
                         "--repeat", 1, "--no-first")
    lines = out.splitlines()
    check(code == 0 and "kernel path" in lines[0] and lines[3].startswith("CONTEXT") and
          lines[4].split()[0] == "0" and "first token" not in out, out + err)


def check_bad(bench, scratch):
    model = ["--model", MODELS + "llama_mha"]
    for options, says, status in [
            ([], "expected one of --model and --make", 2),
            (model + ["--like", "tiny"], "go together", 2),
            (["--make", scratch + "/x", "--like", "v9"], "expected tiny, coder-1.3b", 2),
            (["--make", scratch + "/x", "--like", "tiny", "--dtype", "f16"], "--dtype is 'f16'", 2),
            (model + ["--dtype", "fp8"], "--dtype is 'fp8'", 2),
            (model + ["--context", "0,x"], "--context is 'x'", 2),
            (model + ["--context", "9000"], "max_position_embeddings", 2),
            (model + ["--prefill", "0"], "--prefill is '0'", 2),
            (model + ["--repeat", "101"], "--repeat is '101'", 2),
            (["--model", scratch + "/none"], "none/config.json", 2),
            (model + ["more"], "unexpected 'more'", 2),
            (model + ["--nonsense"], "usage:", 2)]:
        code, out, err = run(bench, *options)
        check(code == status and says in err and not out, "%s: %d %s" % (options, code, err))
    code, out, _ = run(bench, "--help")
    check(code == 0 and out.startswith("usage:"), out)


def main():
    bench, generate = (os.path.abspath(p) for p in sys.argv[1:3])
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as scratch:
        check_make(bench, generate, scratch)
        for name in ("llama_gqa", "dsv2_lite", "qwen2_tied"):
            check_numbers(bench, MODELS + name)
        check_numbers(bench, scratch + "/fp8", "--cache-dtype", "f16", "--threads", 2)
        check_text(bench)
        check_modes(bench)
        check_bad(bench, scratch)
    sys.exit(closing())


main()
