#!/usr/bin/env python3
"""hai-train by hand on 1, 2 and 4 ranks: kill -9 of a rank at a random step, a torn checkpoint,
SIGTERM; the resumed run's losses must be those of an undisturbed run, bit for bit.

usage: train_resume.py HAI_TRAIN [SEED [MODEL_DIR [short] [KEY=VALUE ...]]]

short: without two ranks on one node, which four on two nodes have too. one: one rank only. KEY=VALUE:
lines of the configuration, such as precision=fp8.
"""
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

from trainrun import free_port

# Small steps: under the sanitizers a step's arithmetic is all of the time. With one micro-batch of a
# sequence each, one and two ranks still add up several, and four have one.
STEPS = 24
EVERY = 4

CONFIG = """
model: {model}
out: {out}
data: {{files: [tests/fixtures/README.md, tests/fixtures/tokenizer], tokenizer: tests/fixtures/tokenizer/tiny}}
steps: {steps}
batch: 4
micro_batch: 1
seq: 24
seed: 7
optimizer: {{lr: 0.003}}
schedule: {{kind: multi_step, warmup: 5, at: [0.6, 0.8]}}
checkpoint: {{every: {every}, keep: 2}}
exact: {exact}
{more}
"""


class Run:
    """One attempt: `nodes` nodes of world/nodes ranks each."""

    def __init__(self, program, config, world, nodes):
        port = free_port()
        self.ranks = []
        for rank in range(world):
            env = {k: v for k, v in os.environ.items() if not k.startswith("HAI_")}
            env.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
                       MASTER_PORT=str(port), NODE_RANK=str(rank * nodes // world))
            self.ranks.append(subprocess.Popen([program, config], env=env,
                                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))

    def wait(self, timeout=120):
        """Exit statuses; whoever is left after the time-out is killed and counts as None."""
        end = time.time() + timeout
        codes = []
        self.messages = ""
        for p in self.ranks:
            try:
                self.messages += p.communicate(timeout=max(end - time.time(), 0.1))[1].decode()
                codes.append(p.returncode)
            except subprocess.TimeoutExpired:
                p.kill()
                p.communicate()
                codes.append(None)
        return codes


def steps(out):
    """(step, loss and norm) of every line of the log, computed twice or not."""
    try:
        with open(out + "/steps.log") as f:
            return [(int(w[0]), w[1:]) for w in (line.split() for line in f) if len(w) == 3]
    except FileNotFoundError:
        return []


def wait_step(out, step, run):
    while not any(s >= step for s, _ in steps(out)):
        if all(p.poll() is not None for p in run.ranks):
            raise SystemExit("run ended before step %d: %s" % (step, run.wait()))
        time.sleep(0.005)


def newest(out):
    names = [n for n in os.listdir(out + "/ckpt") if n.startswith("step-")]
    return out + "/ckpt/" + max(names, key=lambda n: int(n[5:].split(".")[0]))


class Tester:
    def __init__(self, program, model, seed, scratch, more):
        self.program, self.model, self.scratch = program, model, scratch
        self.more = "\n".join(line.replace("=", ": ") for line in more)
        self.random = random.Random(seed)
        self.failures = 0

    def check(self, ok, text):
        if not ok:
            self.failures += 1
            print("FAILED:", text)

    def config(self, name, exact="required"):
        out = "%s/%s" % (self.scratch, name)
        path = out + ".yaml"
        with open(path, "w") as f:
            f.write(CONFIG.format(model=self.model, out=out, steps=STEPS, every=EVERY,
                                  exact=exact, more=self.more))
        return path, out

    def finish(self, config, world, nodes, label):
        run = Run(self.program, config, world, nodes)
        codes = run.wait()
        self.check(codes == [0] * world, "%s: exits %s\n%s" % (label, codes, run.messages))
        return run.messages

    def compare(self, label, control, out):
        wanted = dict(steps(control))
        seen = steps(out)
        differ = sum(1 for s, bits in seen if wanted[s] != bits)
        missing = set(wanted) - {s for s, _ in seen}
        again = len(seen) - len({s for s, _ in seen})
        print("%s: steps whose loss differs: %d (of %d; %d computed again)"
              % (label, differ, len(wanted), again))
        self.check(differ == 0 and not missing and len(wanted) == STEPS, label + ": losses")

    def layout(self, world, nodes):
        label = "%d ranks on %d nodes" % (world, nodes)
        control_config, control = self.config("control-%d-%d" % (world, nodes))
        self.finish(control_config, world, nodes, label + " undisturbed")

        config, out = self.config("killed-%d-%d" % (world, nodes))
        # Once about the first checkpoint; once where there is one to tear, and time to fall before the
        # run ends.
        for first, last in ((2, 2 * EVERY), (2 * EVERY + 2, STEPS - 6)):
            run = Run(self.program, config, world, nodes)
            wait_step(out, self.random.randint(first, last), run)
            victim = self.random.randrange(world)
            run.ranks[victim].send_signal(signal.SIGKILL)
            start = time.time()
            codes = run.wait(20)
            took = time.time() - start
            self.check(all(c == (-9 if i == victim else 1) for i, c in enumerate(codes)),
                       "%s: after kill -9 of rank %d: exits %s" % (label, victim, codes))
            self.check(took < 5, "%s: the others took %.1f s to notice" % (label, took))
        torn = newest(out)
        with open(torn + "/part-00000.safetensors", "r+b") as f:
            f.truncate(10000)
        messages = self.finish(config, world, nodes, label + " resumed")
        self.check("passed over " + torn in messages, label + ": the torn checkpoint: " + messages)
        self.compare(label + ", kill -9", control, out)

        config, out = self.config("stopped-%d-%d" % (world, nodes))
        run = Run(self.program, config, world, nodes)
        wait_step(out, 9, run)
        for p in run.ranks:
            p.send_signal(signal.SIGTERM)
        codes = run.wait(20)
        self.check(codes == [143] * world, "%s: SIGTERM: exits %s" % (label, codes))
        last = max(s for s, _ in steps(out))
        self.check(newest(out).endswith("/step-%d.E0" % last), label + ": SIGTERM saves")
        self.finish(config, world, nodes, label + " after SIGTERM")
        self.compare(label + ", SIGTERM", control, out)
        model = open(control + "/model.safetensors", "rb").read()
        self.check(model == open(out + "/model.safetensors", "rb").read(), label + ": exported model")

    def stop_at(self, config, out, world, nodes, step):
        run = Run(self.program, config, world, nodes)
        wait_step(out, step, run)
        for p in run.ranks:
            p.send_signal(signal.SIGTERM)
        self.check(run.wait(20) == [143] * world, "SIGTERM on %d nodes" % nodes)

    def interrupted(self):
        config, out = self.config("interrupted")
        run = Run(self.program, config, 2, 1)
        wait_step(out, 3, run)
        for p in run.ranks:
            p.send_signal(signal.SIGINT)
        codes = run.wait(20)
        self.check(codes == [130] * 2, "Ctrl-C: exits %s" % codes)
        self.check(newest(out).startswith(out + "/ckpt/step-"), "Ctrl-C saves")

    def moved(self):
        """The same ranks elsewhere: the same bits. Fewer ranks: refused, or said."""
        config, out = self.config("moved")
        for nodes, step in ((2, 5), (4, 10), (1, 16)):
            self.stop_at(config, out, 4, nodes, step)
        messages = self.finish(config, 4, 2, "moved")
        self.check("losses may differ" not in messages, "moved: " + messages)
        self.compare("4 ranks moved over 2, 4, 1 and 2 nodes", self.scratch + "/control-4-2", out)

        config, out = self.config("fewer")
        self.stop_at(config, out, 2, 1, 8)
        run = Run(self.program, config, 1, 1)
        self.check(run.wait() == [2] and "2 ranks (now 1)" in run.messages,
                   "exact: required: " + run.messages)
        config, out = self.config("fewer", "preferred")
        messages = self.finish(config, 1, 1, "fewer ranks")
        self.check("losses may differ: saved with 2 ranks (now 1)" in messages, messages)


def main():
    program = os.path.abspath(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 30)
    model = sys.argv[3] if len(sys.argv) > 3 else "tests/fixtures/models/llama_mha"
    print("seed", seed)
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as scratch:
        t = Tester(program, model, seed, scratch, [a for a in sys.argv[4:] if "=" in a])
        t.layout(1, 1)
        if "one" not in sys.argv[4:]:
            if "short" not in sys.argv[4:]:
                t.layout(2, 1)
            t.layout(4, 2)
            t.moved()
            t.interrupted()
    print("failed" if t.failures else "ok")
    return 1 if t.failures else 0


if __name__ == "__main__":
    sys.exit(main())
