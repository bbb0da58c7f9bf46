#!/usr/bin/env python3
"""rounding.py - what rounding weights costs: a small model is trained, quantised, and compared with
itself.

usage: tests/bench/rounding.py [--steps N] [--write]

The model of etc/examples/train.yaml after 200 (or N) steps on Python's own modules; 4,096 positions of
asyncio's sources are compared, importance is measured on 16,384 of email's. A quantised folder is
taken back to bf16 first, so that activations are not rounded and the figures are those of the
weights alone. --write keeps the table in docs/performance.md.
"""

import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
import benchtable  # noqa: E402
import cluster  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODULES = os.path.dirname(os.__file__)


def call(name, *args):
    return subprocess.run([cluster.program(name), *args], check=True, cwd=ROOT, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout


def sources(package, path):
    """The modules of a package one after the other."""
    with open(path, "w") as out:
        for name in sorted(glob.glob(os.path.join(MODULES, package, "*.py"))):
            with open(name) as f:
                out.write(f.read())
    return path


def train(folder, steps):
    config = os.path.join(folder, "train.yaml")
    with open(config, "w") as f:
        f.write(f"model: etc/examples/models/llama-1m\nsteps: {steps}\nthreads: 2\n"
                f"data: {{files: ['{MODULES}/*.py'], tokenizer: bytes, max: 8MiB}}\n"
                f"checkpoint: {{every: 0}}\n")
    call("hai-train", config, "--out", os.path.join(folder, "plain"))
    return os.path.join(folder, "plain")


def main(argv=None):
    parser = argparse.ArgumentParser(prog="rounding")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(argv)
    lines = [f"{benchtable.machine()}; {args.steps} steps", "", "| weights | mean KL (nats) | RMS logit error | same likeliest "
             "token | perplexity |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        def at(name):
            return os.path.join(folder, name)

        plain = train(folder, args.steps)
        text, others = sources("asyncio", at("text")), sources("email", at("others"))
        kinds = {"bf16": ["bf16"], "int8": ["int8"], "int4": ["int4"],
                 "int4, importance": ["int4", "--importance", at("importance"), "--calibrate", others]}
        for number, (kind, options) in enumerate(kinds.items()):
            narrow, back = at(f"narrow{number}"), at(f"back{number}")
            call("hai-quantize", plain, narrow, "--type", *options)
            if options[0] != "bf16":
                call("hai-quantize", narrow, back, "--type", "bf16")
                narrow = back
            got = json.loads(call("hai-eval", "kl", "--model", plain, "--other", narrow,
                                  "--text", text))
            lines.append(f"| {kind} | {got['kl']:.1e} | {got['rms_logit_error']:.4f} "
                         f"| {100 * got['same_best']:.1f} % | {got['perplexity_other']:.3f} |")
        lines[0] += f"; perplexity of the model itself {got['perplexity']:.3f}."
    print("\n".join(lines))
    if args.write:
        benchtable.keep("performance.md", "rounding", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
