#!/usr/bin/env python3
"""hai-generate and hai-eval against the reference values, and what they say of bad input.

usage: generate_eval.py HAI_GENERATE HAI_EVAL HAI_TRAIN
"""
import array
import ast
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

from checks import check, closing

MODELS = "tests/fixtures/models/"
def run(*args, **more):
    env = {k: v for k, v in os.environ.items() if not k.startswith("HAI_")}
    env.update(more)
    p = subprocess.run([str(a) for a in args], capture_output=True, env=env, timeout=120)
    return p.returncode, p.stdout.decode(), p.stderr.decode()


def read_safetensors(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + n]), memoryview(data)[8 + n:]


def numbers(kind, data):
    a = array.array(kind)
    a.frombytes(data)
    return a


def read_npy(path):
    data = open(path, "rb").read()
    n = struct.unpack("<H", data[8:10])[0]
    head = ast.literal_eval(data[10:10 + n].decode())
    return data[:8], head, numbers("f", data[10 + n:])


def floats(header, data, name):
    entry = header[name]
    return entry["shape"], numbers("f", data[slice(*entry["data_offsets"])])


def check_text(generate):
    """Greedy continuations: ids up to the first near tie, and the text."""
    n = 0
    for case in json.load(open("tests/fixtures/e2e/e2e.json")):
        model = MODELS + case["model"]
        if not os.path.isdir(model):
            continue
        label = "%s %r" % (case["model"], case["rendered"][:40])
        common = ["--model", model, "--max-tokens", 24, "--temperature", 0]
        code, out, err = run(generate, "--prompt", case["rendered"], "--print-ids", *common)
        check(code == 0, label + ": " + err)
        safe = case["safe_tokens"]
        check(code or json.loads(out)[:safe] == case["output_ids"][:safe], label + ": ids " + out)
        ids = " ".join(map(str, case["input_ids"]))
        code, again, err = run(generate, "--token-ids", ids, "--print-ids", *common)
        check(again == out, label + ": --token-ids gives " + again + err)
        code, halves, err = run(generate, "--token-ids", ids, "--print-ids", "--cache-dtype", "f16",
                                *common)
        check(code == 0 and json.loads(halves)[:safe] == case["output_ids"][:safe],
              label + ": --cache-dtype f16 gives " + halves + err)
        code, text, err = run(generate, "--prompt", case["rendered"], *common)
        if safe == len(case["output_ids"]):
            check(text == case["text"] + "\n", "%s: text %r" % (label, text))
        n += 1
    check(n >= 16, "only %d cases" % n)


def check_variants(generate):
    """Both backends and both types of weights: the files are bf16, so rounding them changes nothing."""
    for name in ("llama_gqa", "dsv3"):
        header, data = read_safetensors(MODELS + name + "/golden.safetensors")
        ids, wanted = (numbers("i", data[slice(*header[key]["data_offsets"])])
                       for key in ("p1.input_ids", "greedy.from_p1"))
        for backend in ("ref", "cpu"):
            for dtype in ("f32", "bf16"):
                code, out, err = run(generate, "--model", MODELS + name, "--token-ids",
                                     " ".join(map(str, ids)), "--max-tokens", len(wanted),
                                     "--temperature", 0, "--ignore-eos", "--print-ids",
                                     "--backend", backend, "--dtype", dtype)
                check(code == 0 and json.loads(out) == list(wanted),
                      "%s %s %s: %s%s" % (name, backend, dtype, out, err))


def check_sampling(generate):
    common = [generate, "--model", MODELS + "llama_mha", "--token-ids", "0 75", "--print-ids",
              "--max-tokens", 16, "--ignore-eos"]
    draws = [run(*common, "--temperature", 1.5, "--seed", seed)[1] for seed in (1, 1, 2)]
    check(draws[0] == draws[1], "the same seed draws the same")
    check(draws[0] != draws[2], "another seed draws something else")
    check(len(json.loads(draws[0])) == 16, "--ignore-eos gives all tokens")


