#!/usr/bin/env python3
"""hai-generate --input: many prompts through one engine give what each alone gives.

usage: generate_file.py HAI_GENERATE
"""
import json
import os
import subprocess
import sys
import tempfile

from checks import check, closing, run

MODELS = "tests/fixtures/models/"
def flags(line):
    """The options of the one-shot form that say what a line says."""
    words = []
    for name, value in line.items():
        if name == "token_ids":
            words += ["--token-ids", " ".join(map(str, value))]
        elif name == "stop":
            for stop in [value] if isinstance(value, str) else value:
                words += ["--stop", stop]
        elif name == "stop_ids":
            for stop in value:
                words += ["--stop-id", stop]
        elif name == "logit_bias":
            for id_, bias in value.items():
                words += ["--logit-bias", "%s:%s" % (id_, bias)]
        elif value is True:
            words += ["--" + name.replace("_", "-")]
        else:
            words += ["--" + name.replace("_", "-"), value]
    return words


COMMON = "The quick brown fox jumps over the lazy dog, again and again, until it is dark. " * 2
LINES = [
    {"prompt": "Once upon a time", "max_tokens": 24},
    {"prompt": COMMON + "First", "max_tokens": 20, "ignore_eos": True},
    {"token_ids": [0, 75], "max_tokens": 16, "temperature": 1.2, "seed": 5},
    {"prompt": COMMON + "Second", "max_tokens": 12, "temperature": 0.7, "top_p": 0.9, "seed": 1},
    {"prompt": "x", "max_tokens": 30, "top_k": 5, "temperature": 2, "seed": 9, "ignore_eos": True},
    {"prompt": "number", "max_tokens": 60, "json_object": True, "temperature": 1, "seed": 2},
    {"prompt": "the", "max_tokens": 24, "repeat_penalty": 1.3, "frequency_penalty": 0.5,
     "logit_bias": {"75": 4, "80": "-4"}},
    {"prompt": "a", "max_tokens": 24, "presence_penalty": 1, "ignore_eos": True},
]


def alone(generate, model, line, *more):
    """Text and ids of the one-shot form."""
    common = [generate, "--model", MODELS + model] + flags(line) + list(more)
    code, text, err = run(*common)
    check(code == 0, "%s: %s" % (line, err))
    code, ids, err = run(*common, "--print-ids")
    check(code == 0, "%s: %s" % (line, err))
    return text[:-1], json.loads(ids)


def as_json(line):
    line = dict(line)
    if "logit_bias" in line:
        line["logit_bias"] = {k: float(v) for k, v in line["logit_bias"].items()}
    return line


def check_same(generate, scratch):
    for model in ("llama_gqa", "dsv3"):
        wanted = [alone(generate, model, line) for line in LINES]
        lines = list(LINES)
        stop = wanted[7][0][6:8]
        if stop and "\ufffd" not in stop:
            lines.append(dict(LINES[7], stop=["never seen", stop]))
            wanted.append(alone(generate, model, lines[-1]))
        lines.append(dict(LINES[7], stop_ids=[wanted[7][1][5]]))
        wanted.append(alone(generate, model, lines[-1]))
        n = len(lines)
        source, out = scratch + "/in.jsonl", scratch + "/out.jsonl"
        with open(source, "w") as f:
            for i in range(3 * n):
                f.write(json.dumps(dict(as_json(lines[i % n]), id={"n": i})) + "\n\n")
        for more in (["--slots", 1], ["--slots", 8, "--threads", 2], ["--drafts", "text"],
                     ["--cache-tokens", 320, "--slots", 3]) + (
                         (["--drafts", "mtp"],) if model == "dsv3" else ()):
            code, said, err = run(generate, "--model", MODELS + model, "--input", source,
                                  "--output", out, *more)
            check(code == 0 and not said, "%s %s: exit %d: %s" % (model, more, code, err))
            check(err.startswith("hai-generate: %d lines, 0 failed; " % (3 * n)), err)
            got = [json.loads(line) for line in open(out)]
            check([a["id"] for a in got] == [{"n": i} for i in range(3 * n)], "the order of answers")
            for i, a in enumerate(got):
                label = "%s %s line %d: " % (model, more, i)
                check((a["text"], a["token_ids"]) == wanted[i % n], label + str(a))
                check(a["finish_reason"] in ("stop", "length"), label + a["finish_reason"])
                check(a["usage"]["completion_tokens"] >= len(a["token_ids"]), label + str(a))
            # Those who begin later find what the first left behind.
            if more[0] == "--slots":
                hits = sum(a["usage"]["prompt_cache_hit_tokens"] for a in got[n:])
                check(hits > 0, "%s %s: nothing came from the cache" % (model, more))


