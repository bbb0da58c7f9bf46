#!/usr/bin/env python3
"""hai-convert over files that llama.cpp's llama-quantize wrote (tests/fixtures/gguf): each number is the
source's, rounded by the formula of its type.

usage: convert_peer.py HAI_CONVERT HAI_EVAL
"""
import array
import json
import os
import struct
import sys
import tempfile

from checks import check, closing, run
import ggufwrite

FOLDER = "tests/fixtures/gguf/"
CASES = (("llama", ("F16", "BF16", "Q8_0", "Q4_0")), ("deepseek2", ("F16", "Q8_0", "Q4_0")))
UNITS = {"F32": "f", "F16": "e"}


def bf16(x):
    """To the nearest bfloat16, ties to even; no infinity or NaN."""
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    bits += 0x7fff + (bits >> 16 & 1)
    return struct.unpack("<f", struct.pack("<I", bits & 0xffff0000))[0]


def rounded(values, n_row, kind):
    if kind == "F16":
        return [struct.unpack("<e", struct.pack("<e", x))[0] for x in values]
    if kind == "BF16":
        return [bf16(x) for x in values]
    if kind == "F32":
        return list(values)
    return ggufwrite.decode(ggufwrite.encode(values, n_row, kind), kind)


def from_panels(codes, scales, n_out, n_in, kind):
    """Rows of a quantised matrix of ours, as docs/formats.md and kernels/quant.h lay it out."""
    n_groups, scales = n_in // 32, struct.unpack("<%de" % (len(scales) // 2), scales)
    ret = []
    for row in range(n_out):
        panel, o = divmod(row, 16)
        for i in range(n_in):
            group = panel * n_groups + i // 32
            k = i % 32
            if kind == "Q8_0":
                code = codes[((group * 8 + k // 4) * 16 + o) * 4 + k % 4] - 128
            else:
                byte = codes[((group * 4 + k % 16 // 4) * 16 + o) * 4 + k % 4]
                code = (byte >> 4 if k >= 16 else byte & 15) - 8
            ret.append(scales[group * 16 + o] * code)
    return ret


def plain(dtype, data):
    if dtype == "BF16":
        halves = array.array("H", data)
        return list(array.array("f", array.array("I", [x << 16 for x in halves]).tobytes()))
    return list(struct.unpack("<%d%s" % (len(data) // struct.calcsize(UNITS[dtype]), UNITS[dtype]),
                              data))


def halves_of(shape, values, c):
    """What llama.cpp makes of kv_b_proj: (end of the name, rows, columns, values) by head."""
    nope, v, n_in = c["qk_nope_head_dim"], c["v_head_dim"], shape[1]
    for h in range(c["num_attention_heads"]):
        head = values[h * (nope + v) * n_in:(h + 1) * (nope + v) * n_in]
        yield h, "keys", n_in, nope, [head[r * n_in + i] for i in range(n_in) for r in range(nope)]
        yield h, "values", v, n_in, head[nope * n_in:]


def check_halves(got, name, shape, values, c, kind):
    end = ".q8" if kind == "Q8_0" else ".q4"
    for h, part, n_out, n_in, want in halves_of(shape, values, c):
        found = []
        for field in (end, ".scale"):
            _, dims, data = got["%s.%s%s" % (name, part, field)]
            n = len(data) // dims[0]
            found.append(data[h * n:(h + 1) * n])
        check(from_panels(*found, n_out, n_in, kind) == rounded(want, n_in, kind),
              "%s.%s of head %d in %s" % (name, part, h, kind))


def check_tensor(got, name, shape, values, c, kind):
    quantized = kind in ("Q8_0", "Q4_0")
    end = ".q8" if kind == "Q8_0" else ".q4"
    if quantized and name.endswith("kv_b_proj.weight"):
        check_halves(got, name, shape, values, c, kind)
    elif quantized and name + end in got:
        found = from_panels(got[name + end][2], got[name + ".scale"][2], *shape, kind)
        check(found == rounded(values, shape[1], kind), "%s in %s" % (name, kind))
    else:
        stays = len(shape) == 1 or name.endswith("mlp.gate.weight")
        check(stays or not quantized, "%s is not quantised" % name)
        check(plain(*got[name][::2]) == rounded(values, shape[-1], "F32" if stays else kind),
              "%s in %s" % (name, kind))


def check_file(convert, evaluate, model, kind, out):
    code, text, err = run(convert, FOLDER + model + "/" + kind + ".gguf", out)
    check(code == 0 and not err, "%s %s: %s%s" % (model, kind, text, err))
    source = ggufwrite.read_folder(FOLDER + model)
    got = ggufwrite.tensors_of(out)
    with open(FOLDER + model + "/config.json", encoding="utf-8") as f:
        config = json.load(f)
    for name, (shape, values) in source.items():
        check_tensor(got, name, shape, values, config, kind)
    code, text, err = run(evaluate, "logits", "--model", out, "--token-ids", "2 3 5 7", "--out",
                          out + ".npy")
    check(code == 0, "%s %s: %s" % (model, kind, err))


def main():
    convert, evaluate = (os.path.abspath(a) for a in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as scratch:
        for model, kinds in CASES:
            for kind in kinds:
                check_file(convert, evaluate, model, kind, "%s/%s.%s" % (scratch, model, kind))
    sys.exit(closing())


main()
