"""peerfiles.py - another engine's programs (llama.cpp, ik_llama.cpp) on GGUF files: quantise one,
compare one with another over a text.
"""

import os
import re
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


class Divergence:
    """The peer's own comparison: llama-perplexity counts the second half of each chunk. Keys and
    values stay float32."""

    def __init__(self, folder, text, chunk, n_chunks, n_threads, base):
        self.words = [peerserver.find(folder, "llama-perplexity"), "-c", str(chunk), "--chunks",
                      str(n_chunks), "-t", str(n_threads), "-ctk", "f32", "-ctv", "f32",
                      "--kl-divergence-base", base]
        self.text = text

    def keep(self, model):
        """Write the logits of a model into the base."""
        call(*self.words, "-m", model, "-f", self.text)

    def compare(self, model):
        """(mean KL(base || model) in nats, perplexity of base and model)"""
        for _ in range(5):  # now and then it ends before its last lines are written
            said = call(*self.words, "-m", model, "--kl-divergence")
            found = [re.search(words + r" *: *(-?[\d.]+)", said)
                     for words in (r"Mean +KLD", r"Mean PPL\(base\)", r"Mean PPL\(Q\)")]
            if all(found):
                return tuple(float(x[1]) for x in found)
        raise RuntimeError(f"{self.words[0]} does not say how far {model} is off:\n{said[-2000:]}")
