#!/usr/bin/env python3
"""hai-eval choices: its scores are what the model's logits say.

usage: eval_choices.py HAI_EVAL HAI_TOKENIZE
"""
import array
import json
import math
import os
import struct
import sys
import tempfile

from checks import check, closing, run

MODELS = "tests/fixtures/models/"
QUESTIONS = [
    {"id": 1, "prompt": "The sky is", "choices": [" blue", " a fish that swims", " 7"], "answer": 0},
    {"id": "b", "prompt": "int main(void)\n{", "choices": ["\n\treturn 0;", "x", "return return"],
     "answer": "x"},
    {"prompt": "Hello, wor", "choices": ["ld!", "k and play all day long", "m", "ld"], "answer": 3},
    {"prompt": "x " * 300, "choices": ["y", "x x x x"], "answer": 1},
]


def encode(tokenize, model, text):
    code, out, err = run(tokenize, "encode", "--model", MODELS + model, "--begin",
                         stdin=json.dumps(text) + "\n")
    check(code == 0, err)
    return json.loads(out)


def score(evaluate, tokenize, model, prompt, choice, scratch):
    """The sum of log-probabilities from the logits that hai-eval writes."""
    before, ids = (encode(tokenize, model, text) for text in (prompt, prompt + choice))
    n = 0
    while n < len(before) and n + 1 < len(ids) and before[n] == ids[n]:
        n += 1
    out = scratch + "/x.npy"
    code, _, err = run(evaluate, "logits", "--model", MODELS + model, "--token-ids",
                       " ".join(map(str, ids)), "--out", out)
    check(code == 0, err)
    data = open(out, "rb").read()
    logits = array.array("f")
    logits.frombytes(data[10 + struct.unpack("<H", data[8:10])[0]:])
    n_vocab = len(logits) // len(ids)
    total = 0.0
    for t in range(n - 1, len(ids) - 1):
        row = logits[t * n_vocab:(t + 1) * n_vocab]
        top = max(row)
        total += row[ids[t + 1]] - top - math.log(math.fsum(math.exp(x - top) for x in row))
    return total


def check_scores(evaluate, tokenize, scratch):
    source, out = scratch + "/q.jsonl", scratch + "/a.jsonl"
    with open(source, "w") as f:
        f.write("\n".join(map(json.dumps, QUESTIONS)) + "\n\n")
    for model in ("llama_gqa", "dsv3"):
        code, said, err = run(evaluate, "choices", "--model", MODELS + model, "--input", source,
                              "--out", out, "--json")
        check(code == 0 and not err, "%s: exit %d: %s" % (model, code, err))
        right = [0, 0]
        for question, line in zip(QUESTIONS, open(out)):
            got = json.loads(line)
            check(got.get("id") == question.get("id"), line)
            wanted = [score(evaluate, tokenize, model, question["prompt"], c, scratch)
                      for c in question["choices"]]
            check(all(abs(a - b) < 1e-4 for a, b in zip(got["logprobs"], wanted)) and
                  len(got["logprobs"]) == len(wanted), "%s, not %s" % (line, wanted))
            n_bytes = [len(c.encode()) for c in question["choices"]]
            check(got["bytes"] == n_bytes, line)
            answer = question["answer"]
            if isinstance(answer, str):
                answer = question["choices"].index(answer)
            best = max(range(len(wanted)), key=lambda k: got["logprobs"][k])
            per = max(range(len(wanted)), key=lambda k: got["logprobs"][k] / n_bytes[k])
            check((got["answer"], got["chosen"], got["chosen_per_byte"]) == (answer, best, per), line)
            right[0] += best == answer
            right[1] += per == answer
        check(json.loads(said) == {"questions": 4, "accuracy": right[0] / 4,
                                   "accuracy_per_byte": right[1] / 4}, said)
        code, said, _ = run(evaluate, "choices", "--model", MODELS + model, "--input", source)
        check(said.startswith("%d of 4 right by log-probability: " % right[0]), said)


BAD = [
    ("", "no questions"),
    ("{", ":1: bad JSON"),
    ("3", "expected an object"),
    ('{"prompt": "x", "choices": ["a", "b"], "answer": 2}', "answer: expected a whole number from 0 to 1"),
    ('{"prompt": "x", "choices": ["a", "b"], "answer": "c"}', "or the text of a choice"),
    ('{"prompt": "x", "choices": ["a"], "answer": 0}', "a list of 2 to 64"),
    ('{"prompt": "x", "choices": ["a", ""], "answer": 0}', "number 1 is no text"),
    ('{"prompt": "", "choices": ["a", "b"], "answer": 0}', "prompt: expected text"),
    ('{"prompt": "x", "choices": ["a", "b"], "answer": 0, "more": 1}', "unknown field 'more'"),
    ('{"prompt": "%s", "choices": ["a", "b"], "answer": 0}' % ("\\u6c49 x" * 3000),
     "the model takes 4096"),
]


def check_bad(evaluate, scratch):
    model = ["choices", "--model", MODELS + "llama_mha"]
    for line, says in BAD:
        code, out, err = run(evaluate, *model, "--input", "-", stdin=line)
        check(code == 2 and says in err and not out, "%s: exit %d: %s" % (line[:80], code, err))
    for options, says in [([], "--model and --input"), (["--input", scratch + "/no"], "/no"),
                          (["--input", "-", "--token-ids", "1"], "is for logits"),
                          (["--input", "-", "--out", scratch + "/no/where"], "where")]:
        code, _, err = run(evaluate, *model, *options, stdin=json.dumps(QUESTIONS[0]))
        check(code == 2 and says in err, "%s: exit %d: %s" % (options, code, err))
    # What is there is not lost: the questions themselves, or earlier answers where a line is bad.
    source, link, out = (scratch + "/" + name for name in ("same.jsonl", "link.jsonl", "old.jsonl"))
    text = json.dumps(QUESTIONS[0]) + "\n"
    open(source, "w").write(text)
    open(out, "w").write("old")
    os.symlink(source, link)
    for to in (source, link):
        code, _, err = run(evaluate, *model, "--input", source, "--out", to)
        check(code == 2 and "same file" in err and open(source).read() == text,
              "%s: exit %d: %s" % (to, code, err))
    code, _, err = run(evaluate, *model, "--input", "-", "--out", out, stdin=text + "{\n")
    check(code == 2 and ":2: bad JSON" in err and open(out).read() == "old", err)
    code, _, err = run(evaluate, "logits", "--model", MODELS + "llama_mha", "--token-ids", "1",
                       "--out", scratch + "/x", "--json")
    check(code == 2 and "for choices" in err, err)


def main():
    evaluate, tokenize = (os.path.abspath(p) for p in sys.argv[1:3])
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as scratch:
        check_scores(evaluate, tokenize, scratch)
        check_bad(evaluate, scratch)
    sys.exit(closing())


main()
