#!/usr/bin/env python3
"""hai-train from weights: every architecture and float type, checkpoints, refusals by name.

usage: train_init.py HAI_TRAIN HAI_EXPORT
"""
import array
import json
import os
import shutil
import struct
import sys
import tempfile

from checks import check, closing, run

MODELS = "tests/fixtures/models/"
# The rate is too small to move anything but values near zero: what comes out is what went in.
CONFIG = """
init: {init}
out: {out}
data: {{files: [tests/fixtures/README.md]{tokenizer}}}
steps: 2
batch: 1
seq: 16
optimizer: {{lr: 1.0e-12, weight_decay: 0}}
loss: {{bias_rate: 0}}
checkpoint: {{every: 1}}
"""


def small(code, exponent_bits, mantissa_bits):
    """The value of a float of 8 bits without infinities (E4M3) or of 16 bits (F16)."""
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
    exponent = code >> mantissa_bits & ((1 << exponent_bits) - 1)
    mantissa = code & ((1 << mantissa_bits) - 1)
    bias = (1 << (exponent_bits - 1)) - 1
    if not exponent:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * ((1 << mantissa_bits) + mantissa) * 2.0 ** (exponent - bias - mantissa_bits)


E4M3 = [small(code, 4, 3) for code in range(256)]


def values(dtype, data):
    if dtype == "F32":
        return array.array("f", data)
    if dtype == "BF16":
        return array.array("f", b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2)))
    if dtype == "F16":
        return [small(v, 5, 10) for v in array.array("H", data)]
    return [E4M3[v] for v in data]


