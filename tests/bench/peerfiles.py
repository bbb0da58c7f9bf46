"""peerfiles.py - another engine's programs (llama.cpp, ik_llama.cpp) on GGUF files: quantise one,
compare one with another over a text.
"""

import array
import math
import operator
import os
import statistics
import struct
import subprocess
import sys

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__))]
import peerserver  # noqa: E402


def call(*words):
    """What a program prints on both of its outputs. Raises RuntimeError."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def quantize(folder, source, target, form, *options):
    call(peerserver.find(folder, "llama-quantize"), *options, source, target, form)


class Logits:
    """What llama-perplexity writes of the second half of each chunk: of each position but the last the
    logarithms of all probabilities, 16 bits each, from scale and least."""

    def __init__(self, path):
        self.file = open(path, "rb")
        magic, n_chunk, n_vocab, self.n_chunks = struct.unpack("<8sIii", self.file.read(20))
        if magic != b"_logits_":
            raise RuntimeError(f"{path} holds no logits")
        self.chunk, self.n_vocab = n_chunk, n_vocab
        self.ids = array.array("i", self.file.read(4 * n_chunk * self.n_chunks))
        self.n_rows = self.chunk - 1 - self.chunk // 2  # of a chunk

    def rows(self):
        """(scale, least, codes, the token that came) of each position."""
        for c in range(self.n_chunks):
            for i in range(self.n_rows):
                scale, least = struct.unpack("<ff", self.file.read(8))
                codes = array.array("H", self.file.read(2 * (self.n_vocab + self.n_vocab % 2)))
                yield scale, least, codes, self.ids[c * self.chunk + self.chunk // 2 + i + 1]
        self.file.close()


def divergence(base, other):
    """(mean KL(base || other) in nats, perplexity of base and other) of two files of Logits."""
    kls, nll, nll_other = [], [], []
    for (s, least, u, token), (s_o, least_o, u_o, _) in zip(base.rows(), other.rows()):
        p = [math.exp(least + s * x) for x in u[:base.n_vocab]]
        kls.append(((least - least_o) * math.fsum(p) + s * math.fsum(map(operator.mul, p, u))
                    - s_o * math.fsum(map(operator.mul, p, u_o))) / math.fsum(p))
        nll.append(-least - s * u[token])
        nll_other.append(-least_o - s_o * u_o[token])
    return (statistics.mean(kls), math.exp(statistics.mean(nll)),
            math.exp(statistics.mean(nll_other)))


class Divergence:
    """The peer beside itself: the logits of its llama-perplexity for a file, and for another. (Its own
    --kl-divergence says the same, in six digits after the point, but ends now and then before its
    last lines are written.) Keys and values stay float32."""

    def __init__(self, folder, text, chunk, n_chunks, n_threads, base):
        self.words = [peerserver.find(folder, "llama-perplexity"), "-c", str(chunk), "--chunks",
                      str(n_chunks), "-t", str(n_threads), "-ctk", "f32", "-ctv", "f32", "-f", text]
        self.base = base

    def keep(self, model, path=None):
        """Write the logits of a model into the base."""
        call(*self.words, "-m", model, "--kl-divergence-base", path or self.base)

    def compare(self, model):
        other = self.base + ".other"
        self.keep(model, other)
        found = divergence(Logits(self.base), Logits(other))
        os.unlink(other)
        return found
