#!/usr/bin/env python3
"""hai-convert end to end: GGUF files made from the fixtures give the fixtures' logits and ids back.

usage: convert.py HAI_CONVERT HAI_EVAL HAI_GENERATE HAI_TOKENIZE HAI_QUANTIZE
"""
import array
import json
import os
import signal
import sys
import tempfile

from checks import check, closing, run
import ggufwrite
from ggufwrite import decode, encode, tensors_of
import hollow

MODELS = "tests/fixtures/models/"
IDS = " ".join(str((i * 37 + i * i * 11 + 5) % 500) for i in range(40))
def logits(evaluate, model, scratch):
    out = scratch + "/logits.npy"
    code, _, err = run(evaluate, "logits", "--model", model, "--token-ids", IDS, "--out", out)
    check(code == 0, "%s: %s" % (model, err))
    return open(out, "rb").read() if code == 0 else b""


def check_counts(text, folder):
    """What is said of matrices is what the folder has."""
    quantized, plain = set(), set()
    for name, (_, shape, _) in tensors_of(folder).items():
        end = name.rsplit(".", 1)[1]
        if end in ("q8", "q4"):
            quantized.add(name.rsplit(".weight", 1)[0])
        elif end == "weight" and len(shape) == 2:
            plain.add(name)
    wanted = " GB, %d matrices" % len(quantized | plain)
    wanted += ", %d of them quantised, " % len(quantized) if quantized else ", "
    check(wanted in text, "%s, not %s" % (text, wanted))


def check_plain(convert, evaluate, scratch):
    """Exact types: the same logits, bit for bit."""
    cases = (("llama_mha", "BF16", {}), ("llama_gqa", "F32", {"version": 2}),
             ("llama_linear", "BF16", {}), ("llama3_rope", "BF16", {"pre": "llama-bpe"}),
             ("qwen2", "BF16", {"pre": "qwen2"}), ("qwen2_tied", "F32", {"pre": "qwen2"}),
             ("deepseek_moe", "BF16", {"pre": "deepseek-llm"}), ("dsv2_lite", "BF16", {}),
             ("dsv2_full", "BF16", {"whole_kv_b": True}), ("dsv3", "F32", {}),
             # One type a product, whatever the file's: float32 is exact for all.
             ("llama_mha", lambda name: "F32" if "attn_k" in name or "ffn_up" in name else "BF16", {}))
    for i, (model, kind, more) in enumerate(cases):
        path, out = "%s/%d.gguf" % (scratch, i), "%s/%d" % (scratch, i)
        ggufwrite.write(MODELS + model, path, kind=kind, **more)
        code, text, err = run(convert, path, out)
        check(code == 0 and not err, model + ": " + text + err)
        check_counts(text, out)
        check(logits(evaluate, out, scratch) == logits(evaluate, MODELS + model, scratch),
              "%s %s: other logits" % (model, kind))
        config, source = (json.load(open(f + "/config.json")) for f in (out, MODELS + model))
        for field in ("model_type", "rms_norm_eps", "hidden_size", "eos_token_id"):
            check(config[field] == source[field], "%s: %s" % (model, field))


def check_quantized(convert, evaluate, quantize, scratch):
    """Q8_0 and Q4_0 keep their codes and scales: the folder written back as bf16 is what the
    blocks say."""
    for model, kind in (("llama_gqa", "Q8_0"), ("llama_gqa", "Q4_0"), ("dsv2_lite", "Q8_0"),
                        ("deepseek_moe", "Q4_0"), ("qwen2_tied", "Q8_0")):
        path, out, back = (scratch + "/" + n for n in ("q.gguf", "q." + model + kind, "b." + model + kind))
        ggufwrite.write(MODELS + model, path, kind=kind)
        code, text, err = run(convert, path, out)
        check(code == 0 and "of them quantised" in text, text + err)
        check_counts(text, out)
        names = tensors_of(out)
        end = ".q8" if kind == "Q8_0" else ".q4"
        check(any(n.endswith(end) for n in names), model)
        code, text, err = run(quantize, out, back, "--type", "bf16")
        check(code == 0, text + err)
        plain = ggufwrite.read_folder(MODELS + model)
        got = ggufwrite.read_folder(back)
        for name, (shape, values) in plain.items():
            if name + end not in names:
                continue
            wrong = sum(abs(x - y) > abs(y) * 2 ** -8
                        for x, y in zip(got[name][1], decode(encode(values, shape[1], kind), kind)))
            check(wrong == 0, "%s %s %s: %d values" % (model, kind, name, wrong))
        logits(evaluate, out, scratch)


