#!/usr/bin/env python3
"""Compare hai-tokenize with reference ids, texts and chats.

usage: tokenizer_compare.py HAI_TOKENIZE DIR CASES.jsonl [CHATS.jsonl]

DIR holds a tokenizer.json. The form of the cases is described in tests/fixtures/README.md. Prints
the first differences and, at the end, a line with counts; the exit status is 1 if anything differs.
"""
import json
import subprocess
import sys

SHOWN = 5


def run(program, folder, verb, values, *more):
    """The answers of hai-tokenize to a list of JSON values, or what it said."""
    text = "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values)
    p = subprocess.run([program, verb, "--model", folder, *more], input=text.encode(),
                       capture_output=True, check=False)
    if p.returncode:
        raise RuntimeError("hai-tokenize %s: exit %d: %s" % (verb, p.returncode,
                                                             p.stderr.decode()))
    return [json.loads(line) for line in p.stdout.decode().splitlines()]


def differences(what, names, got, wanted):
    found = [(name, g, w) for name, g, w in zip(names, got, wanted) if g != w]
    for name, g, w in found[:SHOWN]:
        print("%s: %s\n  got    %s\n  wanted %s" % (what, name, json.dumps(g)[:600],
                                                   json.dumps(w)[:600]))
    return len(found) + abs(len(got) - len(wanted))


def compare(program, folder, cases, chats=None):
    """How many values differ, and a line of counts."""
    with open(cases) as f:
        lines = [json.loads(line) for line in f]
    texts = [line for line in lines if "text" in line]
    names = [line["category"] for line in lines]
    decoded = [line.get("decoded", line.get("text")) for line in lines]
    kept = [line.get("decoded_skip_special", d) for line, d in zip(lines, decoded)]
    ids = [line["ids"] for line in lines]
    bad = differences("encode", [t["category"] + " " + repr(t["text"])[:200] for t in texts],
                      run(program, folder, "encode", [t["text"] for t in texts]),
                      [t["ids"] for t in texts])
    bad += differences("decode", names, run(program, folder, "decode", ids), decoded)
    bad += differences("decode --no-special", names,
                       run(program, folder, "decode", ids, "--no-special"), kept)
    counts = "%d texts encoded, %d decoded twice" % (len(texts), len(lines))
    if chats:
        with open(chats) as f:
            lines = [json.loads(line) for line in f]
        asked = [{k: line[k] for k in ("messages", "add_generation_prompt")} for line in lines]
        bad += differences("chat", map(repr, asked), run(program, folder, "chat", asked),
                           [line["rendered"] for line in lines])
        counts += ", %d chats" % len(lines)
    return bad, "%s: %s, %d differences" % (folder, counts, bad)


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    differing, said = compare(*sys.argv[1:])
    print(said)
    sys.exit(1 if differing else 0)
