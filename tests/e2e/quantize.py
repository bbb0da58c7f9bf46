#!/usr/bin/env python3
"""hai-quantize end to end: quantised folders run, come near, go back; what it refuses.

usage: quantize.py HAI_QUANTIZE HAI_EVAL HAI_GENERATE
"""
import array
import filecmp
import json
import math
import os
import shutil
import signal
import statistics
import struct
import sys
import tempfile

from checks import check, closing, run
import hollow

MODELS = "tests/fixtures/models/"
IDS = " ".join(str((i * 37 + i * i * 11 + 5) % 500) for i in range(48))
def logits(evaluate, model, scratch, *more):
    out = scratch + "/logits.npy"
    code, _, err = run(evaluate, "logits", "--model", model, "--token-ids", IDS, "--out", out, *more)
    check(code == 0, "%s: %s" % (model, err))
    if code:
        return array.array("f", [0])
    data = open(out, "rb").read()
    a = array.array("f")
    a.frombytes(data[10 + struct.unpack("<H", data[8:10])[0]:])
    return a


def distances(a, b):
    """RMS difference over RMS of b, for each token."""
    check(len(a) == len(b), "%d and %d logits" % (len(a), len(b)))
    rows = [(a[i:i + 512], b[i:i + 512]) for i in range(0, len(b), 512)]
    return [math.sqrt(sum((x - y) ** 2 for x, y in zip(*row)) / sum(y * y for y in row[1]))
            for row in rows]


def distance(a, b):
    """The median over tokens: one whose experts changed counts once."""
    return statistics.median(distances(a, b))


def header(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n]), 8 + n


def check_metadata(model, folder, kind):
    tensors, start = header(folder + "/model.safetensors")
    meta = tensors.pop("__metadata__")
    check(meta == {"format": "pt", "hai_quant": kind, "hai_quant_layout": "1",
                   "hai_quant_group": "32"}, "metadata %s" % meta)
    config = json.load(open(folder + "/config.json"))
    quant = config.pop("quantization_config")
    source = json.load(open(MODELS + model + "/config.json"))
    source.pop("quantization_config", None)
    check(config == source, "%s: config.json says something else" % model)
    check(quant["quant_method"] == "hai" and quant["format"] == kind and quant["layout"] == 1 and
          quant["group"] == 32 and quant["importance"] is False, str(quant))
    check("model.embed_tokens.weight" in quant["kept"], str(quant))
    plain = [n for n, t in tensors.items() if len(t["shape"]) == 2 and ".keys." not in n
             and ".values." not in n]
    for name in plain:
        pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
        check(pattern in quant["kept"], "%s is not listed" % name)
    for name, t in tensors.items():
        if name.endswith((".q8", ".q4", ".scale")):
            check((start + t["data_offsets"][0]) % 64 == 0, "%s is not aligned" % name)
    return tensors


def check_models(quantize, evaluate, scratch):
    """Logits: of whole numbers near the model's, of the folder back nearer still, whatever threads
    and backend."""
    bounds = {"int8": 0.07, "int4": 0.7}
    beside_ref = []
    for model in ("llama_gqa", "deepseek_moe", "dsv2_lite", "dsv3_fp8_act", "qwen2_tied"):
        plain = logits(evaluate, MODELS + model, scratch)
        for kind, bound in bounds.items():
            out, back = "%s/%s.%s" % (scratch, model, kind), "%s/%s.back" % (scratch, model)
            code, text, err = run(quantize, MODELS + model, out, "--type", kind)
            check(code == 0 and "matrices as " + kind in text, text + err)
            names = check_metadata(model, out, kind)
            check((model == "dsv3_fp8_act") == any(".keys." in n for n in names), model)
            got = logits(evaluate, out, scratch)
            check(0 < distance(got, plain) < bound, "%s %s: %g" % (model, kind, distance(got, plain)))
            ref = logits(evaluate, out, scratch, "--backend", "ref")
            # An activation on the edge between two codes may fall either way, as its last bit does,
            # and every later token sees it. Until then both say the same.
            beside_ref += distances(got, ref)
            check(distance(got, ref) < bounds["int8"], "%s %s: ref differs by %g" %
                  (model, kind, distance(got, ref)))
            code, text, err = run(quantize, out, back, "--type", "bf16", "--threads", 1)
            check(code == 0, text + err)
            check("quantization_config" not in json.load(open(back + "/config.json")), back)
            check(not any(n.endswith((".q8", ".q4", ".scale", "_scale_inv"))
                          for n in header(back + "/model.safetensors")[0]), back)
            # The same weights, activations not rounded. A tied head's own values are not kept.
            near = distance(got, logits(evaluate, back, scratch))
            check(near < (bound if model == "qwen2_tied" else 0.06), "%s %s: back differs by %g" % (model, kind, near))
            flat = distance(logits(evaluate, out, scratch, "--dtype", "bf16"),
                            logits(evaluate, back, scratch, "--dtype", "bf16"))
            check(flat == 0, "%s %s: read as bf16: %g" % (model, kind, flat))
            shutil.rmtree(back)
    same = sum(d < 1e-3 for d in beside_ref)
    check(same > 0.6 * len(beside_ref), "of %d tokens %d are as on ref" % (len(beside_ref), same))


