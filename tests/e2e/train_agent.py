#!/usr/bin/env python3
"""hai-train under an agent whose scheduler is away: no checkpoint is ever answered for, and the run
ends well all the same, as its saves are on disk.

usage: train_agent.py HAI_TRAIN
"""
import os
import socket
import subprocess
import sys
import tempfile
import threading

STEPS = 24

CONFIG = """
model: tests/fixtures/models/llama_mha
out: {out}
data: {{files: tests/fixtures/README.md, tokenizer: tests/fixtures/tokenizer/tiny}}
steps: {steps}
batch: 1
seq: 16
checkpoint: {{every: 1, keep: 2}}
"""


def answer_hello_only(listener, heard):
    """The protocol of rank/rankproto.h, from a silent agent."""
    connection, _ = listener.accept()
    with connection, connection.makefile("r") as lines:
        for line in lines:
            heard.append(line)
            if line.startswith("hello "):
                connection.sendall(b"welcome 1 5 1 3 " + b"ab" * 32 + b"\n")


def main():
    program = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as scratch:
        heard = []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(scratch + "/socket")
        listener.listen()
        threading.Thread(target=answer_hello_only, args=(listener, heard), daemon=True).start()
        with open(scratch + "/train.yaml", "w") as f:
            f.write(CONFIG.format(out=scratch + "/out", steps=STEPS))
        env = {k: v for k, v in os.environ.items() if not k.startswith("HAI_")}
        env.update(HAI_SOCKET=scratch + "/socket", RANK="0", WORLD_SIZE="1")
        p = subprocess.run([program, scratch + "/train.yaml"], env=env, capture_output=True,
                           text=True, timeout=300)
        kept = sorted(n for n in os.listdir(scratch + "/out/ckpt") if n.startswith("step-"))
        problems = []
        if p.returncode != 0:
            problems.append("exit %d: %s" % (p.returncode, p.stderr))
        if kept != ["step-%d.E3" % s for s in (STEPS - 1, STEPS)]:
            problems.append("kept %s" % kept)
        if not os.path.exists(scratch + "/out/model.safetensors"):
            problems.append("no model")
        if len([line for line in heard if line.startswith("commit ")]) < 10:
            problems.append("heard %s" % heard)
        progress = [line.split() for line in heard if line.startswith("progress step=")]
        if not progress or any("unit=tokens" not in words for words in progress):
            problems.append("progress %s" % progress)
        if "step %d is saved, but not recorded" % STEPS not in p.stderr:
            problems.append("silent: %s" % p.stderr)
    for problem in problems:
        print("FAILED:", problem)
    print("failed" if problems else "ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