def check_prefix_cache(generate, scratch):
    """What a file brings makes the same answers, from the cache; a bad file is passed over."""
    source, cache = scratch + "/in.jsonl", scratch + "/cache"
    with open(source, "w") as f:
        for line in LINES:
            f.write(json.dumps(as_json(line)) + "\n")
    common = [generate, "--model", MODELS + "llama_gqa", "--input", source]
    _, cold, _ = run(*common)
    cold = [json.loads(line) for line in cold.splitlines()]
    for says in ("0 pages loaded", " pages loaded"):
        code, out, err = run(*common, "--prefix-cache", cache)
        check(code == 0 and says in err, err)
    answers = [json.loads(line) for line in out.splitlines()]
    for a, b in zip(answers, cold):
        check((a["text"], a["token_ids"]) == (b["text"], b["token_ids"]), "%s, not %s" % (a, b))
    hits = [a["usage"]["prompt_cache_hit_tokens"] for a in answers]
    check(hits[1] >= 64 and hits[3] >= 64, "nothing came from the file: %s" % hits)
    code, _, err = run(*common, "--cache-dtype", "f16", "--prefix-cache", cache)
    check(code == 0 and "starting without" in err, err)
    with open(cache, "r+b") as f:
        f.seek(200)
        f.write(b"damage")
    code, out, err = run(*common, "--cache-dtype", "f16", "--prefix-cache", cache)
    check(code == 0 and "starting without" in err, err)
    code, _, err = run(*common, "--prefix-cache", scratch + "/no/where")
    check(code == 2 and "where" in err, "%d %s" % (code, err))


def check_logprobs(generate):
    line = {"token_ids": [0, 75], "max_tokens": 6, "ignore_eos": True}
    lines = [json.loads(x) for x in run(generate, "--model", MODELS + "llama_mha", *flags(line),
                                        "--logprobs", 3)[1].splitlines()]
    code, out, err = run(generate, "--model", MODELS + "llama_mha", "--input", "-", "-q", stdin=
                         json.dumps(dict(line, logprobs=3)) + "\n" + json.dumps(line))
    first, second = (json.loads(x) for x in out.splitlines())
    check(code == 0 and not err and first["logprobs"] == lines, "logprobs: %s%s" % (out, err))
    check("logprobs" not in second, out)


def check_chat(generate):
    """Chats, and texts that hold special tokens, give the reference's ids."""
    cases = [c for c in json.load(open("tests/fixtures/e2e/e2e.json"))
             if c["model"] == "llama_mha"]
    lines = [{"messages": [{"role": "user", "content": c["prompt"]}]} if c["chat"]
             else {"prompt": c["prompt"]} for c in cases]
    check(any(c["chat"] for c in cases), "no chats among the cases")
    code, out, err = run(generate, "--model", MODELS + "llama_mha", "--input", "-", "-q",
                         "--max-tokens", 24, stdin="\n".join(map(json.dumps, lines)))
    check(code == 0 and len(out.splitlines()) == len(cases), err)
    for case, line in zip(cases, out.splitlines()):
        safe, got = case["safe_tokens"], json.loads(line)
        check(got["token_ids"][:safe] == case["output_ids"][:safe], "%s: %s" % (case["rendered"], line))
        check(got["usage"]["prompt_tokens"] == len(case["input_ids"]), line)