def check_filters(generate):
    """Rules that leave one token are greedy; penalties, biases and seeds change what they should."""
    common = [generate, "--model", MODELS + "llama_mha", "--token-ids", "0 75", "--print-ids",
              "--max-tokens", 16, "--ignore-eos"]
    greedy = run(*common)[1]
    for more in (["--top-k", 1], ["--top-p", 1e-6], ["--min-p", 1]):
        check(run(*common, "--temperature", 1.5, *more)[1] == greedy, "%s is not greedy" % more)
    wide = ["--top-k", 512, "--min-p", 0, "--top-p", 1]
    for seed in (1, 2):
        draw = ["--temperature", 1.5, "--seed", seed]
        check(run(*common, *draw, *wide)[1] == run(*common, *draw)[1],
              "rules that keep everything change the draw of seed %d" % seed)
    first = json.loads(greedy)[0]
    ids = json.loads(run(*common, "--logit-bias", "%d:-inf" % first)[1])
    check(first not in ids and len(ids) == 16, "a banned token came: %s" % ids)
    ids = json.loads(run(*common, "--logit-bias", "77:1000")[1])
    check(ids == [77] * 16, "a bias of 1000 is not obeyed: %s" % ids)
    for name in ("--presence-penalty", "--frequency-penalty"):
        ids = json.loads(run(*common, "--logit-bias", "77:90", name, 100)[1])
        check(ids[0] == 77 and 77 not in ids[1:], "%s: %s" % (name, ids))
    ids = json.loads(run(*common, "--repeat-penalty", 100)[1])
    check(len(set(ids)) == 16 and 75 not in ids, "--repeat-penalty: %s" % ids)


def check_logprobs(generate):
    common = [generate, "--model", MODELS + "llama_mha", "--token-ids", "0 75", "--max-tokens", 6,
              "--ignore-eos"]
    ids = json.loads(run(*common, "--print-ids")[1])
    lines = [json.loads(line) for line in run(*common, "--logprobs", 3)[1].splitlines()]
    check([line["id"] for line in lines] == ids, "ids of --logprobs: %s" % lines)
    for line in lines:
        check(line["top"][0] == [line["id"], line["logprob"]] and len(line["top"]) == 3 and
              0 > line["top"][0][1] >= line["top"][1][1] >= line["top"][2][1], str(line))


def check_stops(generate):
    common = [generate, "--model", MODELS + "llama_mha", "--token-ids", "0 75", "--max-tokens", 24,
              "--ignore-eos"]
    text = run(*common)[1][:-1]
    ids = json.loads(run(*common, "--print-ids")[1])
    for at in range(0, len(text) - 2, 3):
        stop = text[at:at + 2]
        if "\ufffd" in stop:
            continue
        cut = text.index(stop)
        check(run(*common, "--stop", stop)[1] == text[:cut] + "\n", "--stop %r" % stop)
        check(run(*common, "--stop", "never", "--stop", stop, "--keep-stop")[1] ==
              text[:cut + 2] + "\n", "--keep-stop %r" % stop)
    check(run(*common, "--stop", "never seen")[1] == text + "\n", "a stop string that never comes")
    out = json.loads(run(*common, "--print-ids", "--stop-id", ids[5])[1])
    check(out == ids[:ids.index(ids[5])], "--stop-id: %s" % out)


SCHEMA = {"type": "object", "additionalProperties": False, "required": ["name", "kind", "sizes"],
          "properties": {"name": {"type": "string", "maxLength": 5},
                         "kind": {"enum": ["red", "green"]},
                         "sizes": {"type": "array", "minItems": 1, "maxItems": 3,
                                   "items": {"type": "integer", "minimum": 1, "maximum": 99}}}}


def check_json(generate, scratch):
    """Whatever the seed, what comes out is what the schema says (these models know no JSON)."""
    path = scratch + "/schema.json"
    with open(path, "w") as f:
        f.write(json.dumps(SCHEMA))
    common = [generate, "--model", MODELS + "llama_gqa", "--token-ids", "0 75", "--max-tokens", 200,
              "--temperature", 1.2, "--json-schema", path]
    texts = set()
    for seed in range(8):
        code, out, err = run(*common, "--seed", seed)
        check(code == 0, err)
        value = json.loads(out)
        texts.add(out)
        check(list(value) == ["name", "kind", "sizes"] and len(value["name"]) <= 5 and
              value["kind"] in ("red", "green") and 1 <= len(value["sizes"]) <= 3 and
              all(isinstance(x, int) and 1 <= x <= 99 for x in value["sizes"]), out)
    check(len(texts) > 4, "seeds draw alike")
    with open(path, "w") as f:
        f.write('{"properties": {"a": {"not": {}}}}')
    code, out, err = run(*common)
    check(code != 0 and "/properties/a/not" in err and not out, "%d %s" % (code, err))
    code, out, err = run(*common[:-2], "--json-object", "--seed", 1)
    check(code == 0 and out.lstrip().startswith("{"), "--json-object: %s%s" % (out, err))


