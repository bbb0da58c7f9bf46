#!/usr/bin/env python3
"""hai-train with method: sft: a base model learns to answer in a form, by the template it comes with;
a run that is stopped goes on on three ranks; bad conversations are refused with file and line.

usage: train_sft.py HAI_TRAIN HAI_GENERATE
"""
import json
import os
import re
import signal
import sys
import tempfile

from checks import check, closing, run
from train_shards import finish, record, start, wait_step

BASE = "tests/fixtures/models/llama_mha"
TINY = "tests/fixtures/tokenizer/tiny"
PAIRS = {"one": "uno", "two": "due", "three": "tre", "four": "quattro", "five": "cinque"}
CONFIG = """
method: sft
init: {base}
out: {out}
data: {{files: [{talks}], tokenizer: {tiny}, record: {out}/samples{data}}}
steps: {steps}
batch: 4
seq: 64
optimizer: {{lr: 0.003}}
checkpoint: {{every: 5, keep: 100}}
"""


def talk(words):
    messages = []
    for word in words:
        messages += [{"role": "user", "content": "Say " + word},
                     {"role": "assistant", "content": PAIRS[word] + "!"}]
    return json.dumps({"messages": messages}) + "\n"


def configure(scratch, out, talks, steps=60, data=""):
    config = scratch + "/sft.yaml"
    with open(config, "w") as f:
        f.write(CONFIG.format(base=BASE, out=out, talks=talks, tiny=TINY, steps=steps, data=data))
    return config


def check_learns(program, generate, scratch, talks):
    out = scratch + "/out"
    code, err = train(program, configure(scratch, out, talks))
    check(code == 0 and "weights of " + BASE in err, err)
    losses = [float.fromhex(line.split()[1]) for line in open(out + "/steps.log")]
    check(losses[-1] < 0.2 * losses[0], "%s" % losses)
    prompts = "".join(json.dumps({"messages": [{"role": "user", "content": "Say " + word}],
                                  "temperature": 0, "max_tokens": 12}) + "\n" for word in PAIRS)
    code, text, err = run(generate, "--model", out, "--input", "-", stdin=prompts)
    check(code == 0, err)
    said = [json.loads(line)["text"] for line in text.splitlines()]
    check(said == [v + "!" for v in PAIRS.values()], "%s" % said)


def train(program, config, world=1):
    codes, err = finish(start(program, config, world))
    return max(codes, key=abs), err


def check_resumed(program, scratch, talks):
    """Conversations of three epochs, each once an epoch, on one rank and then three."""
    out = scratch + "/resumed"
    os.mkdir(out)
    config = configure(scratch, out, talks, steps=16)
    ranks = start(program, config, 1)
    wait_step(out, ranks, 6)
    ranks[0].send_signal(signal.SIGTERM)
    codes, err = finish(ranks)
    check(codes == [143], err)
    lineage = record(out, 1)
    code, err = train(program, config, 3)
    found = re.search(r"resumed from \S+/step-(\d+)\.", err)
    check(code == 0 and found, err)
    lineage = {s: v for s, v in lineage.items() if s <= int(found.group(1))}
    lineage.update(record(out, 3))
    check([i for s in sorted(lineage) for i in lineage[s]] == list(range(16 * 4)), str(lineage))


def check_refusals(program, scratch, talks):
    for line, data, says in (
            ("{\"messages\": 1}", "", "bad.jsonl:2: 'messages': expected a list"),
            ("{\"messages\"", "", "bad.jsonl:2: "),
            (json.dumps({"messages": [{"role": "user", "content": "a"}]}), "",
             "bad.jsonl:2: the last message is of role 'user'"),
            (talk(["one"] * 30), "", "expected at most seq, 64"),
            (talk(["one"] * 30), ", long: cut", None),
            ("", ", long: short", "expected refuse or cut"),
            ("", ", form: v4", "expected llm, coder, v3, r1 or v31")):
        bad = scratch + "/bad.jsonl"
        with open(bad, "w") as f:
            f.write(talk(["one"]) + line + "\n")
        code, err = train(program, configure(scratch, scratch + "/refused", bad, 1, data))
        check(code == 0 if says is None else code in (1, 2) and says in err,
              "%s: %d %s" % (says, code, err))
    config = configure(scratch, scratch + "/refused", talks)
    text = open(config).read().replace("files: [", "sources: [{path: a}], record: b, max: 1KiB #")
    with open(config, "w") as f:
        f.write(re.sub(r"#.*\n", "}\n", text))
    code, err = train(program, config)
    check(code == 2 and "folders of shards with 'method: sft'" in err, err)


def main():
    program, generate = map(os.path.abspath, sys.argv[1:3])
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as scratch:
        talks = scratch + "/talks.jsonl"
        words = list(PAIRS)
        with open(talks, "w") as f:
            for i in range(25):
                f.write(talk([words[i % 5]] if i % 2 else [words[i % 5], words[i // 5]]))
        check_learns(program, generate, scratch, talks)
        check_resumed(program, scratch, talks)
        check_refusals(program, scratch, talks)
    return closing()


if __name__ == "__main__":
    sys.exit(main())
