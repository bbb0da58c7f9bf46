#!/usr/bin/env python3
"""hai-train with every balance loss and token dropping: the same losses on one rank and on two, as far
as sums in another order are the same, and the same bits after a restart in the middle; what metrics say
of the load; and when the bias of the gates stops.

usage: train_balance.py HAI_TRAIN
"""
import json
import os
import shutil
import sys
import tempfile

from checks import check, closing
from trainrun import lines, parts, train

CONFIG = """
model: tests/fixtures/models/dsv2_full/config.json
out: {out}
data: {{files: [tests/fixtures/README.md], tokenizer: tests/fixtures/tokenizer/tiny}}
steps: 5
batch: 4
micro_batch: 2
seq: 24
loss: {{balance_alpha: 0.003, device_alpha: 0.05, communication_alpha: 0.02, balance_groups: {groups},
       max_groups: 2, balance_over: micro_batch}}
dropping: {{capacity: 1.0, whole: 0.3}}
checkpoint: {{every: 1, keep: 100}}
exact: required
"""

BIAS = """
model: tests/fixtures/models/dsv3/config.json
out: {out}
data: {{files: [tests/fixtures/README.md], tokenizer: tests/fixtures/tokenizer/tiny}}
steps: 4
batch: 2
seq: 24
loss: {{bias_rate: 0.125, bias_until: 0.5}}
checkpoint: {{every: 1, keep: 100}}
"""


def losses(out):
    return [float.fromhex(line.split()[1]) for line in lines(out + "/steps.log")]


def bias(program, config, out):
    """The gates' bias moves in every step up to the part of the run that is given, then stays; the
    multi-token module's never moves."""
    with open(config, "w") as f:
        f.write(BIAS.format(out=out))
    code, err = train(program, config)
    check(code == 0, err)
    steps = [{name: values for name, values in parts("%s/ckpt/step-%d.E0" % (out, step)).items()
              if name.startswith("weight/") and name.endswith("e_score_correction_bias")}
             for step in range(1, 5)]
    main_layers = sorted(steps[0])[:2]
    check([len(x) for x in steps] == [3] * 4, "layers with a bias: %s" % sorted(steps[0]))
    check(steps[1] == steps[2] == steps[3], "the bias moved after half of the run")
    for name in main_layers:
        check(all(abs(x) in (0, 0.125) for x in steps[0][name]), "%s" % [steps[0][name]])
        check(steps[0][name] != steps[1][name], "%s stayed" % name)
    module = steps[0].keys() - set(main_layers)
    check(all(not any(steps[3][name]) for name in module), "the multi-token module's bias moved")


def main():
    program = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        config = scratch + "/train.yaml"

        def write(out, text=CONFIG, groups=4):
            with open(config, "w") as f:
                f.write(text.format(out=out, groups=groups))
            return out

        one = write(scratch + "/one")
        code, err = train(program, config)
        check(code == 0, err)
        for step in range(3, 6):
            shutil.rmtree("%s/ckpt/step-%d.E0" % (one, step))
        code, err = train(program, config)
        check(code == 0 and "resumed from" in err, err)
        got = losses(one)
        check(len(got) == 5 + 3 and got[2:5] == got[5:], "other losses: %s" % got)

        last = json.loads(lines(one + "/metrics.jsonl")[-1])
        terms = [last["balance_" + part] for part in ("expert", "device", "communication")]
        check(min(terms) > 0 and abs(sum(terms) - last["balance"]) < 1e-9, "parts: %s" % last)
        load = last["load"]
        check(load["steps"] == 3, "window of a resumed run: %s" % load)
        check([x["layer"] for x in load["layers"]] == [1, 2], "layers: %s" % load)
        for x in load["layers"]:
            check(len(x["picks"]) == 16 and sum(x["picks"]) == 3 * 4 * 24 * 4, "picks: %s" % x)
            check(0 < x["dropped"] < 0.5, "dropped: %s" % x)
            check(x["max_violation"] == max(x["picks"]) * 16 / sum(x["picks"]) - 1, "%s" % x)
        check(last["load_violation"] == max(x["max_violation"] for x in load["layers"]), "%s" % last)

        two = write(scratch + "/two")
        code, err = train(program, config, 2)
        check(code == 0, err)
        for step, (a, b) in enumerate(zip(got, losses(two))):
            check(abs(a - b) < 1e-5 * a, "step %d: %.9g on one rank, %.9g on two" % (step, a, b))

        plain = write(scratch + "/plain", CONFIG.replace("dropping: {{capacity: 1.0",
                                                         "dropping: {{capacity: 0.0"))
        code, err = train(program, config)
        check(code == 0 and abs(losses(plain)[0] - got[0]) > 1e-5, "dropping changes nothing")

        write(scratch + "/three", groups=3)
        code, err = train(program, config)
        check(code != 0 and "balance_groups is 3; expected a divisor of the model's 16 experts" in err,
              err)
        bias(program, config, scratch + "/bias")
    sys.exit(closing())


main()
