#!/usr/bin/env python3
"""hai-train on shards of hai-prep: one, two, three and four ranks, killed and stopped in between, take
every sample once and in order; stages follow each other, over restarts; what the sources' shares were
is said; other data is refused.

usage: train_shards.py HAI_TRAIN HAI_PREP
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from checks import check, closing, run

MODEL = "tests/fixtures/models/dsv3/config.json"
CONFIG = """
model: {model}
out: {out}
data:
  sources: [{{path: {scratch}/a, weight: 3}}, {{path: {scratch}/b, weight: 1}}]
  documents: {documents}
  tokenizer: tests/fixtures/tokenizer/tiny
  record: {out}/samples
steps: {steps}
batch: 7
micro_batch: 2
seq: 16
optimizer: {{lr: 0.003}}
checkpoint: {{every: 3, keep: 100}}
"""
STEPS = 24
BATCH = 7


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(program, config, world):
    port = free_port()
    ranks = []
    for rank in range(world):
        env = {k: v for k, v in os.environ.items() if not k.startswith("HAI_")}
        env.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
                   MASTER_PORT=str(port), NODE_RANK="0")
        ranks.append(subprocess.Popen([program, config], env=env, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.PIPE))
    return ranks


def finish(ranks):
    err = b"".join(p.communicate(timeout=300)[1] for p in ranks)
    return [p.returncode for p in ranks], err.decode()


def record(out, world):
    """Samples by step, of one attempt; the files are taken away for the next one."""
    steps = {}
    for rank in range(world):
        path = "%s/samples.%d" % (out, rank)
        if not os.path.exists(path):
            continue
        for line in open(path):
            step, first, n = map(int, line.split())
            steps.setdefault(step, []).extend(range(first, first + n))
        os.unlink(path)
    return steps


def wait_step(out, ranks, step):
    while True:
        try:
            if int(open(out + "/steps.log").read().split("\n")[-2].split()[0]) >= step:
                return
        except (FileNotFoundError, IndexError):
            pass
        if any(p.poll() is not None for p in ranks):
            raise SystemExit("ended before step %d: %s" % (step, finish(ranks)))
        time.sleep(0.005)


def check_consumed(program, scratch, worlds, documents):
    """Attempts of those sizes; each but the last is ended at some step, by kill -9 or SIGTERM."""
    out, config = scratch + "/" + documents, scratch + "/train.yaml"
    os.mkdir(out)
    with open(config, "w") as f:
        f.write(CONFIG.format(model=MODEL, out=out, scratch=scratch, documents=documents,
                              steps=STEPS))
    lineage, err, n_resumed = {}, "", 0
    for i, world in enumerate(worlds):
        last = i == len(worlds) - 1
        ranks = start(program, config, world)
        if not last:
            wait_step(out, ranks, 5 * (i + 1))
            if i % 2:
                for p in ranks:
                    p.send_signal(signal.SIGTERM)
            else:
                ranks[-1].send_signal(signal.SIGKILL)
        codes, err = finish(ranks)
        check(not last or codes == [0] * world, "%s: %s" % (codes, err))
        found = re.search(r"resumed from \S+/step-(\d+)\.", err)
        n_resumed += bool(found)
        # What is made again replaces what an earlier attempt made behind the checkpoint.
        resumed = int(found.group(1)) if found else 0
        lineage = {s: v for s, v in lineage.items() if s <= resumed}
        lineage.update(record(out, world))
    check(n_resumed >= 2, "of %s attempts %d were resumed" % (worlds, n_resumed))
    check(sorted(lineage) == list(range(1, STEPS + 1)), "steps %s" % sorted(lineage))
    consumed = [sample for step in sorted(lineage) for sample in lineage[step]]
    check(consumed == list(range(STEPS * BATCH)), "samples %s" % consumed)
    shares = re.search(r"samples up to step %d: %s/a ([0-9.]+) %% \((\d+)\), %s/b ([0-9.]+) %% "
                       r"\((\d+)\)" % (STEPS, scratch, scratch), err)
    check(shares, err)
    check(int(shares.group(2)) + int(shares.group(4)) == STEPS * BATCH and
          60 < float(shares.group(1)) < 90, shares.group(0))
    return out, config


STAGES = """stages:
  - {{tokens: 1280, sources: [{{path: {scratch}/a, weight: 3}}, {{path: {scratch}/b}}]}}
  - {{sources: [{{path: {scratch}/a, middle: {scratch}/b}}], fim: {fim}}}
