#!/usr/bin/env python3
"""hai's sum over ranks against Open MPI's, on this machine, interleaved: A B A B ...

usage: coll_vs_mpi.py BENCH_COLL [ROUNDS]

Prints, for 2 and 4 ranks and every size, one buffer / time in GB/s: the median of the rounds'
medians. Real-time priority where it is allowed, because other load makes times 2 to 5 times longer.
"""
import os
import shutil
import statistics
import subprocess
import sys
import tempfile


def run(command):
    """{bytes: GB/s} of one run."""
    out = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    return {int(w[0]): float(w[-2]) for w in (line.split() for line in out.splitlines())
            if len(w) > 3 and w[1] == "bytes"}


def main():
    bench, rounds = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5
    if not shutil.which("mpicc") or not shutil.which("mpirun"):
        print("skipped: no mpicc (apt-get install openmpi-bin libopenmpi-dev)")
        return 77
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bench_coll_mpi.c")
    first = ["chrt", "-f", "1"]
    if subprocess.run(first + ["true"], capture_output=True).returncode:
        first = []
    with tempfile.TemporaryDirectory() as scratch:
        peer = scratch + "/bench-coll-mpi"
        subprocess.run(["mpicc", "-O3", "-o", peer, source], check=True)
        print("%d processors, %d rounds%s" % (os.cpu_count(), rounds,
                                             ", real-time priority" if first else ""))
        print("%5s %9s %12s %12s %6s" % ("ranks", "bytes", "hai GB/s", "MPI GB/s", "ratio"))
        for ranks in (2, 4):
            mpirun = ["mpirun", "--allow-run-as-root", "-np", str(ranks), "--oversubscribe",
                      "--mca", "btl", "self,vader", peer]
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(run(first + [bench, str(ranks)]))
                theirs.append(run(first + mpirun))
            for size in sorted(ours[0]):
                a = statistics.median(r[size] for r in ours)
                b = statistics.median(r[size] for r in theirs)
                print("%5d %9d %12.2f %12.2f %6.2f" % (ranks, size, a, b, a / max(b, 1e-9)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