def check_logits(evaluate, scratch):
    for name in ("llama_mha", "llama_gqa", "llama_linear", "llama3_rope", "dsv3"):
        header, data = read_safetensors(MODELS + name + "/golden.safetensors")
        tolerance = json.load(open(MODELS + name + "/golden.json"))["tolerance"]
        entry = header["p0.input_ids"]
        ids = numbers("i", data[slice(*entry["data_offsets"])])
        shape, wanted = floats(header, data, "p0.logits")
        for backend in ("ref", "cpu"):
            out = scratch + "/logits.npy"
            code, _, err = run(evaluate, "logits", "--model", MODELS + name, "--token-ids",
                               " ".join(map(str, ids)), "--out", out, "--backend", backend)
            check(code == 0, "%s %s: %s" % (name, backend, err))
            if code:
                continue
            magic, head, got = read_npy(out)
            check(magic == b"\x93NUMPY\x01\x00" and head == {
                "descr": "<f4", "fortran_order": False, "shape": tuple(shape)}, str(head))
            bad = sum(1 for a, b in zip(got, wanted)
                      if not abs(a - b) <= tolerance["logits_atol"] + tolerance["logits_rtol"] * abs(b))
            check(bad == 0 and len(got) == len(wanted),
                  "%s %s: %d logits out of tolerance" % (name, backend, bad))


def change_config(model, **changes):
    config = json.load(open(model + "/config.json"))
    config.update(changes)
    with open(model + "/config.json", "w") as f:
        f.write(json.dumps(config))


def cut(model):
    with open(model + "/model.safetensors", "r+b") as f:
        f.truncate(100000)


def lie(model):
    with open(model + "/model.safetensors", "r+b") as f:
        data = f.read().replace(b'"shape":[512,128]', b'"shape":[512,129]')
        f.seek(0)
        f.write(data)


def no_json(model):
    with open(model + "/model.safetensors", "r+b") as f:
        f.seek(8)
        f.write(b"[[")


# What is done to a copy of llama_mha, what the message must name, and the exit status.
BAD_MODELS = [
    (cut, ["model.safetensors", "model."], 2),
    (lie, ["model.safetensors", "embed_tokens", "bytes"], 2),
    (no_json, ["model.safetensors", "header"], 2),
    (lambda m: os.remove(m + "/model.safetensors"), ["expected model.safetensors"], 2),
    (lambda m: os.remove(m + "/config.json"), ["config.json", "No such file"], 2),
    (lambda m: change_config(m, hidden_size=64), ["model.safetensors", "shape [512, 128]; expected"], 2),
    (lambda m: change_config(m, intermediate_size=640), ["mlp", "shape"], 2),
    (lambda m: change_config(m, vocab_size=1 << 20, hidden_size=1 << 16), ["expected [1048576, 65536]"], 2),
    (lambda m: change_config(m, rms_norm_eps=float("nan")), ["config.json"], 2),
    (lambda m: change_config(m, rms_norm_eps="small"), ["rms_norm_eps"], 2),
    (lambda m: change_config(m, no_such_field=1), ["no_such_field"], 2),
    (lambda m: change_config(m, model_type="gpt9"), ["gpt9"], 2),
    (lambda m: os.remove(m + "/tokenizer.json"), ["tokenizer.json"], 2),
    (lambda m: open(m + "/tokenizer.json", "w").write('{"model": {"type": "BPE"}}'),
     ["tokenizer.json"], 2),
]


def check_bad_models(generate, scratch):
    for i, (damage, names, status) in enumerate(BAD_MODELS):
        model = "%s/bad%d" % (scratch, i)
        shutil.copytree(MODELS + "llama_mha", model)
        damage(model)
        code, out, err = run(generate, "--model", model, "--prompt", "x", "--max-tokens", 1,
                             "--temperature", 0)
        check(code == status, "bad model %d: exit %d: %s" % (i, code, err))
        check(err.startswith("hai-generate: ") and all(n in err for n in names) and not out,
              "bad model %d: %s" % (i, err))