"""


def check_stages(program, scratch):
    """A stage of 80 samples, which ends within step 12, and another: the same losses where a run goes on
    before, across and behind the end; a stage may be changed until it has begun."""
    config = scratch + "/stages.yaml"

    def configure(out, fim=0.25):
        text = CONFIG.format(model=MODEL, out=out, scratch=scratch, documents="within", steps=18)
        with open(config, "w") as f:
            f.write(re.sub(r"sources: .*\n", STAGES.format(scratch=scratch, fim=fim), text))

    def losses(out):
        return [line.split() for line in open(out + "/steps.log")]

    whole, cut = scratch + "/whole", scratch + "/cut"
    for out in (whole, cut):
        os.mkdir(out)
    configure(whole)
    codes, err = finish(start(program, config, 1))
    check(codes == [0], err)
    said = re.search(r"samples up to step 18: \S+/a ([0-9.]+) % \(\d+\), \S+/b", err)
    check(said and 60 < float(said.group(1)) < 90, err)
    configure(cut, 1)
    for step in (4, 9, 15):
        ranks = start(program, config, 1)
        wait_step(cut, ranks, step)
        ranks[0].send_signal(signal.SIGTERM)
        codes, err = finish(ranks)
        check(codes == [143], err)
        if step == 4:    # what comes later is another mixture now
            configure(cut)
    codes, err = finish(start(program, config, 1))
    check(codes == [0] and losses(cut) == losses(whole), "%s: %s" % (codes, err))
    configure(cut, 0.5)
    codes, err = finish(start(program, config, 1))
    check(codes[0] in (1, 2) and "trained on other data" in err, err)
    with open(config) as f:
        text = f.read()
    for old, new, says in (("tokens: 1280, ", "", "tokens in every stage but the last"),
                           ("fim: 0.5", "fim: 1.5", "fim from 0 to 1"),
                           (", middle: %s/b" % scratch, "", "a middle in one of its sources"),
                           ("stages:", "sources: [{path: a}]\n  stages:", "either sources or stages"),
                           ("path: %s/b}" % scratch, "path: %s/a}" % scratch, "a source twice")):
        with open(config, "w") as f:
            f.write(text.replace(old, new, 1))
        codes, err = finish(start(program, config, 1))
        check(codes == [2] and says in err, "%s: %s %s" % (new, codes, err))


def check_refusals(program, scratch, out, config):
    """Another weight is other data; shards of another tokenizer, a batch below the ranks."""
    text = open(config).read()
    for old, new, says in (
            ("weight: 1}", "weight: 2}", "trained on other data"),
            ("documents: within", "documents: across", "trained on other data"),
            ("tokenizer: tests/fixtures/tokenizer/tiny", "tokenizer: bytes", "vocabulary"),
            ("sources:", "files: [README.md]\n  sources:", "both there"),
            ("weight: 1}", "weight: 0}", "train.yaml:5:"),
            ("weight: 1}", "wieght: 1}", "path, weight and middle only"),
            ("weight: 1}", "weight: 1e-9}", "at least one of 65536 samples")):
        check(old in text, old)
        with open(config, "w") as f:
            f.write(text.replace(old, new))
        codes, err = finish(start(program, config, 1))
        check(codes[0] in (1, 2) and says in err, "%s: %s %s" % (new, codes, err))
    with open(config, "w") as f:
        f.write(text.replace("batch: 7", "batch: 1"))
    codes, err = finish(start(program, config, 2))
    check(codes == [2, 2] and "one sample or more for each of the 2 ranks" in err, err)
    # Damage in a shard ends the run with the shard's name.
    shutil.rmtree(out + "/ckpt")
    with open(scratch + "/a/shard-00000.hai", "r+b") as f:
        f.seek(4096 + 100)
        f.write(b"\xff\xfe\xfd")
    with open(config, "w") as f:
        f.write(text)
    codes, err = finish(start(program, config, 1))
    check(codes[0] not in (0, None) and "a/shard-00000.hai: checksum" in err, err)


def main():
    program, prep = map(os.path.abspath, sys.argv[1:3])
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as scratch:
        for name, paths in (("a", ["tests/unit/test_json.c", "tests/unit/test_yaml.c"]),
                            ("b", ["tests/training.py"])):
            code, _, err = run(prep, scratch + "/" + name, "--model",
                               "tests/fixtures/tokenizer/tiny",
                               *[a for p in paths for a in ("--text", p)])
            check(code == 0, err)
        check_consumed(program, scratch, [2, 4, 3, 1], "across")
        out, config = check_consumed(program, scratch, [1, 3, 2, 4], "within")
        meta = json.load(open("%s/ckpt/step-%d.E0/manifest.json" % (out, STEPS)))
        check(meta["next_sample"] == STEPS * BATCH, str(meta["next_sample"]))
        check_stages(program, scratch)
        check_refusals(program, scratch, out, config)
    return closing()


if __name__ == "__main__":
    sys.exit(main())
