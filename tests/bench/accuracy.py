#!/usr/bin/env python3
"""accuracy.py - what narrow weights cost in accuracy: ours beside llama.cpp's, from the same weights.

usage: tests/bench/accuracy.py [--llama DIR] [--models trained,1b] [--windows N] [--threads N]
                               [--scratch DIR] [--state FILE] [--smoke] [--write]

DIR is a folder of binaries (llama-quantize, llama-perplexity); without it the peer is left out.

Two models in float32: "trained", that of etc/quickstart after its own number of steps on its own
text, by one hai-train, with three seeds (the figures are their means: in a model so small one
rounding is luckier than the next by a third); and "1b", the shape of a Coder-1.3B with the random weights of `hai-bench
--make --dtype f32`. Random weights say nothing, so their perplexity means nothing and is not shown;
what rounding does to the logits of that many layers of that width is seen all the same.

Every model is read over the GNU GPL (no text of the training) in windows of 512 tokens, which are
bytes. Of the trained model the second half of 17 windows counts, as llama-perplexity does it (which
leaves out the last one of each window); of the large one, all of 8 windows in our engine and 17 halves
in the peer's (--windows N: of N and 2 N, in less time). The base is the float32 model in the same
engine.

"ours" is `hai-eval kl` between the float32 folder and that of `hai-quantize`, activations rounded
as in serving. The peer's files come from llama-quantize, from a float32 GGUF file of the same
weights: "its own" is the KL of what llama-perplexity computes, its engine against itself; beside that its
weights are converted back by hai-convert and measured as ours are (where hai-convert reads the
types). Every matrix of "q4_0 --pure" has 4 bits, as of our int4; plain q4_0 keeps the output matrix
in 6 or 8 bits, as our `--head int8` does. Ours must not be worse than the peer's of the same bits:
KL beside its own, RMS error beside its weights in our engine. Embeddings are looked up, not
multiplied: ours stay as they are, the peer rounds them.

--state FILE keeps what is measured, so that a run can go on; --write puts the table in
docs/performance.md; --smoke is a tiny model, two windows, no peer: bf16 and FP8 must meet the bar.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
import benchtable  # noqa: E402
import cluster  # noqa: E402
import ggufcopy  # noqa: E402
import peerfiles  # noqa: E402
import peerserver  # noqa: E402
import training  # noqa: E402

sys.path[:0] = [os.path.join(benchtable.ROOT, "etc")]
import quickstart  # noqa: E402

TEXT = "/usr/share/common-licenses/GPL-3"
WINDOW, CHUNKS = 512, 17
OURS = {"bf16": ("bf16",), "fp8": ("fp8",), "int8": ("int8",), "int4": ("int4",),
        "int4 --head int8": ("int4", "--head", "int8")}
THEIRS = {"q8_0": ("Q8_0",), "q4_0 --pure": ("Q4_0", "--pure"), "q4_0": ("Q4_0",)}
BESIDE = {"int8": "q8_0", "int4": "q4_0 --pure", "int4 --head int8": "q4_0"}
KL_MAX = {"bf16": 1e-3, "fp8": 1e-3}
PERPLEXITY_MAX = {"bf16": 0.005, "fp8": 0.005, "int8": 0.005, "int4": 0.03,
                  "int4 --head int8": 0.03}


def program(name, *words):
    return peerfiles.call(cluster.program(name), *words)


def train(folder, seed):
    """The model of the quickstart, by one rank."""
    training.write(folder, training.model(), quickstart.text_folders(folder), quickstart.STEPS,
                   seed)
    out = os.path.join(folder, "plain")
    program("hai-train", os.path.join(folder, "train.yaml"), "--out", out, "--every", "0")
    return out


def make(folder, shape):
    out = os.path.join(folder, "plain")
    program("hai-bench", "--make", out, "--like", shape, "--dtype", "f32", "-q")
    return out


# How a model is made, with how many seeds, windows that our engine reads, tokens of each that do not
# count, and whether its perplexity means anything.
MODELS = {
    "trained": (train, 3, CHUNKS, WINDOW // 2, True),
    "1b": (lambda folder, _: make(folder, "coder-1.3b"), 1, 8, 0, False),
    "tiny": (lambda folder, _: make(folder, "tiny"), 1, 2, 0, False),
}


class Model:
    def __init__(self, name, seed, folder, args):
        self.folder, self.n_threads, self.n_chunks = folder, args.threads, CHUNKS
        how, _, self.n_windows, self.skip, _ = MODELS[name]
        if args.windows and not self.skip:
            self.n_windows, self.n_chunks = args.windows, 2 * args.windows
        self.text = os.path.join(folder, "text")
        n = CHUNKS * WINDOW
        with open(TEXT, encoding="ascii") as f:  # all tokenizers make bytes of it
            text = f.read(n + 1)
        if len(text) <= n:
            raise RuntimeError(f"{TEXT} is too short")
        with open(self.text, "w", encoding="ascii") as f:
            f.write(text)
        self.plain = how(folder, seed)

    def path(self, name):
        return os.path.join(self.folder, name.replace(" ", "-"))

    def compare(self, other):
        return json.loads(program(
            "hai-eval", "kl", "--model", self.plain, "--other", other, "--text", self.text, "--tokens",
            str(self.n_windows * WINDOW), "--window", str(WINDOW), "--skip", str(self.skip)))

    def ours(self, name):
        form, *options = OURS[name]
        out = self.path(name)
        program("hai-quantize", self.plain, out, "--type", form, *options)
        found = self.compare(out)
        found["bytes"] = os.path.getsize(os.path.join(out, "model.safetensors"))
        shutil.rmtree(out)
        return found

    def theirs(self, llama):
        """{name: figures} of all the peer's forms."""
        plain, found = self.path("F32.gguf"), {}
        own = peerfiles.Divergence(llama, self.text, WINDOW, self.n_chunks, self.n_threads,
                                   self.path("base"))
        ggufcopy.write(self.plain, plain)
        own.keep(plain)
        for name, (form, *options) in THEIRS.items():
            out, back = self.path(name + ".gguf"), self.path(name)
            peerfiles.quantize(llama, plain, out, form, *options)
            kl, base, perplexity = own.compare(out)
            try:
                program("hai-convert", out, back)
                found[name] = self.compare(back)
                shutil.rmtree(back)
            except RuntimeError as e:
                print(f"{name}: {str(e).splitlines()[-1]}", flush=True)
                found[name] = {}
            found[name].update(own_kl=kl, own_perplexity=perplexity, own_base_perplexity=base,
                               bytes=os.path.getsize(out))
            print(name, found[name], flush=True)
            os.unlink(out)
        os.unlink(plain)
        return found


