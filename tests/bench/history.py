"""history.py - what a long history costs: reading verbs on a store of a million finished jobs.

usage: tests/bench/history.py [--quick] [--jobs N] [--write]

The whole command is timed, as a person waits for it: start, request, answer, print. Median of 20
and the slowest. --quick: 20,000 jobs, as tests/run has it. --write keeps the table in
docs/performance.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
import benchtable  # noqa: E402
import cluster  # noqa: E402

JOBS = 1_000_000
BAR_MS = 50
ROUNDS = 20
CLUSTER = """version: 1
name: history
zones: [{name: a}]
nodes: [{names: "a[1-4]", zone: a, gpus: 8, emulated: true}]
"""
VERBS = [["list", "-a"], ["list"], ["list", "-a", "--since", "7d"], ["list", "-a", "--state", "failed"],
         ["list", "-a", "--state", "timed_out"], ["status", "4711"], ["events", "4711"]]


def bench_program(name):
    folder = os.environ.get("HAI_BUILD_DIR") or os.path.join(benchtable.ROOT, "build")
    return os.path.join(folder, "tests", "bench", name)


class History:
    """A scheduler without nodes on a store with a past."""

    def __init__(self, folder, n_jobs):
        self.state = os.path.join(folder, "state")
        description = os.path.join(folder, "cluster.yaml")
        with open(description, "w") as f:
            f.write(CLUSTER)
        subprocess.run([cluster.program("hai-schedd"), "init", "--state-dir", self.state, "--cluster",
                        description, "--listen", "127.0.0.1:0", "--user", "user07", "--uid", "1000",
                        "--gid", "1000"], check=True)
        started = time.monotonic()
        subprocess.run([bench_program("bench_history"), self.state, str(n_jobs),
                        str(int(time.time() * 1e6))], check=True)
        self.filled_s = time.monotonic() - started
        self.daemon = subprocess.Popen([cluster.program("hai-schedd"), "--dir", self.state],
                                       stderr=subprocess.DEVNULL)
        port = os.path.join(self.state, "port")
        while not os.path.exists(port):
            if self.daemon.poll() is not None:
                raise RuntimeError(f"hai-schedd ended with {self.daemon.returncode}")
            time.sleep(0.01)
        with open(port) as f:
            self.env = dict(os.environ, HAI_SERVER=f"http://127.0.0.1:{f.read().strip()}",
                            HAI_TOKEN_FILE=os.path.join(self.state, "tokens", "admin"))

    def time_ms(self, words):
        started = time.monotonic()
        done = subprocess.run([cluster.program("hai"), *words], env=self.env, capture_output=True,
                              stdin=subprocess.DEVNULL, text=True, check=False)
        took_ms = (time.monotonic() - started) * 1e3
        if done.returncode != 0:
            raise RuntimeError(f"hai {' '.join(words)}: {done.stderr}")
        return took_ms, len(done.stdout.splitlines())

    def size_mb(self):
        return sum(os.path.getsize(os.path.join(self.state, name))
                   for name in os.listdir(self.state) if name.startswith("schedd.db")) / 1e6

    def end(self):
        self.daemon.terminate()
        return self.daemon.wait()


def main(argv=None):
    parser = argparse.ArgumentParser(prog="history")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(argv)
    n_jobs = args.jobs or (20_000 if args.quick else JOBS)
    values, failed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        history = History(folder, n_jobs)
        try:
            for words in VERBS:
                runs = [history.time_ms(words) for _ in range(ROUNDS)]
                times = sorted(run[0] for run in runs)
                met = times[ROUNDS // 2] < BAR_MS
                values.append((f"`hai {' '.join(words)}`", f"{times[ROUNDS // 2]:.1f}",
                               f"{times[-1]:.1f}", f"{runs[0][1]:,}", "yes" if met else "no"))
                # What is looked for is there: each verb has lines to print, but for states of nobody.
                failed += (runs[0][1] > 1) != ("timed_out" not in words)
            size = history.size_mb()
        finally:
            failed += history.end() != 0
    lines = [f"{benchtable.machine()}; {n_jobs:,} finished jobs of 100 users, {size:,.0f} MB, filled in "
             f"{history.filled_s:.0f} s. Bar: `hai list` under {BAR_MS} ms.", "",
             *benchtable.rows(["command", "median ms", "slowest ms", "lines", "under the bar"], values)]
    print("\n".join(lines))
    if args.write:
        benchtable.keep("performance.md", "history", lines)
    print(f"{len(VERBS) + 1 - failed} passed, {failed} failed, 0 skipped")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
