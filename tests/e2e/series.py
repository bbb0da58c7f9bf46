#!/usr/bin/env python3
"""etc/examples/series by hand on two ranks: one is killed in the middle, and the resumed run ends
with the bits of an undisturbed one, far below predicting the last value.

usage: series.py HAI_EXAMPLE_SERIES
"""
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

STEPS = 240


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(program, folder, name):
    port = free_port()
    ranks = []
    for rank in range(2):
        env = {k: v for k, v in os.environ.items() if not k.startswith("HAI_")}
        env.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
                   HAI_CKPT_DIR=f"{folder}/{name}")
        ranks.append(subprocess.Popen(
            [program, "--steps", str(STEPS), "--log", f"{folder}/{name}.log"], env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    return ranks


def finish(ranks):
    """Exit statuses, and what rank 0 said on stdout and stderr."""
    texts = [p.communicate(timeout=120) for p in ranks]
    return [p.returncode for p in ranks], texts[0][0], texts[0][1]


def lines(folder, name):
    try:
        with open(f"{folder}/{name}.log") as f:
            return [line.split(" ", 1) for line in f if line.endswith("\n")]
    except FileNotFoundError:
        return []


def main():
    program = os.path.abspath(sys.argv[1])
    problems = []
    with tempfile.TemporaryDirectory(prefix="hai-e2e-") as folder:
        codes, said, _ = finish(start(program, folder, "control"))
        held = re.search(r"held out: loss ([\d.]+), predicting the last value ([\d.]+)", said)
        if codes != [0, 0] or not held or float(held[1]) * 4 > float(held[2]):
            problems.append(f"control: exits {codes}: {said[-500:]}")
        if not re.search(rf"step {STEPS}/{STEPS} loss \S+ \d+ windows/s \S+ left", said):
            problems.append(f"no progress: {said[-300:]}")
        control = dict(lines(folder, "control"))

        ranks = start(program, folder, "killed")
        while len(lines(folder, "killed")) < STEPS // 2 and ranks[0].poll() is None:
            time.sleep(0.002)
        ranks[1].send_signal(signal.SIGKILL)
        codes, _, errors = finish(ranks)
        if codes != [1, -9]:
            problems.append(f"killed: exits {codes}: {errors}")
        codes, resumed, errors = finish(start(program, folder, "killed"))
        if codes != [0, 0] or "resumed from" not in errors:
            problems.append(f"resumed: exits {codes}: {errors}")
        seen = lines(folder, "killed")
        differ = [step for step, bits in seen if control.get(step) != bits]
        if differ or {step for step, _ in seen} != set(control) or len(control) != STEPS:
            problems.append(f"{len(differ)} of {len(seen)} lines differ: {differ[:5]}")
        if held and held[0] not in resumed:
            problems.append(f"another end: {resumed[-200:]}")

        ranks = start(program, folder, "stopped")
        while len(lines(folder, "stopped")) < 10 and ranks[0].poll() is None:
            time.sleep(0.002)
        ranks[1].send_signal(signal.SIGTERM)
        codes, _, errors = finish(ranks)
        last = lines(folder, "stopped")[-1][0]
        if codes != [143, 143] or f"step-{last}.E0" not in os.listdir(f"{folder}/stopped"):
            problems.append(f"SIGTERM: exits {codes}, step {last}: {errors}")
    for problem in problems:
        print("FAILED:", problem)
    print("failed" if problems else "ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