def mean_of(results):
    """{model: {name: figures}} over seeds."""
    ret = {}
    for name in MODELS:
        of = [found for key, found in results.items() if key.split()[0] == name]
        for x in of[0] if of else ():
            all_of = [found[x] for found in of if x in found]
            ret.setdefault(name, {})[x] = {
                what: statistics.mean(got[what] for got in all_of) for what in all_of[0]}
    return ret


def measure(name, seed, args, state):
    key = f"{name} {seed}"
    done = state.results.get(key, {})
    ours = [x for x in OURS if x not in done]
    theirs = args.llama and any(x not in done for x in THEIRS)
    if not ours and not theirs:
        return
    with tempfile.TemporaryDirectory(prefix="hai-accuracy-", dir=args.scratch) as folder:
        model = Model(name, seed, folder, args)
        for x in ours:
            state.add(key, {x: model.ours(x)})
            print(key, x, state.results[key][x], flush=True)
        if theirs:
            state.add(key, model.theirs(args.llama))


def bars(model, name, found):
    """[(what is compared, whether the bar is met)] of one of ours."""
    got, ret = found[name], []
    if name in KL_MAX:
        ret.append((f"KL {KL_MAX[name]:g}", got["kl"] <= KL_MAX[name]))
    if MODELS[model][4]:
        off = abs(got["perplexity_other"] / got["perplexity"] - 1)
        ret.append((f"perplexity {PERPLEXITY_MAX[name]:.1%}", off <= PERPLEXITY_MAX[name]))
    peer = found.get(BESIDE.get(name))
    if peer:
        ret.append((f"KL of {BESIDE[name]}", got["kl"] <= peer["own_kl"]))
        if "rms_logit_error" in peer:
            ret.append((f"RMS of {BESIDE[name]}",
                        got["rms_logit_error"] <= peer["rms_logit_error"]))
    return ret