def check_fp8(quantize, evaluate, scratch):
    """FP8 of any architecture: as DeepSeek-V3's folders are, near the model, and back."""
    for model in ("llama_gqa", "deepseek_moe", "dsv2_lite", "dsv3", "qwen2_tied"):
        out, back = "%s/%s.fp8" % (scratch, model), "%s/%s.back" % (scratch, model)
        code, text, err = run(quantize, MODELS + model, out, "--type", "fp8")
        check(code == 0 and "matrices as fp8" in text, text + err)
        said = json.load(open(out + "/config.json"))["quantization_config"]
        check(said == {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                       "weight_block_size": [128, 128]}, str(said))
        tensors, _ = header(out + "/model.safetensors")
        tensors.pop("__metadata__")
        narrow = {n for n, t in tensors.items() if t["dtype"] == "F8_E4M3"}
        check(narrow and {n + "_scale_inv" for n in narrow} ==
              {n for n in tensors if n.endswith("_scale_inv")}, "%s: %s" % (model, sorted(tensors)))
        check(not any("norm" in n or "embed" in n or "mlp.gate.w" in n or "head" in n
                      for n in narrow), str(sorted(narrow)))
        got = logits(evaluate, out, scratch)
        far = distance(got, logits(evaluate, MODELS + model, scratch))
        check(0 < far < 0.4, "%s: %g" % (model, far))
        code, text, err = run(quantize, out, back, "--type", "bf16")
        check(code == 0 and distance(got, logits(evaluate, back, scratch)) < 0.02, text + err)


def check_head(quantize, evaluate, scratch):
    """The output matrix alone in 8 bits: larger by 4 bits a weight of it, and nearer."""
    plain = logits(evaluate, MODELS + "llama_gqa", scratch)
    far = []
    for more in ((), ("--head", "int8")):
        out = scratch + "/head%d" % len(more)
        code, text, err = run(quantize, MODELS + "llama_gqa", out, "--type", "int4", *more)
        check(code == 0, text + err)
        names = [n for n in header(out + "/model.safetensors")[0] if n.endswith(".q8")]
        check(names == (["lm_head.weight.q8"] if more else []), str(names))
        far.append(distance(logits(evaluate, out, scratch), plain))
    check(far[1] < far[0], str(far))


def check_files(quantize, scratch):
    """Other files come along, weights do not; the same bytes again; an existing folder is left."""
    source = scratch + "/source"
    shutil.copytree(MODELS + "llama_gqa", source)
    open(source + "/pytorch_model.bin", "w").write("old weights")
    open(source + "/LICENSE", "w").write("free")
    outs = [scratch + "/first", scratch + "/second/"]
    for i, out in enumerate(outs):
        code, text, err = run(quantize, source, out, "--type", "int4", "--threads", 1 + i)
        check(code == 0, text + err)
    names = sorted(os.listdir(outs[0]))
    check(names == ["LICENSE", "config.json", "generation_config.json", "golden.json",
                    "model.safetensors", "tokenizer.json", "tokenizer_config.json"], str(names))
    match, mismatch, errors = filecmp.cmpfiles(*outs, names, shallow=False)
    check(not mismatch and not errors, "differ: %s %s" % (mismatch, errors))
    code, _, err = run(quantize, source, outs[0], "--type", "int8")
    check(code == 2 and "is there already" in err, "%d %s" % (code, err))
    check(sorted(os.listdir(outs[0])) == names, "an existing folder was changed")
    left = [n for n in os.listdir(scratch) if ".tmp" in n]
    check(not left, "left behind: %s" % left)