def check_halves(convert, evaluate, scratch, quantize):
    """Quantised halves of kv_b_proj are taken over as they are, a whole one becomes float32."""
    source, path = scratch + "/plain", scratch + "/h.gguf"
    check(run(quantize, MODELS + "dsv3_fp8_act", source, "--type", "bf16")[0] == 0, "bf16")
    plain = ggufwrite.read_folder(source)
    for kind, whole, bound in (("Q8_0", False, 0.1), ("Q8_0", True, 0.1), ("Q4_0", True, 1.0)):
        out = "%s/halves.%s.%d" % (scratch, kind, whole)
        ggufwrite.write(source, path, kind=kind, whole_kv_b=whole)
        code, text, err = run(convert, path, out)
        check(code == 0, text + err)
        check_counts(text, out)
        tensors = tensors_of(out)
        check(any(n.endswith("kv_b_proj.weight.keys.q8") for n in tensors) != whole, "halves")
        for name in (n for n in plain if whole and n.endswith("kv_b_proj.weight")):
            shape, values = plain[name]
            dtype, _, data = tensors.get(name, ("none", [], b""))
            check(dtype == "F32" and
                  list(array.array("f", data)) == decode(encode(values, shape[1], kind), kind),
                  "%s %s as %s" % (kind, name, dtype))
        a, b = (array.array("f", logits(evaluate, m, scratch)[128:]) for m in (out, source))
        rows = sorted((sum((x - y) ** 2 for x, y in zip(a[i:i + 512], b[i:i + 512])) /
                       sum(y * y for y in b[i:i + 512])) ** 0.5 for i in range(0, len(b), 512))
        check(rows and rows[len(rows) // 2] < bound, "%s: logits differ by %s" % (out, rows))


def check_text(convert, generate, tokenize, scratch):
    """The tokenizer gives the same ids, and text comes out."""
    path, out = scratch + "/t.gguf", scratch + "/text"
    ggufwrite.write(MODELS + "dsv3", path, kind="BF16")
    check(run(convert, path, out)[0] == 0, "convert")
    lines = "".join(json.dumps(t) + "\n" for t in (
        "Hello! 1234 + 5 = 六, <\uff5cUser\uff5c> x\n\n  tabs\t", "中文 and ひらがな", "don't", ""))
    ours = run(tokenize, "encode", "--model", out, stdin=lines)
    theirs = run(tokenize, "encode", "--model", MODELS + "dsv3", stdin=lines)
    check(ours == theirs and ours[0] == 0, "%s\n%s" % (ours, theirs))
    ours = run(generate, "--model", out, "--prompt", "Hello", "--max-tokens", 8)
    theirs = run(generate, "--model", MODELS + "dsv3", "--prompt", "Hello", "--max-tokens", 8)
    check(ours == theirs and ours[0] == 0, "%s %s" % (ours, theirs))
    config, source = (json.load(open(f + "/tokenizer_config.json")) for f in (out, MODELS + "dsv3"))
    for field in ("chat_template", "bos_token", "eos_token", "add_bos_token"):
        check(config[field] == source[field], field)
    # Where the file does not say whether a text begins with the begin token, its series does.
    silent = lambda w: w.keys.__setitem__(slice(None), [k for k in w.keys if not k.startswith(
        w.text("tokenizer.ggml.add_bos_token"))])
    says_no = lambda w: (silent(w), w.key("tokenizer.ggml.add_bos_token", "bool", 0))
    for i, (pre, change, whole, begins) in enumerate((
            ("llama-bpe", silent, True, True), ("llama-bpe", says_no, True, False),
            ("qwen2", silent, False, False), ("deepseek-v3", silent, False, False))):
        out = "%s/words.%d" % (scratch, i)
        ggufwrite.write(MODELS + "llama3_rope", path, kind="BF16", pre=pre, change=change)
        check(run(convert, path, out)[0] == 0, "convert")
        words, config = (json.load(open(out + "/" + n)) for n in ("tokenizer.json",
                                                                  "tokenizer_config.json"))
        check(words["model"]["ignore_merges"] is whole, "%s: ignore_merges" % pre)
        check(config["add_bos_token"] is begins, "%s: add_bos_token" % pre)


def check_refusals(convert, scratch):
    model, path, out = MODELS + "qwen2_tied", scratch + "/r.gguf", scratch + "/refused"

    def drop(name):
        return lambda w: w.tensors.__setitem__(slice(None), [t for t in w.tensors if t[0] != name])

    def replace(key, kind, value):
        def change(w):
            w.keys[:] = [k for k in w.keys if not k.startswith(w.text(key))]
            w.key(key, kind, value)
        return change

    for change, wanted in (
            (replace("general.architecture", "str", "gemma"), "architecture is gemma"),
            (replace("qwen2.sliding_window", "u32", 128), "qwen2.sliding_window"),
            (replace("qwen2.block_count", "str", "three"), "block_count: expected a whole number"),
            (replace("qwen2.block_count", "u32", 4), "blk.3."),
            (replace("qwen2.block_count", "u32", 2), "blk.2."),
            (replace("qwen2.feed_forward_length", "u32", 96), "has shape"),
            (replace("qwen2.rope.scaling.type", "str", "dynamic"), "rope.scaling"),
            (replace("tokenizer.ggml.pre", "str", "poro"), "tokenizer.ggml.pre is poro"),
            (replace("tokenizer.ggml.model", "str", "llama"), "tokenizer.ggml.model"),
            (replace("tokenizer.ggml.tokens", "strs", [b"\xff"]), "no text in UTF-8"),
            (replace("tokenizer.ggml.token_type", "i32s", [1]), "a number for each token"),
            (drop("blk.0.attn_q.weight"), "no tensor blk.0.attn_q.weight"),
            (lambda w: w.tensor("blk.0.more", [32], "F32", bytes(128)), "blk.0.more"),
            (lambda w: w.tensor("blk.0.more", [256], "Q6_K", bytes(210)), "blk.0.more")):
        ggufwrite.TYPES["Q6_K"] = 14
        ggufwrite.write(model, path, kind="F32", pre="qwen2", change=change)
        code, _, err = run(convert, path, out)
        check(code == 2 and wanted in err and err.count("\n") == 1, "%s: %d %s" % (wanted, code, err))
        check(not os.path.exists(out), "a refused folder is there")
    ggufwrite.write(model, path, kind="F32", pre="poro")
    check(run(convert, path, out, "--no-tokenizer")[0] == 0, "--no-tokenizer")
    code, _, err = run(convert, path, out, "--no-tokenizer")
    check(code == 2 and "is there already" in err, err)
    code, _, err = run(convert, MODELS + "qwen2_tied/model.safetensors", scratch + "/x")
    check(code == 2 and "not a GGUF file" in err, err)


def check_signals(convert, scratch):
    """What was begun is removed."""
    path, out = scratch + "/hollow.gguf", scratch + "/interrupted"
    hollow.gguf(path)
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        code, err, left = hollow.interrupt([convert, path, out, "--no-tokenizer"], out, number)
        check(code == status and err.count("\n") == 1 and not left,
              "%s: exit %s, %s left: %s" % (number, code, left, err))


def main():
    convert, evaluate, generate, tokenize, quantize = (os.path.abspath(a) for a in sys.argv[1:6])
    with tempfile.TemporaryDirectory() as scratch:
        check_plain(convert, evaluate, scratch)
        check_quantized(convert, evaluate, quantize, scratch)
        check_halves(convert, evaluate, scratch, quantize)
        check_text(convert, generate, tokenize, scratch)
        check_refusals(convert, scratch)
        check_signals(convert, scratch)
    sys.exit(closing())


main()
