"""Models of gigabytes that take no room: holes of a file read as zeros. For interrupting what reads them.
"""
import json
import os
import struct
import subprocess
import time

import ggufwrite

HIDDEN, MLP, LAYERS, VOCAB = 2048, 8192, 12, 512


def config():
    return {"model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": MLP,
            "num_hidden_layers": LAYERS, "num_attention_heads": 16, "num_key_value_heads": 16,
            "vocab_size": VOCAB, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
            "rope_theta": 10000, "bos_token_id": 0, "eos_token_id": 1, "hidden_act": "silu",
            "tie_word_embeddings": False, "torch_dtype": "bfloat16"}


def shapes():
    ret = {"model.embed_tokens.weight": [VOCAB, HIDDEN], "model.norm.weight": [HIDDEN],
           "lm_head.weight": [VOCAB, HIDDEN]}
    for i in range(LAYERS):
        put = lambda name, *shape: ret.__setitem__("model.layers.%d.%s.weight" % (i, name), list(shape))
        put("input_layernorm", HIDDEN)
        put("post_attention_layernorm", HIDDEN)
        for name in "qkvo":
            put("self_attn.%s_proj" % name, HIDDEN, HIDDEN)
        put("mlp.gate_proj", MLP, HIDDEN)
        put("mlp.up_proj", MLP, HIDDEN)
        put("mlp.down_proj", HIDDEN, MLP)
    return ret


def folder(path):
    os.mkdir(path)
    json.dump(config(), open(path + "/config.json", "w"))
    header, at = {}, 0
    for name, shape in shapes().items():
        n = 2
        for d in shape:
            n *= d
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path + "/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)


class Hole:
    """Stands for so many bytes."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n


def gguf(path):
    w, n = ggufwrite.Writer(), 0
    ggufwrite.add_keys(w, config(), "llama")
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight":
             "output_norm.weight", "lm_head.weight": "output.weight"}
    for name, shape in shapes().items():
        parts = name.split(".", 3)
        to = names.get(name) or "blk.%s.%s" % (parts[2], ggufwrite.NAMES[parts[3]])
        size = 4
        for d in shape:
            size *= d
        w.tensor(to, shape[::-1], "F32", Hole(size))
        n += size
    with open(path, "wb") as f:
        f.write(w.header())
        f.truncate(f.tell() + n)


def interrupt(args, out, number):
    """Run a program until it has begun to write OUT.tmp*, send a signal. Returns its status (None: it
    never began), its stderr, and what is there of OUT."""
    parent, name = os.path.split(out)
    beside = lambda: [n for n in os.listdir(parent) if n.startswith(name)]
    p = subprocess.Popen([str(a) for a in args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    began = False
    while not began and p.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
        began = any(f.startswith("model.safetensors") for n in beside() if n.startswith(name + ".tmp")
                    for f in os.listdir(parent + "/" + n))
    p.send_signal(number)
    _, err = p.communicate(timeout=120)
    return p.returncode if began else None, err.decode(), beside()