# A line, and what the error must say. The others of the file are answered.
BAD = [
    ("{", "bad JSON"),
    ("[1]", "expected an object"),
    ("{}", "one of prompt, token_ids and messages"),
    ('{"prompt": "x", "token_ids": [1]}', "one of prompt, token_ids and messages"),
    ('{"prompt": 3}', "prompt is a whole number; expected text"),
    ('{"prompt": "x", "temprature": 1}', "unknown field 'temprature'"),
    ('{"prompt": "x", "temperature": "hot"}', "temperature is text; expected a number"),
    ('{"prompt": "x", "temperature": -1}', "temperature is -1; expected a number from 0"),
    ('{"prompt": "x", "top_p": 0}', "top_p is 0"),
    ('{"prompt": "x", "max_tokens": 0}', "max_tokens: expected a whole number from 1"),
    ('{"prompt": "x", "max_tokens": 9000}', "9002 tokens"),
    ('{"prompt": "x", "logit_bias": {"x": 1}}', "logit_bias: 'x'"),
    ('{"prompt": "x", "logit_bias": {"512": 1}}', "512"),
    ('{"prompt": "x", "stop": 3}', "stop: expected a text"),
    ('{"prompt": "x", "stop": ""}', "a stop string has 0 bytes"),
    ('{"prompt": "x", "json_schema": {"not": {}}}', "not"),
    ('{"prompt": "x", "thinking": true}', "for messages"),
    ('{"token_ids": []}', "empty"),
    ('{"token_ids": [512]}', "token id 512"),
    ('{"token_ids": [-1]}', "from 0"),
    ('{"messages": 3}', ""),
]


def check_bad(generate, scratch):
    source = scratch + "/bad.jsonl"
    with open(source, "w") as f:
        for i, (line, _) in enumerate(BAD):
            f.write(line + "\n" + '{"prompt": "x", "max_tokens": 2, "id": %d}\n' % i)
    code, out, err = run(generate, "--model", MODELS + "llama_mha", "--input", source)
    answers = [json.loads(x) for x in out.splitlines()]
    check(code == 2 and len(answers) == 2 * len(BAD), "bad lines: exit %d: %s" % (code, err))
    for i, (line, says) in enumerate(BAD):
        bad, good = answers[2 * i:2 * i + 2]
        check(bad.get("line") == 2 * i + 1 and "error" in bad, "%s: %s" % (line, bad))
        check(says in bad["error"]["message"], "%s: %s" % (line, bad["error"]))
        check("%s:%d: " % (source, 2 * i + 1) in err, "%s is not named on stderr" % line)
        check(good.get("id") == i and len(good.get("token_ids", [])) in (1, 2), str(good))
    check("%d failed" % len(BAD) in err, err)
    for options, says, status in [
            (["--input", scratch + "/none"], "none", 2),
            (["--input", source, "--prompt", "x"], "expected one of", 2),
            (["--input", source, "--print-ids"], "--print-ids is not for --input", 2),
            (["--prompt", "x", "--slots", 2], "are for --input", 2),
            (["--input", source, "--slots", 0], "--slots is '0'", 2),
            (["--input", source, "--cache-dtype", "f8"], "--cache-dtype is 'f8'", 2),
            (["--input", source, "--drafts", "all"], "--drafts is 'all'", 2),
            (["--input", source, "--drafts", "mtp"], "no multi-token module", 2),
            (["--input", source, "--output", scratch + "/no/where"], "where", 2)]:
        code, _, err = run(generate, "--model", MODELS + "llama_mha", *options)
        check(code == status and says in err, "%s: exit %d: %s" % (options, code, err))
    # The input is not emptied under any name, nor fed with its own answers.
    link, text = scratch + "/link.jsonl", open(source).read()
    os.symlink(source, link)
    for options in (["--input", source, "--output", source], ["--input", link, "--output", source]):
        code, _, err = run(generate, "--model", MODELS + "llama_mha", *options)
        check(code == 2 and "same file" in err and open(source).read() == text,
              "%s: exit %d: %s" % (options, code, err))
    with open(source, "a") as appended:
        p = subprocess.run([generate, "--model", MODELS + "llama_mha", "--input", source],
                           stdout=appended, stderr=subprocess.PIPE)
    check(p.returncode == 2 and open(source).read() == text, "appended: %r" % p.stderr[-200:])
    code, _, err = run(generate, "--model", MODELS + "llama_mha", "--input", "/dev/null",
                       "--output", "/dev/null")
    check(code == 0, "/dev/null: exit %d: %s" % (code, err))
    with open("/dev/full", "w") as full:
        p = subprocess.run([generate, "--model", MODELS + "llama_mha", "--input", source],
                           stdout=full, stderr=subprocess.PIPE)
    check(p.returncode == 1 and b"writing to stdout" in p.stderr, "full: %r" % p.stderr[-200:])


def main():
    generate = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as scratch:
        check_same(generate, scratch)
        check_prefix_cache(generate, scratch)
        check_logprobs(generate)
        check_chat(generate)
        check_bad(generate, scratch)
    sys.exit(closing())


main()
