#!/usr/bin/env python3
"""hai-merge end to end: means and task vectors as Python computes them, the result runs, refusals.

usage: merge.py HAI_MERGE HAI_EVAL
"""
import array
import json
import os
import shutil
import signal
import struct
import sys
import tempfile

from checks import check, closing, run
import hollow

MODELS = "tests/fixtures/models/"
IDS = " ".join(str((i * 37 + i * i * 11 + 5) % 500) for i in range(40))


def logits(evaluate, model, scratch):
    out = scratch + "/logits.npy"
    code, _, err = run(evaluate, "logits", "--model", model, "--token-ids", IDS, "--out", out)
    check(code == 0, "%s: %s" % (model, err))
    return open(out, "rb").read() if code == 0 else b""


def tensors_of(folder):
    """Name -> file, type, bytes."""
    ret = {}
    for name in sorted(os.listdir(folder)):
        if not name.startswith("model") or not name.endswith(".safetensors"):
            continue
        data = open(folder + "/" + name, "rb").read()
        n = struct.unpack("<Q", data[:8])[0]
        for key, t in json.loads(data[8:8 + n]).items():
            if key != "__metadata__":
                first, end = t["data_offsets"]
                ret[key] = name, t["dtype"], data[8 + n + first:8 + n + end]
    return ret


def changed(model, to, factor):
    """A copy of a folder with all numbers times a power of two, which is exact: to their exponents."""
    shutil.copytree(model, to)
    for name in os.listdir(to):
        if not name.startswith("model") or not name.endswith(".safetensors"):
            continue
        data = open(to + "/" + name, "rb").read()
        n = struct.unpack("<Q", data[:8])[0]
        body = bytearray(data[8 + n:])
        for key, t in json.loads(data[8:8 + n]).items():
            if key != "__metadata__":
                first, end = t["data_offsets"]
                body[first:end] = encode(t["dtype"], [x * factor for x in
                                                      decode(t["dtype"], body[first:end])])
        open(to + "/" + name, "wb").write(data[:8 + n] + bytes(body))


def decode(dtype, data):
    if dtype == "F32":
        return array.array("f", bytes(data))
    return array.array("f", b"".join(b"\0\0" + bytes(data[i:i + 2]) for i in range(0, len(data), 2)))


def encode(dtype, values):
    """To the nearest, ties to even."""
    a = array.array("f", values)
    if dtype == "F32":
        return a.tobytes()
    bits = array.array("I", a.tobytes())
    return array.array("H", [(x + 0x7fff + (x >> 16 & 1)) >> 16 & 0xffff for x in bits]).tobytes()


def check_sums(merge, evaluate, scratch):
    for model, cases in (
            ("llama_gqa", ((["A:0.5", "B:0.5"], 0.5, 0.5), (["A", "B"], 0.5, 0.5),
                           (["A:3", "B:1"], 0.75, 0.25), (["A", "--add", "B:0.7"], 0.3, 0.7),
                           (["A", "--add", "B:-0.5"], 1.5, -0.5))),
            ("dsv3", ((["A:0.3", "B:0.7"], 0.3, 0.7), (["A", "--add", "B:1"], 0, 1))),
            ("qwen2_tied", ((["B:0.3", "A:0.7"], 0.7, 0.3),))):
        a, b = MODELS + model, scratch + "/b." + model
        changed(a, b, 0.5)
        plain = tensors_of(a)
        for i, (words, of_a, of_b) in enumerate(cases):
            out = "%s/%s.%d" % (scratch, model, i)
            words = [w.replace("A", a).replace("B", b) for w in words]
            code, text, err = run(merge, out, *words)
            check(code == 0 and not err, "%s: %s%s" % (words, text, err))
            got = tensors_of(out)
            check(set(got) == set(plain), "%s: other tensors" % words)
            for name, (file, dtype, data) in plain.items():
                x = decode(dtype, data)
                table = name.endswith(".inv_freq") # no weights: the first model's
                wanted = data if table else encode(dtype, [of_a * v + of_b * (v * 0.5) for v in x])
                check(got.get(name) == (file, dtype, wanted), "%s: %s" % (words, name))
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
                check(open(out + "/" + name).read() == open(a + "/" + name).read(), name)
            check(logits(evaluate, out, scratch) != logits(evaluate, a, scratch), "same logits")


def check_same(merge, evaluate, scratch):
    """What changes nothing changes no bit of the logits."""
    for model in ("llama_gqa", "dsv2_full", "dsv3", "qwen2_tied", "deepseek_moe"):
        a, b, wanted = MODELS + model, scratch + "/other." + model, logits(evaluate, MODELS + model, scratch)
        changed(a, b, 2)
        for i, words in enumerate(([a, a, a], [a, "--add", b + ":0"], [a + ":1", "--dtype", "f32", a + ":2"])):
            out = "%s/same.%s.%d" % (scratch, model, i)
            code, text, err = run(merge, out, *words)
            check(code == 0, "%s: %s%s" % (words, text, err))
            check(logits(evaluate, out, scratch) == wanted, "%s: other logits" % words)
        check(json.load(open(out + "/config.json"))["torch_dtype"] == "float32", "torch_dtype")


def check_refusals(merge, scratch):
    a, out = MODELS + "llama_gqa", scratch + "/refused"
    for words, wanted in (
            ([a], "two or more folders"), ([], "expected OUT and folders"),
            ([a, a + ":0.5"], "a weight for every folder, or for none"),
            ([a + ":0", a + ":1"], "expected one above 0"), ([a + ":-1", a + ":2"], "expected one above 0"),
            ([a + ":inf", a + ":1"], "not finite"), ([a, "--add", a], "--add needs a weight"),
            ([a + ":1", "--add", a + ":1"], "one base, without a weight"),
            ([a, a, "--add", a + ":1"], "one base, without a weight"),
            ([a, a, "--dtype", "fp8"], "expected f32, bf16 or f16"), ([a, a, "--threads", "0"], "--threads"),
            ([a, MODELS + "llama_mha"], "intermediate_size is 344"), ([a, MODELS + "qwen2"], "model_type is qwen2"),
            ([a, MODELS + "llama_linear"], "rope_scaling"), ([MODELS + "dsv3", MODELS + "dsv3_fp8"], "is quantised"),
            ([a, scratch + "/none"], "none/config.json")):
        code, text, err = run(merge, out, *words)
        check(code == 2 and wanted in err and not text and err.startswith("hai-merge: "), "%s: %d %s" % (words, code, err))
        check(not os.path.exists(out), "a refused folder is there")
    code, _, err = run(merge, scratch, a, a)
    check(code == 2 and "is there already" in err, err)
    code, text, _ = run(merge, "--help")
    check(code == 0 and "usage: hai-merge OUT" in text, text)


def check_signals(merge, scratch):
    """What was begun is removed."""
    source, out = scratch + "/hollow", scratch + "/interrupted"
    hollow.folder(source)
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        code, err, left = hollow.interrupt([merge, out, source, source], out, number)
        check(code == status and err.count("\n") == 1 and not left,
              "%s: exit %s, %s left: %s" % (number, code, left, err))


def main():
    merge, evaluate = (os.path.abspath(a) for a in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as scratch:
        check_sums(merge, evaluate, scratch)
        check_same(merge, evaluate, scratch)
        check_refusals(merge, scratch)
        check_signals(merge, scratch)
    sys.exit(closing())


main()
