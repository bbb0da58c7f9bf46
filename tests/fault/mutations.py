"""mutations.py - does the simulator find faults? Those of lib/pure/plant.h, planted one at a time.

A round hunts every fault with fresh seeds, at most --seeds of them; one that stays hidden is a
problem, and so is anything found where nothing is planted.
"""

import argparse
import json
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import cluster  # noqa: E402


def hunt(first, seeds):
    """Returns the number of faults, how many were wrongly found or not, and the most seeds it took."""
    print(f"first seed {first}", flush=True)
    program = os.path.join(os.environ.get("HAI_BUILD_DIR", "build"), "tests", "fault", "hai-sim-planted")
    done = subprocess.run([program, str(seeds), str(first)], text=True, check=False,
                          stdin=subprocess.DEVNULL, capture_output=True)
    print(done.stdout + done.stderr, end="", flush=True)
    totals = re.search(r"(\d+) planted, (\d+) wrong", done.stdout)
    took = [int(n) for n in re.findall(r"found after (\d+) seeds", done.stdout)]
    if not totals or (done.returncode != 0) != (int(totals[2]) > 0):
        return 0, 1, 0
    return int(totals[1]), int(totals[2]), max(took, default=0)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="mutations")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1000, help="the most for each fault")
    parser.add_argument("--seed", type=int, help="the first")
    args = parser.parse_args(argv)
    first = cluster.seed_of(args.seed)
    result = {"rounds": 0, "problems": 0, "planted": 0}
    most = 0
    for i in range(args.rounds):
        planted, wrong, took = hunt(first + i * args.seeds, args.seeds)
        result["rounds"] += 1
        result["planted"] += planted
        result["problems"] += wrong
        most = max(most, took)
    bad = result["problems"] > 0
    print(f"the best hidden took {most} seeds")
    print("result " + json.dumps(result))
    print(f"{int(not bad)} passed, {int(bad)} failed, 0 skipped")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
