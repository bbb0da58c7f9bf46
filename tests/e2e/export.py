#!/usr/bin/env python3
"""hai-export end to end: a run's checkpoints become folders that run; the last one is what the run
itself wrote.

usage: export.py HAI_TRAIN HAI_EXPORT HAI_EVAL HAI_GENERATE
"""
import array
import json
import os
import struct
import sys
import tempfile

from checks import check, closing, run

MODELS = "tests/fixtures/models/"
IDS = " ".join(str((i * 37 + i * i * 11 + 5) % 250) for i in range(20))

CONFIG = """
model: {model}
out: {out}
data: {{files: [tests/fixtures/README.md, tests/fixtures/tokenizer], tokenizer: {tokenizer}}}
steps: 4
batch: 2
seq: 24
optimizer: {{lr: 0.003}}
checkpoint: {{every: 2, keep: 5}}
"""


def environment():
    return {k: v for k, v in os.environ.items() if not k.startswith("HAI_")}


def logits(evaluate, model, scratch):
    out = scratch + "/logits.npy"
    code, _, err = run(evaluate, "logits", "--model", model, "--token-ids", IDS, "--out", out)
    check(code == 0, "%s: %s" % (model, err))
    return open(out, "rb").read() if code == 0 else b""


def tensors_of(folder):
    ret = {}
    for name in os.listdir(folder):
        if name.endswith(".safetensors"):
            data = open(folder + "/" + name, "rb").read()
            n = struct.unpack("<Q", data[:8])[0]
            for key, t in json.loads(data[8:8 + n]).items():
                if key != "__metadata__":
                    first, end = t["data_offsets"]
                    ret[key] = t["dtype"], t["shape"], data[8 + n + first:8 + n + end]
    return ret


def rounded(data):
    """float32 to bf16, to the nearest, ties to even."""
    return array.array("H", [(x + 0x7fff + (x >> 16 & 1)) >> 16 & 0xffff
                             for x in array.array("I", data)]).tobytes()


def check_run(train, export, evaluate, generate, scratch, model, tokenizer):
    made, config = scratch + "/" + model, "%s/%s.yaml" % (scratch, model)
    with open(config, "w") as f:
        f.write(CONFIG.format(model=MODELS + model + "/config.json", out=made, tokenizer=tokenizer))
    code, _, err = run(train, config, env=environment())
    check(code == 0, err)
    last, first, half, cut = (scratch + "/%s.%s" % (model, n) for n in ("last", "first", "half", "cut"))
    for out, words in ((last, [made + "/ckpt", "--config", config]),
                       (first, [made + "/ckpt/step-2.E0/", "--model", MODELS + model]),
                       (half, [made + "/ckpt/step-4.E0", "--config", config, "--dtype", "bf16"]),
                       (cut, [made + "/ckpt", "--config", config, "--shard-size", "300KB"])):
        code, text, err = run(export, *words, out)
        check(code == 0 and not err, "%s: %s%s" % (words, text, err))
        check(("step 2, " if out == first else "step 4, ") in text, text)
    check(tensors_of(last) == tensors_of(made) and tensors_of(cut) == tensors_of(made), "not the run's own")
    check(len([n for n in os.listdir(cut) if n.endswith(".safetensors")]) > 1, "one shard")
    for name in os.listdir(made):
        if name.startswith("tokenizer"):
            check(open(made + "/" + name).read() == open(last + "/" + name).read(), name)
    wanted = logits(evaluate, made, scratch)
    check(logits(evaluate, last, scratch) == wanted, "other logits")
    check(logits(evaluate, cut, scratch) == wanted, "other logits from shards")
    check(logits(evaluate, first, scratch) != wanted, "step 2 is step 4")
    plain = tensors_of(made)
    logits(evaluate, half, scratch)
    for name, (dtype, shape, data) in tensors_of(half).items():
        bias = name.endswith("e_score_correction_bias")
        check(dtype == ("F32" if bias else "BF16"), "%s: %s" % (name, dtype))
        exact = plain[name][2]
        check(data == (exact if bias else rounded(exact)), "%s is not rounded" % name)
    check(json.load(open(half + "/config.json"))["torch_dtype"] == "bfloat16", "torch_dtype")
    words = ["--prompt", "The", "--max-tokens", 8, "--temperature", 0]
    ours, theirs = (run(generate, "--model", m, *words) for m in (cut, made))
    check(ours == theirs and ours[0] == 0, "%s %s" % (ours, theirs))
    return made, config


def check_refusals(export, made, config, scratch):
    ckpt, out, less = made + "/ckpt", scratch + "/refused", scratch + "/less.json"
    fields = json.load(open(made + "/config.json"))
    json.dump(dict(fields, num_nextn_predict_layers=0), open(less, "w"))
    for words, wanted in (
            ([ckpt], "a checkpoint and a new folder"), ([ckpt, out], "--model or --config"),
            ([ckpt, out, "--config", config, "--dtype", "int8"], "expected f32, bf16 or f16"),
            ([ckpt, out, "--config", config, "--shard-size", "5"], "expected a size"),
            ([ckpt, out, "--config", config, "--ema"], "no averaged weights"),
            ([ckpt, out, "--config", scratch + "/none.yaml"], "none.yaml"),
            ([ckpt, out, "--model", MODELS + "qwen2"], "no tensor"),
            ([ckpt, out, "--model", less], "has weights of"),
            ([scratch, out, "--config", config], "no complete checkpoint"),
            ([ckpt, made, "--config", config], "is there already")):
        code, text, err = run(export, *words)
        check(code == 2 and wanted in err and not text and err.startswith("hai-export: "),
              "%s: %d %s" % (words, code, err))
        check(not os.path.exists(out), "a refused folder is there")


def main():
    train, export, evaluate, generate = (os.path.abspath(a) for a in sys.argv[1:5])
    with tempfile.TemporaryDirectory() as scratch:
        made, config = check_run(train, export, evaluate, generate, scratch, "dsv3", "bytes")
        check_refusals(export, made, config, scratch)
        check_run(train, export, evaluate, generate, scratch, "qwen2_tied", "tests/fixtures/tokenizer/tiny")
    sys.exit(closing())


main()