BAD_OPTIONS = [
    (["--backend", "cuda"], "not built", 1),
    (["--backend", "tpu"], "--backend is 'tpu'; expected ref, cpu or cuda", 2),
    (["--dtype", "f16"], "--dtype is 'f16'; expected f32 or bf16", 2),
    (["--temperature", "hot"], "--temperature is 'hot'", 2),
    (["--temperature", "nan"], "--temperature is 'nan'", 2),
    (["--max-tokens", "0"], "--max-tokens is '0'", 2),
    (["--max-tokens", "100000"], "max_position_embeddings", 2),
    (["--token-ids", "1 x"], "'x'", 2),
    (["--token-ids", "512"], "512", 2),
    (["--token-ids", ""], "empty", 2),
    (["--prompt", "x"], "one of --prompt and --token-ids", 2),
    (["--top-p", "0"], "--top-p is '0'", 2),
    (["--top-k", "-1"], "--top-k is '-1'", 2),
    (["--min-p", "1.5"], "--min-p is '1.5'", 2),
    (["--repeat-penalty", "0"], "--repeat-penalty is '0'", 2),
    (["--logprobs", "21"], "--logprobs is '21'", 2),
    (["--logprobs", "1", "--print-ids"], "one of --print-ids and --logprobs", 2),
    (["--logit-bias", "3"], "expected ID:BIAS", 2),
    (["--logit-bias", "512:1"], "bias of token 512", 2),
    (["--stop", ""], "--stop has 0 bytes", 2),
    (["--stop-id", "x"], "--stop-id is 'x'", 2),
    (["--json-object", "--json-schema", "x"], "one of --json-object", 2),
    (["--json-schema", "/no/where"], "/no/where", 2),
    (["more"], "unexpected 'more'", 2),
    (["--nonsense"], "usage:", 2),
]


def check_bad_options(generate, evaluate, scratch):
    for options, says, status in BAD_OPTIONS:
        code, _, err = run(generate, "--model", MODELS + "llama_mha", "--token-ids", "1",
                           "--max-tokens", 2, *options)
        check(code == status and says in err, "%s: exit %d: %s" % (options, code, err))
    for program, *words in [(generate, "--help"), (generate, "--max-tokens", "2", "--help"),
                            (evaluate, "--help"), (evaluate, "logits", "--help")]:
        code, out, _ = run(program, *words)
        check(code == 0 and out.startswith("usage:"), "%s: exit %d: %s" % (words, code, out))
    for args, says, status in [
            (["logits", "--model", MODELS + "llama_mha"], "expected --model, --token-ids", 2),
            (["perplexity"], "expected 'logits'", 2),
            (["logits", "--model", MODELS + "llama_mha", "--token-ids", "1", "--out", "/no/where",
              "--backend", "cuda"], "not built", 1),
            (["logits", "--model", MODELS + "llama_mha", "--token-ids", "1", "--out",
              scratch + "/no/where.npy"], "where.npy", 2),
            (["logits", "--model", scratch + "/none", "--token-ids", "1", "--out",
              scratch + "/x.npy"], "none/config.json", 2)]:
        code, _, err = run(evaluate, *args)
        check(code == status and says in err, "%s: exit %d: %s" % (args, code, err))


def check_output(generate, evaluate, scratch):
    """What cannot be written is said; what is no file of ours is not removed."""
    for more in (["--print-ids"], []):
        with open("/dev/full", "w") as full:
            p = subprocess.run([generate, "--model", MODELS + "llama_mha", "--token-ids", "75",
                                "--max-tokens", "4", *more], stdout=full, stderr=subprocess.PIPE)
        check(p.returncode == 1 and b"writing to stdout" in p.stderr,
              "full %s: exit %d: %r" % (more, p.returncode, p.stderr))
    device, cut_short = scratch + "/device", scratch + "/cut.npy"
    os.symlink("/dev/null", device)
    for out in (device, cut_short):
        code, _, err = run(evaluate, "logits", "--model", MODELS + "llama_mha", "--token-ids", "512",
                           "--out", out)
        check(code == 2 and "512" in err, "%s: exit %d: %s" % (out, code, err))
    check(os.path.lexists(device), "a device was removed")
    check(not os.path.exists(cut_short), "half a file stays")
    full = scratch + "/full"
    os.symlink("/dev/full", full)
    code, _, err = run(evaluate, "logits", "--model", MODELS + "llama_mha", "--token-ids", "1",
                       "--out", full)
    check(code == 1 and "full" in err, "full: exit %d: %s" % (code, err))
    check(os.path.lexists(full), "a device was removed")


