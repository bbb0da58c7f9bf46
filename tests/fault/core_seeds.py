"""core_seeds.py - fresh seeds of hai-sim: the scheduler's core in storms of simulated faults.

A failing seed repeats exactly: hai-sim --fuzz --seeds SEED..SEED.
"""

import argparse
import json
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import cluster  # noqa: E402

BOUND_ROUNDS = 50


def main(argv=None):
    parser = argparse.ArgumentParser(prog="core_seeds")
    parser.add_argument("--rounds", type=int, default=200, help="seeds")
    parser.add_argument("--seed", type=int, help="the first")
    args = parser.parse_args(argv)
    first = cluster.seed_of(args.seed)
    seeds = f"{first}..{first + args.rounds - 1}"
    print(f"seeds {seeds}", flush=True)
    done = subprocess.run([cluster.program("hai-sim"), "--fuzz", "--seeds", seeds], text=True, check=False,
                          stdin=subprocess.DEVNULL, capture_output=True)
    print(done.stdout + done.stderr, end="")
    totals = re.search(r"(\d+) seeds, (\d+) entries, (\d+) jobs, (\d+) placements, (\d+) faults, "
                       r".*: (\d+) failed", done.stdout)
    names = ("rounds", "entries", "jobs", "placements", "faults", "problems")
    result = dict(zip(names, map(int, totals.groups()))) if totals else {"problems": 1}
    # The bound on waiting is no check where nobody ever waits that long.
    waited = re.search(r"(\d+) times a job waited for too long, (\d+) of them near the bound", done.stdout)
    if not waited or (args.rounds >= BOUND_ROUNDS and "0" in waited.groups()):
        print("the bound on waiting was never put to the test")
        result["problems"] += 1
    bad = done.returncode != 0 or result["problems"] > 0
    print("result " + json.dumps(result))
    print(f"{int(not bad)} passed, {int(bad)} failed, 0 skipped")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
