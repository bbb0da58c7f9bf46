"""training.py - small training runs of hai-train for the quickstart, tests and campaigns.

A run is a model's config.json, a train.yaml and a job file below one folder; its steps.log has a
line for every step that was made, with all bits of the loss, also for those made again after a
restart.
"""

import json
import os
import time


def model(hidden=192, layers=4, heads=6):
    """A Llama-like model over bytes; the default has 1.7 million parameters."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": hidden * 8 // 3, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": max(1, heads // 3),
        "vocab_size": 258, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "rope_scaling": None, "attention_bias": False,
        "attention_dropout": 0.0, "tie_word_embeddings": False, "initializer_range": 0.05,
        "torch_dtype": "float32", "bos_token_id": 256, "eos_token_id": 257,
    }


TRAIN = """\
model: {folder}/model/config.json
steps: {steps}
batch: {batch}
seq: {seq}
seed: {seed}
threads: 1
exact: required
data:
  files: [{files}]
  tokenizer: bytes
  max: 8MiB
optimizer: {{lr: {lr}, weight_decay: 0.1, clip: 1.0}}
schedule: {{kind: cosine, warmup: {warmup}, final: 0.1}}
checkpoint: {{every: {every}, keep: 3}}
"""
JOB = """\
version: 3
name: {name}
kind: train
workdir: {folder}
resources: {{nodes: 2, gpus_per_node: 2}}
restart: {{max: 100}}
train: {{config: {folder}/train.yaml, out: {folder}/{name}}}
"""


def write(folder, config, files, steps, seed, batch=8, seq=128, lr=0.003, every=10):
    """Write model/config.json and train.yaml for jobs of 4 ranks on 2 nodes."""
    os.makedirs(os.path.join(folder, "model"))
    with open(os.path.join(folder, "model", "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    with open(os.path.join(folder, "train.yaml"), "w") as f:
        f.write(TRAIN.format(folder=folder, steps=steps, seed=seed, files=", ".join(files), lr=lr,
                             batch=batch, seq=seq, warmup=max(1, steps // 12), every=every))


def write_job(folder, name):
    """Write NAME.yaml, a job whose trained model goes to FOLDER/NAME; returns its path."""
    path = os.path.join(folder, name + ".yaml")
    with open(path, "w") as f:
        f.write(JOB.format(folder=folder, name=name))
    return path


def python_sources(*packages):
    """Text that is there wherever these scripts run."""
    home = os.path.dirname(os.__file__)
    return [os.path.join(home, package) for package in packages]


class Steps:
    """The lines of a run's steps.log, read as they come."""

    def __init__(self, folder, name):
        self.path = os.path.join(folder, name, "steps.log")
        self.lines = []  # (step, loss and gradient norm as text)
        self.times = []  # when each line was seen, seconds since 1970
        self.rest = ""
        self.offset = 0

    def read(self):
        """Take in what is new; returns the number of lines so far."""
        try:
            with open(self.path) as f:
                f.seek(self.offset)
                text = f.read()
        except FileNotFoundError:
            return 0
        self.offset += len(text)
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            step, bits = line.split(" ", 1)
            self.lines.append((int(step), bits))
            self.times.append(time.time())
        return len(self.lines)

    def last(self):
        return self.lines[-1][0] if self.lines else 0

    def loss(self, at):
        return float.fromhex(self.lines[at][1].split()[0])

    def mean_loss(self, n):
        """Of the last n lines."""
        return sum(self.loss(at) for at in range(-n, 0)) / n


def differing(run, control, steps):
    """How many of the steps have, in any of their lines, other bits than the control run's; a step
    that is missing differs."""
    wanted = {step: {bits} for step, bits in control.lines}
    seen = {}
    for step, bits in run.lines:
        seen.setdefault(step, set()).add(bits)
    return sum(step not in wanted or seen.get(step) != wanted[step]
               for step in range(1, steps + 1))
