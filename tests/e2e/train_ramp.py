#!/usr/bin/env python3
"""hai-train with a batch that grows: how many sequences each step had, the same on two ranks, and the
same losses after a restart in the middle.

usage: train_ramp.py HAI_TRAIN
"""
import json
import os
import shutil
import sys
import tempfile

from checks import check, closing
from trainrun import train

# 2 + done / 4 sequences to multiples of 2, whole after 24 x 16 tokens.
CONFIG = """
model: tests/fixtures/models/qwen2_tied/config.json
out: {out}
data: {{files: [tests/fixtures/README.md, tests/fixtures/tokenizer], tokenizer: bytes}}
steps: 9
batch: 8
micro_batch: 1
seq: 16
optimizer: {{lr: 0.003}}
schedule: {{kind: wsd, warmup: 2, decay: 0.4, curve: cosine, final: 0.1, tail_at: [0.8], tail: [0.05]}}
ramp: {{from: 2, tokens: 384, multiple: 2}}
checkpoint: {{every: 1, keep: 100}}
exact: required
"""
DONE = [0, 2, 4, 6, 8, 12, 16, 22, 28, 36]


def sequences(ckpt):
    """Those done after every step, as checkpoints say."""
    return [json.load(open("%s/step-%d.E0/manifest.json" % (ckpt, n)))["next_sample"]
            for n in range(1, len(DONE))]


def main():
    program = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        out, config = scratch + "/out", scratch + "/train.yaml"
        open(config, "w").write(CONFIG.format(out=out))
        code, err = train(program, config)
        check(code == 0, err)
        check(sequences(out + "/ckpt") == DONE[1:], "%s" % sequences(out + "/ckpt"))
        for step in range(5, len(DONE)):
            shutil.rmtree("%s/ckpt/step-%d.E0" % (out, step))
        code, err = train(program, config)
        check(code == 0 and "resumed from" in err, err)
        lines = open(out + "/steps.log").read().splitlines()
        check(len(lines) == 9 + 5 and lines[4:9] == lines[9:], "other losses: %s" % lines)
        check(sequences(out + "/ckpt") == DONE[1:], "%s" % sequences(out + "/ckpt"))
        two = scratch + "/two"
        open(config, "w").write(CONFIG.format(out=two))
        code, err = train(program, config, 2)
        check(code == 0, err)
        check(sequences(two + "/ckpt") == DONE[1:], "two ranks: %s" % sequences(two + "/ckpt"))
        open(config, "w").write(CONFIG.format(out=two).replace("multiple: 2", "multiple: 3"))
        code, err = train(program, config)
        check(code == 2 and "ramp.multiple is 3" in err and "train.yaml" in err, err)
    sys.exit(closing())


main()
