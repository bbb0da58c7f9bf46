#!/usr/bin/env python3
"""hai-train's watching: a line of metrics a step, averaged weights, batches that are passed over and
going back to a checkpoint; all of it the same on two ranks and after a restart in the middle.

usage: train_watch.py HAI_TRAIN HAI
"""
import json
import os
import random
import shutil
import sys
import tempfile

from checks import check, closing, run
from trainrun import lines, parts, train

STEPS = 40
CONFIG = """
model: tests/fixtures/models/qwen2_tied/config.json
out: {out}
data: {{files: [{text}], tokenizer: bytes}}
steps: {steps}
batch: 2
micro_batch: 1
seq: 32
seed: 3
optimizer: {{lr: 0.01}}
schedule: {{kind: constant}}
ema: {{decay: 0.75}}
spikes: {{loss: {loss}, window: 8, patience: {patience}, back: {back}}}
checkpoint: {{every: 1, keep: 100}}
exact: required
"""


def write_text(path):
    """Lines that are soon learnt, and a few places of noise."""
    draw = random.Random(1)
    with open(path, "wb") as f:
        for i in range(160):
            f.write(b"the quick brown fox; " * 3)
            if i % 40 == 20:
                f.write(bytes(draw.randrange(32, 256) for _ in range(64)))


def metrics(out):
    return [json.loads(line) for line in lines(out + "/metrics.jsonl")]


def check_metrics(out, world):
    found = metrics(out)
    steps = [m["step"] for m in found if "skipped" not in m]
    check(steps == list(range(1, STEPS + 1)), "steps %s" % steps)
    check([m["samples"] for m in found] == [2 * (i + 1) for i in range(len(found))], "samples")
    log = [line.split() for line in lines(out + "/steps.log")]
    check([float.fromhex(w[1]) for w in log] == [m["loss"] for m in found if "skipped" not in m],
          "losses of steps.log and metrics.jsonl")
    for m in found:
        check(m["tokens_per_s"] > 0 and m["memory_bytes"] > 1 << 20 and m["lr"] == 0.01 and
              0 <= m["communication"] <= 1 and m["utilisation"] > 0 and "mtp" not in m and
              m["cross_entropy"] == m["loss"], "%s" % m)
    skipped = [m for m in found if "skipped" in m]
    check(skipped and all("loss" in m["skipped"] for m in skipped), "%d ranks: no spike" % world)
    return found


def check_average(out):
    """Of every step's weights, recomputed."""
    first = parts(out + "/ckpt/step-1.E0")
    names = [n[len("ema/"):] for n in first if n.startswith("ema/")]
    check(names and all("weight/" + n in first for n in names), "%s" % list(first))
    name = min(names, key=lambda n: len(first["ema/" + n]))
    average = list(first["ema/" + name])
    for step in range(2, STEPS + 1):
        found = parts("%s/ckpt/step-%d.E0" % (out, step))
        average = [a + 0.25 * (w - a) for a, w in zip(average, found["weight/" + name])]
        worst = max(abs(a - e) for a, e in zip(average, found["ema/" + name]))
        check(worst < 1e-5, "step %d: the average of %s is off by %g" % (step, name, worst))


def same_run(program, folder, text):
    """Alone, on two ranks, and with a restart in the middle."""
    logs = {}
    for world in (1, 2):
        out, config = "%s/w%d" % (folder, world), folder + "/train.yaml"
        open(config, "w").write(CONFIG.format(out=out, text=text, steps=STEPS, loss=8, patience=3,
                                              back=3))
        code, err = train(program, config, world)
        check(code == 0 and "batch passed over" in err, err)
        found = check_metrics(out, world)
        spike = next(m["step"] for m in found if "skipped" in m)
        check_average(out)
        before = lines(out + "/steps.log")
        for step in range(max(spike - 2, 2), STEPS + 1):
            shutil.rmtree("%s/ckpt/step-%d.E0" % (out, step))
        code, err = train(program, config, world)
        check(code == 0 and "resumed from" in err and "batch passed over" in err, err)
        check(lines(out + "/steps.log")[len(before):] == before[max(spike - 3, 1):],
              "other losses after a restart before the spike, %d ranks" % world)
        logs[world] = [line.split()[0] for line in before]
    return folder + "/w1"


def goes_back(program, folder, text):
    """No patience: back at the first spike, and on behind it; then not often enough."""
    out, config = folder + "/back", folder + "/back.yaml"
    open(config, "w").write(CONFIG.format(out=out, text=text, steps=STEPS, loss=8, patience=0,
                                          back=3))
    code, err = train(program, config, 2)
    check(code == 0 and "going back to the newest checkpoint" in err and "resumed from" in err, err)
    found = metrics(out)
    check(sum("skipped" in m for m in found) >= 1, "no spike")
    check([m["samples"] for m in found] == [2 * (i + 1) for i in range(len(found))],
          "samples were used twice, or not at all")
    shutil.rmtree(out)
    open(config, "w").write(CONFIG.format(out=out, text=text, steps=STEPS, loss=8, patience=0,
                                          back=0))
    code, err = train(program, config)
    check(code == 1 and "has gone back 0 times" in err and "median" in err, "%d %s" % (code, err))


def plots(hai, out, folder):
    env = dict(os.environ, LC_ALL="C.UTF-8")
    code, text, err = run(hai, "plot", out + "/metrics.jsonl", env=env)
    check(code == 0 and "loss, last" in text and "tokens_per_s, last" in text, text + err)
    check("passed over" in err, err)
    code, text, err = run(hai, "plot", out + "/metrics.jsonl", "--curve", "grad_norm", "--svg",
                          folder + "/a.svg", env=env)
    check(code == 0 and not text and "1 curves" in err, text + err)
    with open(folder + "/a.svg", encoding="utf-8") as f:
        check("<polyline" in f.read(), "no curve in the picture")
    code, text, err = run(hai, "plot", out + "/metrics.jsonl", "--curve", "x", env=env)
    check(code == 2 and "--curve is 'x'" in err and "grad_norm" in err, "%d %s" % (code, err))
    code, text, err = run(hai, "plot", "--json", out + "/metrics.jsonl", env=env)
    check(code == 0 and len(json.loads(text)["loss"]) == STEPS, text[:200] + err)


def main():
    program, hai = (os.path.abspath(path) for path in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as folder:
        write_text(folder + "/text")
        out = same_run(program, folder, folder + "/text")
        goes_back(program, folder, folder + "/text")
        plots(hai, out, folder)
    sys.exit(closing())


main()