def check_signals(quantize, scratch):
    """What was begun is removed."""
    source, out = scratch + "/hollow", scratch + "/interrupted"
    hollow.folder(source)
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        code, err, left = hollow.interrupt([quantize, source, out, "--type", "int4"], out, number)
        check(code == status and err.count("\n") == 1 and not left,
              "%s: exit %s, %s left: %s" % (number, code, left, err))


def check_out(quantize, scratch):
    """Where the new folder cannot be is said before anything is measured; it gets the mode of any
    new folder."""
    text, importance = scratch + "/text", scratch + "/importance"
    open(text, "w").write("some text " * 200)
    for out, wanted in ((MODELS + "llama_gqa", "is there already"), (text + "/x", "Not a directory")):
        code, said, err = run(quantize, MODELS + "llama_gqa", out, "--type", "int4", "--importance",
                              importance, "--calibrate", text)
        check(code in (1, 2) and wanted in err and err.count("\n") == 1 and not said,
              "%s: %d %s" % (out, code, err))
        check("running" not in err, "%s: measured before OUT was looked at" % out)
    code, _, err = run(quantize, MODELS + "llama_gqa", scratch + "/never", "--type", "int4",
                       "--importance", scratch + "/no/where", "--calibrate", text)
    check(code == 2 and "no/where: No such" in err and "running" not in err, err)
    out, mask = scratch + "/some/new/folder", os.umask(0o027)
    code, _, err = run(quantize, MODELS + "llama_gqa", out, "--type", "int4")
    os.umask(mask)
    check(code == 0 and os.stat(out).st_mode & 0o777 == 0o750, err)
    check(os.listdir(scratch + "/some/new") == ["folder"], str(os.listdir(scratch + "/some/new")))


def check_refusals(quantize, generate, scratch):
    model = MODELS + "llama_mha"
    for args, wanted in (
            ((model, scratch + "/x"), "expected --type"),
            ((model, "--type", "int8"), "expected two folders"),
            ((model, scratch + "/x", "--type", "int3"), "--type is 'int3'"),
            ((model, scratch + "/x", "--type", "int8", "--threads", "0"), "--threads"),
            ((model, scratch + "/x", "--type", "bf16", "--embedding"), "--embedding is for"),
            ((model, scratch + "/x", "--type", "fp8", "--importance", "y"), "--importance is for"),
            ((model, scratch + "/x", "--type", "int8", "--head", "int8"), "--head is for"),
            ((model, scratch + "/x", "--type", "int4", "--head", "int4"), "--head is 'int4'"),
            ((MODELS + "dsv3_fp8", scratch + "/x", "--type", "fp8"), "in fp8 already"),
            ((model, scratch + "/x", "--type", "bf16", "--importance", "y"), "--importance is for"),
            ((model, scratch + "/x", "--type", "int8", "--tokens", "9"), "--tokens is for"),
            ((model, scratch + "/x", "--type", "int8", "--calibrate", "y"), "needs --importance"),
            ((scratch + "/none", scratch + "/x", "--type", "int8"), "No such file"),
            ((model, scratch + "/x", "--type", "int8", "--importance", scratch + "/none"),
             "No such file")):
        code, _, err = run(quantize, *args)
        check(code == 2 and wanted in err and err.count("\n") <= 2, "%s: %d %s" % (args, code, err))
    check(not os.path.exists(scratch + "/x"), "a refused folder is there")
    # A later layout must not be read as this one.
    out = scratch + "/later"
    check(run(quantize, model, out, "--type", "int8")[0] == 0, "quantise")
    path = out + "/config.json"
    text = open(path).read()
    open(path, "w").write(text.replace('"layout": 1', '"layout": 99'))
    code, _, err = run(generate, "--model", out, "--token-ids", "1 2", "--print-ids")
    check(code == 2 and "layout 99" in err, "%d %s" % (code, err))


def main():
    quantize, evaluate, generate = (os.path.abspath(a) for a in sys.argv[1:4])
    with tempfile.TemporaryDirectory() as scratch:
        check_models(quantize, evaluate, scratch)
        check_fp8(quantize, evaluate, scratch)
        check_head(quantize, evaluate, scratch)
        check_files(quantize, scratch)
        check_out(quantize, scratch)
        check_refusals(quantize, generate, scratch)
        check_signals(quantize, scratch)
    sys.exit(closing())


main()
