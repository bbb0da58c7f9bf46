#!/usr/bin/env python3
"""core.py - how long the scheduler's core takes to decide, by nodes and waiting jobs.

usage: tests/bench/core.py [--quick] [--write]

Processor time of one core, from bench-core: a decision after 10 changes, all that follows from them,
the first pass after a restart, and what `hai why` of one job computes, under time-sharing, and in
strict order with backfill, quotas and reservations; and a forecast of all that waits. --quick: the smallest case alone. --write keeps the table in docs/performance.md.
"""

import argparse
import os
import re
import subprocess
import sys

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
import benchtable  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("HAI_BUILD_DIR", os.path.join(ROOT, "build-tests/release"))
CASES = [(nodes, jobs) for nodes in (1000, 5000, 10000) for jobs in (1000, 10000, 100000)]
FORECAST_JOBS = 10000
POLICIES = {"sharing time": [], "strict, backfill, quotas, reservations":
            ["backfill", "quotas", "reserve"]}
# Slurm 22.05, recorded on a machine of the same kind: a main pass, which ends at the first job that
# does not fit; the original's open scheduler: one tick.
PEERS = {(1000, 10000): "27 ms mean", (10000, 10000): "232 ms mean, 466 max",
         (1250, 10000): "1,704 ms (the original)"}


def measure(nodes, jobs, words):
    """Figures of one run, in ms."""
    text = subprocess.run([os.path.join(BUILD, "tests/bench/bench-core"), str(jobs), str(nodes),
                           *words, *([] if jobs == FORECAST_JOBS else ["noforecast"])], check=True, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL).stdout

    def find(pattern):
        return [float(x) for x in re.search(pattern, text).groups()]
    decision = find(r"a decision after 10 changes: median ([0-9.]+) ms, p99 ([0-9.]+) ms")
    follows = find(r"all that follows from them: median ([0-9.]+) ms, p99 ([0-9.]+) ms")
    restart = find(r"decode ([0-9.]+) ms; first pass ([0-9.]+) ms")
    waiting = find(r"([0-9]+) jobs wait on")
    why = re.search(r"why a job waits: median ([0-9.]+) ms, p99 ([0-9.]+) ms", text)
    forecast = re.search(r"a forecast of [0-9]+ jobs: ([0-9.]+) ms", text)
    return (decision, follows, restart, waiting[0],
            f"{float(why[1]):.2f} / {float(why[2]):.2f}" if why else "",
            f"{float(forecast[1]) / 1000:.1f}" if forecast else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    cases = CASES[:1] if args.quick else [(1250, 10000)] + CASES
    rows = []
    for policy, words in POLICIES.items():
        for nodes, jobs in cases:
            print(f"{nodes} nodes, {jobs} jobs, {policy}", file=sys.stderr)
            decision, follows, restart, waiting, why, forecast = measure(nodes, jobs, words)
            rows.append([policy, f"{nodes:,}", f"{jobs:,}", f"{waiting:,.0f}",
                         f"{decision[0]:.2f} / {decision[1]:.2f}",
                         f"{follows[0]:.2f} / {follows[1]:.2f}",
                         f"{restart[0]:.0f} + {restart[1]:.0f}", why, forecast,
                         PEERS.get((nodes, jobs), "")])
    head = ["policy", "nodes", "jobs", "of them wait", "decision, median / p99 ms",
            "all that follows", "restart: read + first pass, ms",
            "why, one job, median / p99 ms", "forecast of all, s", "peer"]
    lines = [f"{benchtable.machine()}; processor time. Bars at 10,000 nodes and 100,000 jobs: a "
             "decision 10 ms median and 25 ms p99, the first pass after a restart 1 s; the "
             "original's case (1,250 nodes, 10,000 jobs) 2 ms; why, of 10,000 jobs, 5 ms. A child of "
             "the scheduler makes the forecast.", "", *benchtable.rows(head, rows)]
    print("\n".join(lines))
    if args.write:
        benchtable.keep("performance.md", "core", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
