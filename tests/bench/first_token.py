#!/usr/bin/env python3
"""first_token.py - from exec to the first token, files in memory and not, beside llama.cpp.

usage: tests/bench/first_token.py [--llama DIR] [--like SHAPE] [--dtype T] [--repeat N]
                                  [--threads N] [--scratch DIR] [--smoke] [--write]

DIR is a folder of binaries (llama-completion); without it the peer is left out. The model has random
weights (`hai-bench --make`): a Coder-1.3B in float32, 5.4 GB, of which one token needs everything
but the embedding; the peer gets the same weights as GGUF. Both start on a prompt of four bytes and
end after one token: `hai-generate --max-tokens 1`, `llama-completion -n 1 --no-warmup` (so that it
computes no more than ours). Measured is the time from fork to the first byte on stdout, and the
largest resident memory, mapped files included, as the kernel counts it.

Cold: the kernel is asked to forget the file (fdatasync, posix_fadvise), and mincore must find no page
of it; where pages stay and this is root, all caches are dropped. If some stay even so, the cold
figures are left out with the reason. Beside each cold start the same file is read cold, 8 MiB at a
time past the cache by four threads: the disk's rate. Sides take turns; medians of the repetitions.

Bars: cold at most file size / disk rate + 1 s; memory at most the mapped file + 10 %.
"""

import argparse
import concurrent.futures
import ctypes
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
import benchtable  # noqa: E402
import cluster  # noqa: E402
import ggufcopy  # noqa: E402
import peerfiles  # noqa: E402
import peerserver  # noqa: E402

PAGE = mmap.PAGESIZE
ODD = bytes(x & 1 for x in range(256))
PIECE, READERS = 8 << 20, 4
PROMPT = "The "
SLACK_S, MEMORY_MAX = 1.0, 1.10
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                      ctypes.c_long)
libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def pages_in_memory(path):
    """How many pages of a file are in memory, and how many it has."""
    size = os.path.getsize(path)
    n = (size + PAGE - 1) // PAGE
    found = ctypes.create_string_buffer(n)
    with open(path, "rb") as f:  # Python's own mmap does not tell its address if it is read only
        at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, f.fileno(), 0)
    failed = libc.mincore(at, size, found)
    libc.munmap(at, size)
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return n - found.raw[:n].translate(ODD).count(0), n


def forget(path):
    """Take a file out of memory; None, or why that did not work."""
    with open(path, "rb") as f:
        os.fdatasync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    left, n = pages_in_memory(path)
    if left and os.geteuid() == 0 and os.access("/proc/sys/vm/drop_caches", os.W_OK):
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("1\n")
        left, n = pages_in_memory(path)
    return f"{left} of {n} pages of {os.path.basename(path)} stay in memory" if left else None


def disk_rate(path):
    """Bytes a second of reading a file past the cache."""
    size = os.path.getsize(path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)

    def read(first):
        with mmap.mmap(-1, PIECE) as buffer:  # aligned
            done = 0
            for at in range(first * PIECE, size, READERS * PIECE):
                done += os.preadv(fd, [buffer], at)
        return done

    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        done = sum(pool.map(read, range(READERS)))
    took = time.monotonic() - start
    os.close(fd)
    if done != size:
        raise RuntimeError(f"{path}: {done} bytes were read of {size}")
    return size / took


def run(words):
    """(seconds to the first byte of stdout, bytes of peak resident memory)"""
    with tempfile.TemporaryFile() as messages:
        start = time.monotonic()
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=messages)
        first = process.stdout.read(1)
        took = time.monotonic() - start
        process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        if process.returncode or not first:
            messages.seek(0)
            raise RuntimeError(f"{words[0]} ended with {process.returncode}:\n"
                               f"{messages.read().decode(errors='replace')[-2000:]}")
    return took, used.ru_maxrss * 1024


