#!/usr/bin/env python3
"""Training in few bits beside bf16: the same model, data and first weights under every recipe, and bf16
once more from another seed, which says how much two runs differ by chance.

usage: fp8.py [--dir DIR] [--steps N] [--hidden N] [--layers N] [--only NAME]... [--quick] [--write]

By default a Llama-like model of 0.75 million parameters, 2,000 steps of 1,024 tokens of this machine's
Python library and manual pages. Every run lies in a folder of its own below DIR with its checkpoints:
stopped and started again, with the same options, the bench goes on where it was. --quick: a tiny
model, a few steps, to see that it all runs. --write: the table into docs/training.md.

Judged: the mean loss of the last tenth of the steps, against bf16's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

import benchtable

sys.path.insert(0, os.path.join(benchtable.ROOT, "tests"))
import training  # noqa: E402

RUNS = {
    "bf16": {"precision": "bf16"},
    "bf16, other seed": {"precision": "bf16", "seed": "2"},
    "fp8 e4m3": {"precision": "fp8", "fp8": "e4m3"},
    "fp8 hybrid": {"precision": "fp8", "fp8": "hybrid"},
    "fp8 e5m2": {"precision": "fp8", "fp8": "e5m2"},
    "f32": {"precision": "f32"},
}
CONFIG = """\
model: {dir}/config.json
out: {dir}/{folder}
steps: {steps}
batch: 4
seq: 256
threads: {threads}
exact: required
data:
  files: [{files}]
  tokenizer: bytes
  max: 16MiB
optimizer: {{lr: 0.001}}
schedule: {{kind: cosine, warmup: {warmup}, final: 0.1}}
checkpoint: {{every: 50, keep: 1}}
{more}
"""


def losses(path):
    """Loss by step; of steps made twice, after a restart, the last."""
    found = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            for words in map(str.split, f):
                if len(words) == 3:
                    found[int(words[0])] = float.fromhex(words[1])
    return found


def train(options, program, name, keys):
    """The losses of a run, made to its end."""
    folder = name.replace(", ", "-").replace(" ", "-")
    path = f"{options.dir}/{folder}.yaml"
    log = f"{options.dir}/{folder}/steps.log"
    if len(losses(log)) < options.steps:
        with open(path, "w", encoding="utf-8") as f:
            f.write(CONFIG.format(dir=options.dir, folder=folder, steps=options.steps,
                                  threads=options.threads, files=options.files,
                                  warmup=max(1, options.steps // 20),
                                  more="\n".join(f"{k}: {v}" for k, v in {"seed": 1, **keys}.items())))
        subprocess.run([program, path], check=True, stdout=subprocess.DEVNULL)
    return [loss for _, loss in sorted(losses(log).items())]


def mean(values):
    return sum(values) / len(values)


def table(results, steps):
    """Rows of the curves: the mean loss of every fifth, and of the last tenth beside bf16's."""
    last = max(1, steps // 10)
    base = mean(results["bf16"][-last:]) if "bf16" in results else None
    for name, curve in results.items():
        fifths = [mean(curve[len(curve) * i // 5:max(len(curve) * (i + 1) // 5, 1)])
                  for i in range(5)]
        end = mean(curve[-last:])
        yield [name, *(f"{x:.4f}" for x in fifths), f"{end:.4f}",
               f"{100 * (end / base - 1):+.3f} %" if base else ""]


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--dir")
    p.add_argument("--build", default=os.environ.get(
        "HAI_BUILD_DIR", os.path.join(benchtable.ROOT, "build")))
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--hidden", type=int, default=128)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--only", action="append", choices=RUNS, metavar="NAME")
    p.add_argument("--files", default=f"/usr/lib/python3.{sys.version_info[1]}/*.py, "
                                      "/usr/share/man/man7, /usr/share/man/man1")
    p.add_argument("--quick", action="store_true")
    p.add_argument("--write", action="store_true")
    options = p.parse_args()
    if options.quick:
        options.steps, options.hidden, options.layers = 6, 32, 1
        options.files = "tests/fixtures/README.md"
    return options


def main():
    options = parse()
    with tempfile.TemporaryDirectory(prefix="hai-fp8-") as scratch:
        options.dir = os.path.abspath(options.dir or scratch)
        os.makedirs(options.dir, exist_ok=True)
        config = training.model(options.hidden, options.layers, max(2, options.hidden // 32))
        config["initializer_range"] = 0.02
        with open(f"{options.dir}/config.json", "w", encoding="utf-8") as f:
            json.dump(config, f, indent=1)
        results = {}
        for name, keys in RUNS.items():
            if name in (options.only or RUNS):
                results[name] = train(options, f"{options.build}/jobs/hai-train", name, keys)
                print(f"{name}: {len(results[name])} steps, last loss {results[name][-1]:.4f}",
                      flush=True)
        lines = [f"{benchtable.machine()}. Hidden size {options.hidden}, {options.layers} layers, "
                 f"{options.steps} steps of 1,024 tokens; mean loss of every fifth of the steps, and "
                 "of the last tenth.", "",
                 *benchtable.rows(["recipe", "1/5", "2/5", "3/5", "4/5", "5/5", "last 1/10",
                                   "against bf16"], table(results, options.steps))]
        print("\n".join(lines))
        if options.write:
            benchtable.keep("training.md", "fp8", lines)


if __name__ == "__main__":
    main()