GOOD = """model: tests/fixtures/models/llama_mha
out: %s/out
data: {files: tests/fixtures/README.md, tokenizer: tests/fixtures/tokenizer/tiny}
steps: 1
batch: 2
seq: 32
"""

# A change of the sound file, what the message must hold.
BAD_TRAINING = [
    (("steps: 1", "setps: 1"), ":4:1: unknown field 'setps'; did you mean 'steps'?"),
    (("steps: 1", "steps: 0"), ":4:8: steps is 0; expected a whole number from 1"),
    (("steps: 1", "steps: .nan"), ":4:"),
    (("steps: 1", "optimizer: {lr: .nan}"), ":4:"),
    (("steps: 1", "optimizer: {lr: big}"), "lr is \"big\"; expected a number"),
    (("steps: 1", "optimizer: {lrr: 1}"), "unknown field 'lrr' in 'optimizer'; did you mean 'lr'?"),
    (("steps: 1", "schedule: {kind: sine}"), "constant, cosine, multi_step or wsd"),
    (("steps: 1", "data: 3"), ":4:"),
    (("steps: 1", "steps: [1"), ":"),
    (("tokenizer: tests/fixtures/tokenizer/tiny", "max: 8"), "a size with its unit"),
    (("tokenizer/tiny", "tokenizer/none"), "tokenizer/none/tokenizer.json"),
    (("README.md", "nothing.md"), "nothing.md"),
    (("models/llama_mha", "models/none"), "models/none"),
    (("batch: 2", "batch: 1"), "batch is 1; expected one sample or more for each of the 2 ranks"),
    (("batch: 2\nseq: 32", "batch: 16777216\nmicro_batch: 1\nseq: 1024"), "tokens a step on each"),
    (("seq: 32", "seq: 100000"), "max_position_embeddings"),
    (("seq: 32", "threads: 257"), "threads is 257; expected a whole number from 1 to 256"),
    (("seq: 32", "backend: cuda"), "not built"),
]


def run_ranks(train, path, world):
    """Exit status and messages of every rank."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith("HAI_")}
    ranks = [subprocess.Popen([train, path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              env=dict(env, RANK=str(rank), WORLD_SIZE=str(world),
                                       MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)))
             for rank in range(world)]
    return [(p.returncode, err.decode())
            for p, err in [(p, p.communicate(timeout=120)[1]) for p in ranks]]


def check_bad_training(train, scratch):
    for i, ((old, new), says) in enumerate(BAD_TRAINING):
        path = "%s/train%d.yaml" % (scratch, i)
        with open(path, "w") as f:
            f.write((GOOD % scratch).replace(old, new))
        world = 2 if "2 ranks" in says else 1
        for code, err in run_ranks(train, path, world):
            check(code == (1 if says == "not built" else 2) and says in err,
                  "%s: exit %d: %s" % (new, code, err))
    code, _, err = run(train, scratch + "/none.yaml")
    check(code == 2 and "none.yaml" in err, err)
    code, _, err = run(train)
    check(code == 2 and "expected one configuration file" in err, err)
    code, _, err = run(train, scratch + "/train0.yaml", RANK="3", WORLD_SIZE="2")
    check(code == 2, err)


def main():
    generate, evaluate, train = (os.path.abspath(p) for p in sys.argv[1:4])
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as scratch:
        check_text(generate)
        check_variants(generate)
        check_sampling(generate)
        check_filters(generate)
        check_logprobs(generate)
        check_stops(generate)
        check_json(generate, scratch)
        check_logits(evaluate, scratch)
        check_bad_models(generate, scratch)
        check_bad_options(generate, evaluate, scratch)
        check_output(generate, evaluate, scratch)
        check_bad_training(train, scratch)
    return closing()


if __name__ == "__main__":
    sys.exit(main())
