#!/usr/bin/env python3
"""campaign.py - parsers of model files under libFuzzer; its long form is `tests/soak fuzz`.

usage: tests/fuzz/campaign.py [--rounds N] [--seed S] [--targets A,B]

Builds the targets below build-tests/fuzz with clang, the address and the undefined-behaviour
sanitizer. A round is a minute of each target, one after the other, from its seed and what earlier
runs kept. What reaches more of the code is kept in tests/fuzz/corpora/NAME.corpus, the shortest
first; the unit tests run it. What a target fails on is left in build-tests/fuzz/found.
"""

import argparse
import glob
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, "build-tests", "fuzz")
CORPORA = os.path.join(ROOT, "tests", "fuzz", "corpora")
CORPUS_BYTES_MAX = 256 << 10
HANGS_S = 600  # by the clock: sanitized, at low priority on a loaded machine, 0.1 s become a minute
# By default: what a model's folder or file, and a request's schema, bring from outside.
TARGETS = ("safetensors", "tokenizer", "config", "gguf", "grammar")


def build(targets):
    """Returns {target: (program, seed)}."""
    env = dict(os.environ, CC="ccache clang" if shutil.which("ccache") else "clang")
    subprocess.run(["etc/build", BUILD, "--buildtype=debugoptimized", "-Dcuda=disabled",
                    "-Db_sanitize=address,undefined", "-Dlibfuzzer=true", "--",
                    *(f"tests/fuzz/fuzz_{name}" for name in targets)],
                   cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)
    text = subprocess.check_output(["meson", "introspect", BUILD, "--tests"], text=True)
    found = {test["name"]: test["cmd"] for test in json.loads(text)}
    return {name: (found["fuzz_" + name][0], found["fuzz_" + name][3]) for name in targets}


def unpack(path, folder):
    """Inputs of a corpus, each with its length before it (fuzz_main.c), as files."""
    with open(path, "rb") as f:
        data = f.read()
    at = n = 0
    while at < len(data):
        length, = struct.unpack_from("<I", data, at)
        with open(os.path.join(folder, f"kept{n}"), "wb") as f:
            f.write(data[at + 4:at + 4 + length])
        at, n = at + 4 + length, n + 1


def pack(folder, path):
    items = []
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as f:
            items.append(f.read())
    data = b""
    for item in sorted(items, key=lambda item: (len(item), item)):
        if len(data) + 4 + len(item) <= CORPUS_BYTES_MAX:
            data += struct.pack("<I", len(item)) + item
    with open(path, "wb") as f:
        f.write(data)


def run(name, program, seed_file, seconds, seed):
    """Fuzz one target. Returns (inputs tried, failures)."""
    corpus = os.path.join(CORPORA, name + ".corpus")
    left = os.path.join(BUILD, "found", name + "-")
    os.makedirs(os.path.dirname(left), exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        old, new, least = (os.path.join(scratch, x) for x in ("old", "new", "least"))
        for folder in (old, new, least):
            os.mkdir(folder)
        shutil.copy(seed_file, os.path.join(old, "seed"))
        if os.path.exists(corpus):
            unpack(corpus, old)
        done = subprocess.run([program, f"-max_total_time={seconds}", f"-seed={seed}",
                               f"-timeout={HANGS_S}", "-rss_limit_mb=2048", "-print_final_stats=1",
                               f"-artifact_prefix={left}", new, old],
                              cwd=ROOT, text=True, capture_output=True, check=False,
                              errors="replace", stdin=subprocess.DEVNULL)
        tried = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        if done.returncode != 0:
            print("\n".join(done.stderr.splitlines()[-40:]), file=sys.stderr)
            return int(tried.group(1)) if tried else 0, 1
        os.unlink(os.path.join(old, "seed"))  # the unit test has it anyway
        subprocess.run([program, "-merge=1", least, old, new], cwd=ROOT, capture_output=True,
                       check=True, stdin=subprocess.DEVNULL)
        pack(least, corpus)
        return int(tried.group(1)), 0


def main():
    parser = argparse.ArgumentParser(prog="tests/fuzz/campaign.py")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--targets", default=",".join(TARGETS))
    args = parser.parse_args()
    targets = build(args.targets.split(","))
    result = {"rounds": args.rounds, "problems": 0}
    for name, (program, seed_file) in targets.items():
        tried, failed = run(name, program, seed_file, 60 * args.rounds, args.seed)
        print(f"{name}: {tried} inputs, {failed} failures", flush=True)
        result[name] = tried
        result["problems"] += failed
    found = glob.glob(os.path.join(BUILD, "found", "*")) if result["problems"] else []
    for path in found:
        print("left: " + os.path.relpath(path, ROOT))
    print("result " + json.dumps(result))
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
