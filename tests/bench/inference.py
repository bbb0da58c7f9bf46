#!/usr/bin/env python3
"""inference.py - hai's prefill and decoding beside ik_llama.cpp and llama.cpp, in turns.

usage: tests/bench/inference.py [--llama DIR] [--ik DIR] [--models A,B] [--formats F,G]
           [--threads 2,1] [--repeat N] [--state FILE] [--scratch DIR]
           [--shallow] [--quick | --smoke] [--write]

DIR is a folder of binaries (llama-server, llama-quantize); without it that peer is skipped. Models
have random weights in public shapes: `hai-bench --make`, the same weights as GGUF for the peers,
each quantised by its own program. In every repetition each side computes a prompt of 512 tokens,
then 32 tokens one by one, at no context and at 4,096 tokens, one side after the other (the servers
wait in between); before each repetition the machine's limits are measured. The figures are medians,
the ratios medians of the ratios within a repetition. Keys and values are kept in 16 bits by all.

The peer's format is bf16 for bf16, q8_0 for int8 and fp8, q4_0 for int4 (every matrix alike, as
ours; a tied embedding in 8 bits). ik_llama.cpp repacks at run time; its own q8_KV, where the model
loads in it, runs in a second round beside ours.

Both modes: the first column is the row-invariant default; where the model has latent attention the
same folder runs with --fast-prefill as a side of its own, and its prefill stands beside, at 4,096
tokens of context too.

Shares: decoding, bytes of matrices (and of keys and values) that a token reads times tokens a
second, of the read bandwidth; prefill, two operations for each weight that a token meets (without
the output matrix, which one row needs), of the peak of 8-bit dot products (int8, int4) or of
float32 multiply-adds. --state FILE keeps what is measured, so that a run can go on; --write puts
the table in docs/performance.md.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
import benchtable  # noqa: E402
import cluster  # noqa: E402
import ggufcopy  # noqa: E402
import peerfiles  # noqa: E402
import peerserver  # noqa: E402

MODELS = {"coder-1.3b": ("bf16", "int8", "int4"), "v2-lite-16": ("int8", "int4"),
          "v3-2b": ("bf16", "fp8", "int8"), "qwen2-1.5b": ("bf16", "int8", "int4"),
          "moe-16b-5": ("int8", "int4"), "tiny": ("int8",)}
THEIRS = {"bf16": "BF16", "int8": "Q8_0", "fp8": "Q8_0", "int4": "Q4_0"}
BITS = {"BF16": 16, "Q8_0": 8.5, "Q4_0": 4.5, "Q8_KV": 8}
PROMPT, NEW, CONTEXT = 512, 32, 4096
WHATS = ("prefill 512", "decode", "decode at 4,096", "prefill 512 at 4,096")
PREFILLS = (0, 3)  # of them
IK_OPTIONS = ("-rtr", "-mla", "3")
LLAMA, IK, IK_KV, FAST = "llama.cpp", "ik", "ik q8_KV", "hai --fast-prefill"


def ids(n, n_vocab, salt):
    """Numbers that look drawn; another prompt for another salt."""
    return [(i + 1 + salt * 7919) * 0x9e3779b1 % 2**32 % n_vocab for i in range(n)]


class Hai:
    def __init__(self, model, n_threads, fast=False):
        self.name = FAST if fast else "hai"
        self.model, self.n_threads = model, n_threads
        self.options = ["--fast-prefill"] if fast else []
        self.token_bytes = 0

    def bench(self, context, n_prompt):
        done = subprocess.run([cluster.program("hai-bench"), "--model", self.model, "--context",
                               str(context), "--prefill", str(n_prompt), "--decode", str(NEW),
                               "--repeat", "1", "--no-first", "--json", "-q", "--threads",
                               str(self.n_threads), "--cache-dtype", "f16", *self.options],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"hai-bench: {done.stderr}")
        found = json.loads(done.stdout)
        if found["row_invariant"] == bool(self.options):
            raise RuntimeError(f"hai-bench: the mode of {self.name} did not run")
        self.token_bytes = found["token_bytes"]
        return (found["contexts"][0][f"{x}_tokens_per_s"]["median"] for x in ("prefill", "decode"))

    def shallow(self, _):
        return list(self.bench(0, PROMPT))

    def deep(self):
        return list(self.bench(CONTEXT, PROMPT))[::-1]

    def deepen(self):
        """Its context needs no computing."""


class Peer:
    def __init__(self, name, server, n_vocab, token_bytes):
        self.name, self.server, self.n_vocab = name, server, n_vocab
        self.token_bytes = token_bytes

    def shallow(self, turn):
        prefill, _, n = self.server.complete(ids(PROMPT, self.n_vocab, turn), 1, keep=False)
        if n != PROMPT:
            raise RuntimeError(f"{self.name}: {n} tokens were computed; expected {PROMPT}")
        _, decode, _ = self.server.complete(ids(1, self.n_vocab, turn), NEW + 1, keep=False)
        return [prefill, decode]

    def deepen(self):
        self.server.restore()
        n = self.server.complete(ids(CONTEXT, self.n_vocab, 0), 1)[2]
        if n > PROMPT:
            self.server.save()

    def deep(self):
        _, decode, n = self.server.complete(ids(CONTEXT, self.n_vocab, 0), NEW + 1)
        if n > PROMPT:
            raise RuntimeError(f"{self.name}: the context was not kept")
        return [decode]


def limits(n_threads):
    build = os.environ.get("HAI_BUILD_DIR") or os.path.join(benchtable.ROOT, "build")
    done = subprocess.run([os.path.join(build, "tests", "bench", "bench-limits"), str(n_threads)],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def in_turns(sides, n_threads, n_repeats, shallow):
    """[{"limits": ..., "rates": {side: one for each of WHATS}}, ...]; one turn warms up. Peers
    have no prefill at depth; shallow: nothing is measured there."""
    turns = []
    for i in range(-1, n_repeats):
        turn = {"limits": limits(n_threads), "rates": {}}
        for side in sides:
            turn["rates"][side.name] = side.shallow(i + 1)
        if i >= 0:
            turns.append(turn)
    if shallow:
        return turns
    for side in sides:
        side.deepen()
    for i in range(-1, n_repeats):
        deep_limits = limits(n_threads)
        for side in sides:
            rates = side.deep()
            if i >= 0:
                turns[i]["rates"][side.name] += rates
        if i >= 0:
            turns[i]["deep_limits"] = deep_limits
    return turns


class Shape:
    """A model as folders and files, made as they are asked for."""

    def __init__(self, name, folder, peers, shallow):
        self.name, self.folder, self.peers = name, folder, peers
        self.shallow = shallow
        self.values = self.head = 0
        self.config = None
        self.made = {}

    def path(self, name):
        return os.path.join(self.folder, name)

    def make(self, formats, with_kv):
        """Everything for these formats; what only leads to it is removed."""
        hai_bench, plain = cluster.program("hai-bench"), self.path("bf16")
        peerfiles.call(hai_bench, "--make", plain, "--like", self.name, "-q")
        with open(os.path.join(plain, "config.json"), encoding="utf-8") as f:
            self.config = json.load(f)
        w = ggufcopy.write(plain, self.path("BF16.gguf"), ascii_only=True)
        self.values, self.head = ggufcopy.token_values(w, self.config)
        tied = self.config["tie_word_embeddings"]
        for form in formats:
            if form in ("int8", "int4"):
                peerfiles.call(cluster.program("hai-quantize"), plain, self.path(form), "--type",
                               form, *(["--embedding"] if tied else []))
            elif form == "fp8":
                peerfiles.call(hai_bench, "--make", self.path(form), "--like", self.name,
                               "--dtype", "fp8", "-q")
        if "bf16" not in formats:
            shutil.rmtree(plain)
        for form in {THEIRS[f] for f in formats} - {"BF16"}:
            self.quantize(LLAMA if LLAMA in self.peers else IK, form, tied)
        if with_kv and "int8" in formats and IK in self.peers:
            self.quantize(IK, "Q8_KV", tied)
        if "bf16" not in formats:
            os.unlink(self.path("BF16.gguf"))

    def quantize(self, peer, form, tied):
        if peer not in self.peers:
            return
        more = ["--token-embedding-type", "q8_0"] if tied and form == "Q4_0" else []
        peerfiles.quantize(self.peers[peer], self.path("BF16.gguf"), self.path(form + ".gguf"), form,
                           "--pure", *more)

    def kv_bytes(self):
        """Of 16-bit keys and values of the context, read for one token."""
        c = self.config
        if "kv_lora_rank" in c:
            width = c["kv_lora_rank"] + c["qk_rope_head_dim"]
        else:
            width = 2 * c["num_key_value_heads"] * c["hidden_size"] // c["num_attention_heads"]
        return 2.0 * width * c["num_hidden_layers"] * CONTEXT

    def their_bytes(self, form):
        bits = BITS[form]
        if form == "Q4_0" and self.config["tie_word_embeddings"]:
            return (self.values - self.head) * bits / 8 + self.head * BITS["Q8_0"] / 8
        return self.values * bits / 8

    def round(self, form, n_threads, n_repeats, peers):
        """Turns of ours and the peers: [(name, program's folder, their format, options)]."""
        sides, skipped = [Hai(self.path(form), n_threads)], {}
        if "kv_lora_rank" in self.config:  # else it is the same program
            sides.append(Hai(self.path(form), n_threads, fast=True))
        with contextlib.ExitStack() as stack:
            for name, folder, theirs, options in peers:
                server = peerserver.Server(
                    peerserver.find(folder, "llama-server"), self.path(theirs + ".gguf"), n_threads,
                    CONTEXT + 512, self.folder, name, options)
                try:
                    stack.enter_context(server)
                except RuntimeError as e:
                    skipped[name] = f"{self.name} does not load"
                    print(f"skipped: {self.name} {name}: {e}", flush=True)
                    continue
                sides.append(Peer(name, server, self.config["vocab_size"], self.their_bytes(theirs)))
            turns = in_turns(sides, n_threads, n_repeats, self.shallow)
        bytes_of = {side.name: side.token_bytes for side in sides}
        return {"turns": turns, "bytes": bytes_of, "kv_bytes": self.kv_bytes(),
                "ops": 2 * (self.values - self.head), "skipped": skipped}


def measure(shape, form, n_threads, n_repeats, with_kv):
    """{"main": round, "kv": round or None}"""
    found = {"main": shape.round(form, n_threads, n_repeats,
                                 [(name, folder, THEIRS[form], IK_OPTIONS if name == IK else ())
                                  for name, folder in shape.peers.items()]), "kv": None}
    if with_kv and form == "int8" and IK in found["main"]["bytes"]:
        found["kv"] = shape.round(form, n_threads, n_repeats,
                                  [(IK_KV, shape.peers[IK], "Q8_KV", IK_OPTIONS)])
    return found


def bars(form, i, name):
    """The least ratio to a side in measurement i, or None."""
    if name == FAST or i == 3:
        return None
    if i > 0:
        return {LLAMA: None, IK: 1.3 if form == "int4" else 1.0, IK_KV: None}[name]
    if form in ("int8", "int4"):
        return {LLAMA: 4, IK: 2, IK_KV: 1.4}[name]
    return 1.6 if form == "bf16" and name != IK_KV else None


def share(form, found, name, i, turn):
    """Of the limit that counts for measurement i, of one turn."""
    rate = turn["rates"][name][i]
    if i in PREFILLS:
        peak = turn["limits" if i == 0 else "deep_limits"]["dot" if form in ("int8", "int4") else "fma"]
        return found["ops"] * rate / peak
    n_bytes = found["bytes"][name] + (found["kv_bytes"] if i == 2 else 0)
    return n_bytes * rate / turn["deep_limits" if i == 2 else "limits"]["read"]


def cells(form, found, name, i):
    """[rate and share, ratio] of a peer in measurement i; "" where it was not measured."""
    turns = found["turns"] if found else []
    if not turns or len(turns[0]["rates"].get(name, ())) <= i:
        return ["", "", None]
    rate = statistics.median(t["rates"][name][i] for t in turns)
    of = statistics.median(share(form, found, name, i, t) for t in turns)
    ratio = statistics.median(t["rates"]["hai"][i] / t["rates"][name][i] for t in turns)
    bar = bars(form, i, name) if name != "hai" else None
    met = bar is None or ratio >= bar
    text = f"{ratio:.2f}" + ("" if bar is None else f" ({bar:g}{'' if met else ', missed'})")
    return [f"{rate:.4g} ({100 * of:.0f} %)", text, met if bar else None]


def fast_cells(form, found, i):
    """Rate and share of --fast-prefill, and its ratio to the row-invariant form: of prefill."""
    rate, _, _ = cells(form, found, FAST, i) if i in PREFILLS else [""] * 3
    if not rate:
        return ["", ""]
    rates = (t["rates"] for t in found["turns"])
    return [rate, f"{statistics.median(r[FAST][i] / r['hai'][i] for r in rates):.2f}"]


def own_bar(form, i, found):
    """Whether our own share is what it must be: decoding only."""
    least = 0.80 if form == "int4" else 0.88
    of = statistics.median(share(form, found, "hai", i, t) for t in found["turns"])
    return of >= least, f"{least:.0%}"


def table(results):
    """Lines of the table, and how many bars are met and missed."""
    rows, met, missed = [], 0, 0
    for key in sorted(results, key=order):
        shape, form, n_threads = key.split()
        found = results[key]
        for i, what in enumerate(WHATS):
            mine = cells(form, found["main"], "hai", i)
            if not mine[0]:
                continue
            row = [f"{shape} {form}", n_threads, what, mine[0]]
            if i not in PREFILLS:
                ok, bar = own_bar(form, i, found["main"])
                met, missed = met + ok, missed + (not ok)
                row[-1] += f"{'' if ok else f' < {bar}'}"
            row += fast_cells(form, found["main"], i)
            for name in (IK, IK_KV, LLAMA):
                rate, ratio, ok = cells(form, found["kv" if name == IK_KV else "main"], name, i)
                met, missed = met + (ok is True), missed + (ok is False)
                row += [rate, ratio]
            rows.append(row)
    return benchtable.rows(["model, format", "threads", "what", "hai, tokens/s", FAST,
                            "fast / hai", "ik", "hai / ik",
                            "ik q8_KV", "hai / q8_KV", "llama.cpp", "hai / llama.cpp"],
                           rows), met, missed


def order(key):
    shape, form, n_threads = key.split()
    return list(MODELS).index(shape), MODELS[shape].index(form), -int(n_threads)


def limit_lines(results):
    lines = []
    for n_threads in sorted({key.split()[2] for key in results}):
        of = [t[x] for key, found in results.items() if key.split()[2] == n_threads
              for t in found["main"]["turns"] for x in ("limits", "deep_limits") if x in t]
        read, fma, dot = (statistics.median(t[x] for t in of) / 1e9 for x in ("read", "fma", "dot"))
        lines.append(f"{n_threads} thread{'s' if n_threads != '1' else ''}: read {read:.1f} GB/s, "
                     f"float32 {fma:.0f} GFLOP/s, 8-bit dot products {dot:.0f} GOP/s.")
    return lines


def measure_all(args, peers, state):
    for name in args.models:
        todo = [(form, n) for n in args.threads for form in MODELS[name]
                if form in args.formats and f"{name} {form} {n}" not in state.results]
        if not todo:
            continue
        with tempfile.TemporaryDirectory(prefix="hai-inference-", dir=args.scratch) as folder:
            shape = Shape(name, folder, peers, args.shallow)
            shape.make({form for form, _ in todo}, not args.quick)
            for form, n_threads in todo:
                state.add(f"{name} {form} {n_threads}",
                          measure(shape, form, n_threads, args.repeat, not args.quick))
                print("\n".join(table({k: v for k, v in state.results.items()
                                       if k == f"{name} {form} {n_threads}"})[0][2:]), flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--llama", metavar="DIR")
    parser.add_argument("--ik", metavar="DIR")
    parser.add_argument("--models", type=words, default=[m for m in MODELS if m != "tiny"])
    parser.add_argument("--formats", type=words, default=["bf16", "fp8", "int8", "int4"])
    parser.add_argument("--threads", type=lambda text: [int(x) for x in text.split(",")],
                        default=[2, 1])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--scratch", metavar="DIR", help="where 40 GB fit")
    parser.add_argument("--state", metavar="FILE")
    parser.add_argument("--quick", action="store_true",
                        help="one model, one repetition, two threads, no q8_KV")
    parser.add_argument("--smoke", action="store_true",
                        help="the same of a tiny model, to see that the bench works")
    parser.add_argument("--shallow", action="store_true",
                        help="nothing at 4,096 tokens of context: a quarter of the time")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.quick or args.smoke:
        args.models, args.formats, args.threads, args.repeat = ["coder-1.3b"], ["int8"], [2], 1
    if args.smoke:
        args.quick, args.models = True, ["tiny"]
    return args


def main():
    args = parse()
    where = benchtable.machine()
    peers, versions, n_skipped = {}, [], 0
    for name, folder in ((IK, args.ik), (LLAMA, args.llama)):
        if folder and all(peerserver.find(folder, x) for x in ("llama-server", "llama-quantize")):
            peers[name] = folder
            versions.append(f"{name} {peerserver.version(peerserver.find(folder, 'llama-server'))}")
        else:
            n_skipped += 1
            print(f"skipped: {name}: "
                  + (f"no llama-server and llama-quantize in {folder}" if folder else "not given"))
    state = benchtable.State(args.state)
    measure_all(args, peers, state)
    lines, met, missed = table(state.results)
    lines = [f"{where}. Peers: {'; '.join(versions) or 'none'}. Tokens a second, median of "
             f"{args.repeat} (share of the limit); ratios with their bar.",
             *limit_lines(state.results), "", *lines]
    print("\n".join(lines))
    if args.write:
        benchtable.keep("performance.md", "inference", lines)
    if args.smoke:  # all was measured; bars are for real models
        met, missed = met + missed, 0
    print(f"{met} passed, {missed} failed, {n_skipped} skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
