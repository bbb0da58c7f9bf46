"""eta.py - how well the start of waiting jobs is foreseen, on public traces.

usage: tests/bench/eta.py [--quick] [--write] [--jobs N]

At every few submissions that do not start at once the core is asked when the job will start
(`hai sim --eta`), and the answer is held against what then happens in the replay. Run times are not
told to the core: it learns them as it goes. Beside it naive answers, from the same run and by the same
predicted run times: GPU time ahead of the job over all GPUs, where ahead is what waits and goes before
it; that and what runs and would go before it; that and all else that runs; and "now". The one with the
least median error is the one to beat. --quick: some days of each trace, as tests/run has it. --write
keeps the table in docs/policy.md. --jobs: so many runs at a time, by default as many as cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
import benchtable  # noqa: E402
import cluster  # noqa: E402

TRACES = os.path.join(benchtable.ROOT, "tests/fixtures/traces")
# trace, what makes its load 0.9, of how many waiting submissions one is asked in each of the modes
CASES = [("philly_2017oct", ["--nodes", "82"], (20, 40, 40)),
         ("acme_kalos_like_a", ["--load", "0.9"], (1, 1, 120))]
# of which the bar speaks; "now" is no reckoning, but shown
NAIVE = {"waits": "waiting ahead", "order": "and running ahead", "runs": "and all that runs"}
MODES = {"sharing time": "policy: {cross_zone_jobs: 1}\n",
         "strict order, backfill": "policy: {cross_zone_jobs: 1, time_sharing: false}\n",
         "first come, first served":
             "policy: {cross_zone_jobs: 1, time_sharing: false, backfill: 0}\n"}


def figures(trace, config, options):
    done = subprocess.run([cluster.program("hai-sim"), "--json", "-q", "-c", config, *options,
                           os.path.join(TRACES, trace + ".csv.gz")], check=True, capture_output=True,
                          stdin=subprocess.DEVNULL)
    return json.loads(done.stdout)


def compare(trace, mode, got):
    """(bar met, row of the table)"""
    best = min(NAIVE, key=lambda name: got[f"eta_{name}_error_p50_s"])
    own, naive = got["eta_error_p50_s"], got[f"eta_{best}_error_p50_s"]
    waits = got["eta_waited"] / max(got["jobs"], 1)
    met = own <= naive / 2
    return met, (trace, mode, f"{waits:.2f}", got["eta_jobs"], f"{own:.0f}",
                 f"{got['eta_error_p90_s']:.0f}", f"{got['eta_within']:.2f}",
                 f"{1 - waits + waits * got['eta_within']:.2f}", f"{got['eta_by_p90']:.2f}",
                 NAIVE[best], f"{naive:.0f}", f"{got[f'eta_{best}_error_p90_s']:.0f}",
                 f"{got[f'eta_{best}_within']:.2f}", f"{own / naive:.2f}" if naive else "-",
                 f"{got['eta_runs_error_p50_s']:.0f}", f"{got['eta_now_error_p50_s']:.0f}",
                 "yes" if met else "no")


def main(argv=None):
    parser = argparse.ArgumentParser(prog="eta")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args(argv)
    values, n_met, asked = [], 0, True
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        runs = []
        for k, (mode, text) in enumerate(MODES.items()):
            config = os.path.join(folder, f"{k}.yaml")
            with open(config, "w") as f:
                f.write(text)
            for trace, load, every in CASES:
                window = ["--to", "9d"] if args.quick else []
                ask = every[k] * (10 if args.quick else 1)
                runs.append((trace, mode, pool.submit(figures, trace, config,
                                                      [*load, *window, "--eta", str(ask)])))
        for trace, mode, run in runs:
            got = run.result()
            asked &= got["eta_jobs"] > 0
            met, row = compare(trace, mode, got)
            n_met += met
            values.append(row)
    head = ["trace, load 0.9", "policy", "submissions that wait", "asked", "error p50, s", "p90",
            "within a factor of 2", "of all submissions", "by the forecast's 9 of 10",
            "best naive answer", "its p50, s", "p90", "within a factor of 2", "p50: forecast / naive",
            "all that is ahead, p50, s", '"now", p50, s', "at most half"]
    lines = [f"{n_met} of {len(values)} bars met; commit {benchtable.commit()}.", "",
             *benchtable.rows(head, values)]
    print("\n".join(lines))
    if args.write:
        benchtable.keep("policy.md", "eta", lines)
    print(f"{int(asked)} passed, {int(not asked)} failed, 0 skipped")
    return int(not asked)


if __name__ == "__main__":
    sys.exit(main())