def row(model, name, found):
    got = found[name]
    text = [model, name, f"{got['bytes'] / 1e6:.4g}"]
    text += [f"{got['kl']:.2e}" if "kl" in got else ""]
    text += [f"{got['own_kl']:.2e}" if "own_kl" in got else ""]
    text += [f"{got['rms_logit_error']:.4f}", f"{got['same_best']:.1%}"] if "kl" in got else ["", ""]
    if not MODELS[model][4] or "kl" not in got:
        return text + [""]
    return text + [f"{got['perplexity_other']:.3f} "
                   f"({got['perplexity_other'] / got['perplexity'] - 1:+.2%})"]


def table(results):
    """Lines, and how many bars are met and missed."""
    rows, met, missed = [], 0, 0
    for model in (m for m in MODELS if m in results):
        for name in (x for x in [*OURS, *THEIRS] if x in results[model]):
            judged = bars(model, name, results[model]) if name in OURS else []
            met += sum(ok for _, ok in judged)
            missed += sum(not ok for _, ok in judged)
            rows.append(row(model, name, results[model])
                        + ["; ".join(t + ("" if ok else " MISSED") for t, ok in judged)])
    return benchtable.rows(["model", "weights", "MB", "mean KL", "its own KL", "RMS logit error",
                            "same likeliest token", "perplexity", "bars"], rows), met, missed


def notes(results):
    """What the table needs said: positions, and the float32 model's perplexity in both engines."""
    lines = []
    for model, found in results.items():
        base = [x for x in found.values() if "perplexity" in x]
        own = [x["own_base_perplexity"] for x in found.values() if "own_base_perplexity" in x]
        if base:
            lines.append(f"{model}: {base[0]['positions']:.0f} positions"
                         + (f", mean of {MODELS[model][1]} seeds." if MODELS[model][1] > 1 else "."))
        if MODELS[model][4] and base:
            lines.append(f"Perplexity of the float32 {model} model: {base[0]['perplexity']:.4f}"
                         + (f", in llama.cpp {own[0]:.4f}." if own else "."))
    return lines


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", metavar="DIR")
    parser.add_argument("--models", type=lambda text: text.split(","), default=["trained", "1b"])
    parser.add_argument("--windows", type=int, metavar="N", help="of the large model, at most 8")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the peer")
    parser.add_argument("--scratch", metavar="DIR", help="where 14 GB fit")
    parser.add_argument("--state", metavar="FILE")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.smoke:
        args.models, args.llama = ["tiny"], None
    return args


def main():
    args = parse()
    where, version, n_skipped = benchtable.machine(), "none", 0
    needed = ("llama-quantize", "llama-perplexity")
    if args.llama and all(peerserver.find(args.llama, x) for x in needed):
        version = "llama.cpp " + peerserver.version(peerserver.find(args.llama, needed[0]))
        if "unknown" in version and peerserver.find(args.llama, "llama-server"):
            version = "llama.cpp " + peerserver.version(
                peerserver.find(args.llama, "llama-server"))
    else:
        n_skipped = 1
        print("skipped: llama.cpp: "
              + (f"no {' and '.join(needed)} in {args.llama}" if args.llama else "not given"))
        args.llama = None
    state = benchtable.State(args.state)
    for name in args.models:
        for seed in range(MODELS[name][1]):
            measure(name, seed, args, state)
    results = mean_of(state.results)
    lines, met, missed = table(results)
    lines = [f"{where}. Peer: {version}. KL(float32 || weights) in nats.", *notes(results),
             "", *lines]
    print("\n".join(lines))
    if args.write:
        benchtable.keep("performance.md", "accuracy", lines)
    print(f"{met} passed, {missed} failed, {n_skipped} skipped")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