def tensors(folder):
    """Name: (shape, values as float32), scales of 8-bit floats applied; and the types seen."""
    raw, found, dtypes = {}, {}, set()
    for name in sorted(os.listdir(folder)):
        if not name.startswith("model") or not name.endswith(".safetensors"):
            continue
        data = open(folder + "/" + name, "rb").read()
        n = struct.unpack_from("<Q", data)[0]
        for key, t in json.loads(data[8:8 + n]).items():
            if key != "__metadata__":
                begin, end = (8 + n + at for at in t["data_offsets"])
                raw[key] = (t["dtype"], t["shape"], data[begin:end])
    for key, (dtype, shape, data) in raw.items():
        if key.endswith("_scale_inv"):
            continue
        dtypes.add(dtype)
        v = values(dtype, data)
        if dtype.startswith("F8"):
            scales, width = values("F32", raw[key + "_scale_inv"][2]), (shape[1] + 127) // 128
            v = array.array("f", [x * scales[i // shape[1] // 128 * width + i % shape[1] // 128]
                                  for i, x in enumerate(v)])
        found[key] = (shape, v)
    return found, dtypes


def train(program, scratch, init, out, extra="", tokenizer=""):
    config = scratch + "/train.yaml"
    with open(config, "w") as f:
        f.write(CONFIG.format(init=init, out=out, tokenizer=tokenizer) + extra)
    env = {k: v for k, v in os.environ.items() if not k.startswith("HAI_")}
    code, _, err = run(program, config, env=env)
    return code, err


def same(folder, other, name):
    a, b = tensors(folder)[0], tensors(other)[0]
    # The multi-token module's copies of embedding and head are not written.
    check(set(b) <= set(a) and all(".layers." in k for k in set(a) - set(b)),
          "%s: %s" % (name, set(a) ^ set(b)))
    for key, (shape, v) in b.items():
        check(a[key][0] == shape, key)
        worst = max(abs(x - y) for x, y in zip(a[key][1], v))
        check(worst < 1e-10, "%s: %s is off by %g" % (name, key, worst))


def check_architectures(program, scratch):
    seen = set()
    for model in sorted(os.listdir(MODELS)):
        out = scratch + "/" + model
        code, err = train(program, scratch, MODELS + model, out)
        check(code == 0 and "weights of " + MODELS + model in err, model + ": " + err)
        same(MODELS + model, out, model)
        seen |= tensors(MODELS + model)[1]
        config = json.load(open(out + "/config.json"))
        check(config["torch_dtype"] == "float32" and "quantization_config" not in config, str(config))
        check(os.path.exists(out + "/tokenizer.json"), "the tokenizer of " + model)
    check("F8_E4M3" in seen, str(seen))


def check_types(program, export, scratch):
    """Checkpoints, and 16-bit folders made of them; a run that is resumed does not look at init."""
    made = scratch + "/qwen2_tied"
    for dtype in ("bf16", "f16"):
        half = scratch + "/" + dtype
        code, _, err = run(export, made + "/ckpt", half, "--model", made, "--dtype", dtype)
        check(code == 0, err)
        code, err = train(program, scratch, half, half + "-out")
        check(code == 0, err)
        check(dtype.upper() in tensors(half)[1], dtype)
        same(half, half + "-out", dtype)
    for i, init in enumerate((made + "/ckpt", made + "/ckpt/step-1.E0")):
        out = "%s/ckpt-%d" % (scratch, i)
        code, err = train(program, scratch, init, out, "model: %s\n" % made)
        check(code == 0, err)
        same(made, out, init)
    code, err = train(program, scratch, init, scratch + "/none")
    check(code == 2 and "'model' is missing" in err, err)
    shutil.rmtree(scratch + "/bf16-out/ckpt/step-2.E0")
    code, err = train(program, scratch, scratch + "/gone", scratch + "/bf16-out",
                      "model: %s\n" % made, ", tokenizer: " + half)
    check(code == 0 and "resumed from" in err, err)


def rename(folder, old, new):
    """Names of the same length keep the header's."""
    with open(folder + "/model.safetensors", "r+b") as f:
        data = f.read()
        check(old in data, str(old))
        f.seek(0)
        f.write(data.replace(old, new))


def check_refusals(program, scratch):
    base, broken = MODELS + "llama_mha", scratch + "/broken"
    fields = json.load(open(base + "/config.json"))
    cases = []
    for field, value, says in (("intermediate_size", 2 * fields["intermediate_size"], "intermediate_size"),
                               ("num_attention_heads", fields["num_attention_heads"] // 2, "num_attention_heads"),
                               ("rope_theta", 5.0, None), ("max_position_embeddings", 64, None)):
        with open(scratch + "/config.json", "w") as f:
            json.dump({**fields, field: value}, f)
        cases.append((says, train(program, scratch, base, scratch + "/refused-" + field,
                                  "model: %s/config.json\n" % scratch)))
    shutil.copytree(base, broken)
    rename(broken, b"model.layers.0.mlp.up_proj", b"model.layers.0.mlp.uq_proj")
    cases.append(("model.layers.0.mlp.uq_proj", train(program, scratch, broken, scratch + "/r1")))
    cases.append(("expected a model's folder with config.json, or checkpoints",
                  train(program, scratch, scratch + "/void", scratch + "/r2", "model: %s\n" % base)))
    # A tensor of another shape, in a folder whose config.json hides it.
    shutil.rmtree(broken)
    shutil.copytree(base, broken)
    with open(broken + "/config.json", "w") as f:
        json.dump({**fields, "intermediate_size": 2 * fields["intermediate_size"]}, f)
    cases.append(("mlp.gate_proj.weight", train(program, scratch, broken, scratch + "/r3")))
    for says, (code, err) in cases:
        if says:
            check(code in (1, 2) and says in err, "%s: %d %s" % (says, code, err))
        else:
            check(code == 0, err)


def main():
    program, export = map(os.path.abspath, sys.argv[1:3])
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as scratch:
        check_architectures(program, scratch)
        check_types(program, export, scratch)
        check_refusals(program, scratch)
    return closing()


if __name__ == "__main__":
    sys.exit(main())