class Side:
    def __init__(self, name, words, path):
        self.name, self.words, self.path = name, words, path
        self.size = os.path.getsize(path)
        self.cold, self.warm, self.rates, self.memory = [], [], [], []
        self.why = None

    def turn(self):
        self.why = self.why or forget(self.path)
        if not self.why:
            took, memory = run(self.words)
            self.cold.append(took)
            self.memory.append(memory)
            self.why = forget(self.path)
        if not self.why:
            self.rates.append(disk_rate(self.path))
        run(self.words)  # all is in memory
        took, memory = run(self.words)
        self.warm.append(took)
        self.memory.append(memory)

    def row(self):
        memory = max(self.memory) / self.size
        ret = [self.name, f"{self.size / 1e9:.2f}"]
        met = [("memory", memory <= MEMORY_MAX)]
        if self.rates:
            cold, least = statistics.median(self.cold), statistics.median(
                self.size / x for x in self.rates)
            met.append(("cold", cold <= least + SLACK_S))
            ret += [f"{statistics.median(self.rates) / 1e9:.2f}", f"{least:.2f}",
                    f"{cold:.2f} ({min(self.cold):.2f}-{max(self.cold):.2f})"]
        else:
            ret += ["", "", ""]
        ret += [f"{statistics.median(self.warm):.2f} ({min(self.warm):.2f}-{max(self.warm):.2f})",
                f"{max(self.memory) / 1e9:.2f} ({memory:.0%})"]
        return ret, met


def sides_of(args, folder):
    """The model in both forms, and what runs it."""
    plain, gguf = os.path.join(folder, "plain"), os.path.join(folder, "model.gguf")
    peerfiles.call(cluster.program("hai-bench"), "--make", plain, "--like", args.like, "--dtype",
                   args.dtype, "-q")
    n = str(args.threads)
    ret = [Side("hai", [cluster.program("hai-generate"), "--model", plain, "--prompt", PROMPT,
                        "--max-tokens", "1", "--print-ids", "--threads", n],
                os.path.join(plain, "model.safetensors"))]
    if args.llama:
        ggufcopy.write(plain, gguf)
        ret.append(Side("llama.cpp", [
            peerserver.find(args.llama, "llama-completion"), "-m", gguf, "-p", PROMPT, "-n", "1",
            "-t", n, "-c", "512", "--no-warmup", "-no-cnv", "--no-display-prompt"], gguf))
    return ret


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", metavar="DIR")
    parser.add_argument("--like", default="coder-1.3b", metavar="SHAPE")
    parser.add_argument("--dtype", default="f32", choices=("f32", "bf16"))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--scratch", metavar="DIR", help="a folder on the disk, where 11 GB fit")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, no peer, no bars")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.like, args.repeat, args.llama = "tiny", 2, None
    return args


def main():
    args = parse()
    where, version, n_skipped = benchtable.machine(), "none", 0
    if args.llama and peerserver.find(args.llama, "llama-completion"):
        version = "llama.cpp " + peerserver.version(
            peerserver.find(args.llama, "llama-completion"))
    else:
        print("skipped: llama.cpp: " + (f"no llama-completion in {args.llama}" if args.llama
                                        else "not given"))
        args.llama, n_skipped = None, 1
    folder = tempfile.mkdtemp(prefix="hai-first-token-", dir=args.scratch)
    try:
        sides = sides_of(args, folder)
        for _ in range(args.repeat):
            for side in sides:
                side.turn()
                print(side.name, [f"{x[-1]:.3g}" for x in
                                  (side.cold, side.warm, side.rates, side.memory) if x], flush=True)
    finally:
        shutil.rmtree(folder)
    rows = [side.row() for side in sides]
    lines = [f"{where}. Peer: {version}. {args.like} in {args.dtype}, {args.threads} threads, median "
             f"of {args.repeat} (least-most). Bars: cold at most the disk's time + {SLACK_S:g} s, "
             f"memory at most {MEMORY_MAX:.0%} of the file.",
             *(f"{side.name}: no cold figures: {side.why}." for side in sides if side.why), "",
             *benchtable.rows(["", "file, GB", "disk, GB/s", "disk's time, s", "cold, s", "warm, s",
                               "peak memory, GB (of the file)"], [r for r, _ in rows])]
    print("\n".join(lines))
    missed = [what for what, ok in rows[0][1] if not ok and not args.smoke]
    print("".join(f"MISSED: {what}\n" for what in missed), end="")
    if args.write:
        benchtable.keep("performance.md", "first token", lines)
    print(f"{len(rows[0][1]) - len(missed)} passed, {len(missed)} failed, {n_skipped} skipped")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
