"""ggufcopy.py - a model's folder in bf16 or float32 as a GGUF file with the same weights, of any size.

The names and fields are those of tests/e2e/ggufwrite.py; here nothing is computed, only rows are
moved, so that a model of several GB takes as long as its copy. Vectors and routers become float32.
"""

import array
import json
import mmap
import os
import struct
import sys

sys.path[:0] = [os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e")]
import ggufwrite  # noqa: E402

UNITS = {"BF16": (2, "H"), "F32": (4, "I")}  # bytes of a value, and its kind of array
ARCHS = {"deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2"}


class Folder:
    """The tensors of a folder: name -> (type, shape, view of the bytes)."""

    def __init__(self, path):
        self.tensors = {}
        for name in sorted(os.listdir(path)):
            if name.startswith("model") and name.endswith(".safetensors"):
                self.read(os.path.join(path, name))

    def read(self, path):
        with open(path, "rb") as f:
            view = memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
        n = 8 + struct.unpack("<Q", view[:8])[0]
        for key, t in json.loads(bytes(view[8:n])).items():
            if key != "__metadata__":
                first, end = t["data_offsets"]
                self.tensors[key] = (t["dtype"], t["shape"], view[n + first:n + end])

    def floats(self, name):
        """The bytes of a tensor as float32."""
        dtype, _, view = self.tensors[name]
        if dtype == "F32":
            return bytes(view)
        if dtype != "BF16":
            raise ValueError(f"{name} is {dtype}; expected BF16 or F32")
        halves = array.array("H", bytes(view))
        return array.array("I", [x << 16 for x in halves]).tobytes()

    def matrix(self, name):
        """(type, shape, view of the bytes)"""
        dtype, shape, view = self.tensors[name]
        if dtype not in UNITS:
            raise ValueError(f"{name} is {dtype}; expected BF16 or F32")
        return dtype, shape, view


class Writer(ggufwrite.Writer):
    """Pieces of tensors are asked for when they are written: data is (bytes, function)."""

    def save(self, path):
        head = struct.pack("<IIQQ", ggufwrite.MAGIC, 3, len(self.tensors), len(self.keys))
        head += b"".join(self.keys)
        at = 0
        for name, dims, kind, (n_bytes, _) in self.tensors:
            head += self.text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims,
                                                  ggufwrite.TYPES[kind], at)
            at += n_bytes + -n_bytes % ggufwrite.ALIGN
        with open(path, "wb") as f:
            f.write(head + b"\0" * (-len(head) % ggufwrite.ALIGN))
            for name, _, _, (n_bytes, pieces) in self.tensors:
                before = f.tell()
                for piece in pieces():
                    f.write(piece)
                if f.tell() - before != n_bytes:
                    raise RuntimeError(f"{name}: {f.tell() - before} bytes, not {n_bytes}")
                f.write(b"\0" * (-n_bytes % ggufwrite.ALIGN))

    def floats(self, name, dims, raw):
        self.tensor(name, dims, "F32", (len(raw), lambda: [raw]))

    def matrix(self, name, dims, dtype, pieces):
        n_bytes = UNITS[dtype][0]
        for d in dims:
            n_bytes *= d
        self.tensor(name, dims, dtype, (n_bytes, pieces))


def permuted(dtype, shape, view, n_heads):
    """ggufwrite.permute, of bytes."""
    n_row, d = UNITS[dtype][0] * shape[1], shape[0] // n_heads
    for head in range(n_heads):
        for i in range(d // 2):
            for j in range(2):
                row = head * d + j * (d // 2) + i
                yield view[row * n_row:(row + 1) * n_row]


def key_rows(dtype, view, c, n_in):
    """The keys' rows of kv_b_proj, each head transposed."""
    unit, kind = UNITS[dtype]
    nope, n_head = c["qk_nope_head_dim"], unit * (c["qk_nope_head_dim"] + c["v_head_dim"]) * n_in
    for head in range(c["num_attention_heads"]):
        rows = array.array(kind, bytes(view[head * n_head:head * n_head + unit * nope * n_in]))
        for i in range(n_in):
            yield rows[i::n_in].tobytes()


def value_rows(dtype, view, c, n_in):
    unit = UNITS[dtype][0]
    n_keys = unit * c["qk_nope_head_dim"] * n_in
    n_head = n_keys + unit * c["v_head_dim"] * n_in
    for head in range(c["num_attention_heads"]):
        yield view[head * n_head + n_keys:(head + 1) * n_head]


def add_layer(w, folder, c, arch, layer):
    prefix, blk = f"model.layers.{layer}.", f"blk.{layer}."
    for hf, name in ggufwrite.NAMES.items():
        if prefix + hf not in folder.tensors:
            continue
        dtype, shape, view = folder.tensors[prefix + hf]
        if len(shape) == 1 or name == "ffn_gate_inp.weight":
            w.floats(blk + name, shape[::-1], folder.floats(prefix + hf))
            continue
        folder.matrix(prefix + hf)
        if arch in ("llama", "deepseek") and name in ("attn_q.weight", "attn_k.weight"):
            heads = c["num_attention_heads" if "_q" in name else "num_key_value_heads"]
            w.matrix(blk + name, shape[::-1], dtype,
                     lambda t=dtype, s=shape, v=view, h=heads: permuted(t, s, v, h))
        else:
            w.matrix(blk + name, shape[::-1], dtype, lambda v=view: [v])
    hf = prefix + "self_attn.kv_b_proj.weight"
    if hf in folder.tensors:
        dtype, shape, view = folder.matrix(hf)
        n_in, heads = shape[1], c["num_attention_heads"]
        w.matrix(blk + "attn_k_b.weight", [c["qk_nope_head_dim"], n_in, heads], dtype,
                 lambda t=dtype, v=view, n=n_in: key_rows(t, v, c, n))
        w.matrix(blk + "attn_v_b.weight", [n_in, c["v_head_dim"], heads], dtype,
                 lambda t=dtype, v=view, n=n_in: value_rows(t, v, c, n))
    for part in ("gate", "up", "down"):
        names = [f"{prefix}mlp.experts.{e}.{part}_proj.weight"
                 for e in range(c.get("n_routed_experts", 0))]
        if names and names[0] in folder.tensors:
            dtype, shape, _ = folder.matrix(names[0])
            w.matrix(f"{blk}ffn_{part}_exps.weight", [shape[1], shape[0], len(names)], dtype,
                     lambda n=names: (folder.matrix(x)[2] for x in n))


def add_words(w, c, ascii_only):
    """A token for each byte, as byte-level tokenizers write it; the others stand for nothing. ascii_only:
    so do bytes from 128 on, since a server may fail at text that is no UTF-8."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [x for x in range(256) if x not in plain]
    words = [chr(x) if x in plain else chr(256 + others.index(x)) for x in range(256)]
    n = c["vocab_size"]
    if ascii_only:
        words[128:] = [f"[{i}]" for i in range(128, 256)]
    words += [f"[{i}]" for i in range(256, n)]
    w.key("tokenizer.ggml.model", "str", "gpt2")
    w.key("tokenizer.ggml.pre", "str", "llama-bpe")
    w.key("tokenizer.ggml.tokens", "strs", words)
    w.key("tokenizer.ggml.token_type", "i32s",
          [3 if i in (c["bos_token_id"], c["eos_token_id"]) else 1 for i in range(n)])
    w.key("tokenizer.ggml.merges", "strs", [f"{words[97]} {words[98]}"])
    for name in ("bos", "eos"):
        w.key(f"tokenizer.ggml.{name}_token_id", "u32", c[f"{name}_token_id"])
    w.key("tokenizer.ggml.add_bos_token", "bool", False)


def write(path, out, ascii_only=False):
    """The folder at path as the file out. Raises ValueError for weights of other types."""
    with open(os.path.join(path, "config.json"), encoding="utf-8") as f:
        c = json.load(f)
    arch = ARCHS.get(c["model_type"], c["model_type"])
    folder, w = Folder(path), Writer()
    ggufwrite.add_keys(w, c, arch)
    add_words(w, c, ascii_only)
    for name, hf in (("token_embd.weight", "model.embed_tokens.weight"),
                     ("output.weight", "lm_head.weight")):
        if hf in folder.tensors and not (name.startswith("output") and c["tie_word_embeddings"]):
            dtype, shape, view = folder.matrix(hf)
            w.matrix(name, shape[::-1], dtype, lambda v=view: [v])
    w.floats("output_norm.weight", [c["hidden_size"]], folder.floats("model.norm.weight"))
    for layer in range(c["num_hidden_layers"]):
        add_layer(w, folder, c, arch, layer)
    w.save(out)
    return w


def token_values(w, c):
    """Weights that one token is multiplied with: (all of them, those of the output matrix)."""
    used = c.get("num_experts_per_tok", 0) / max(c.get("n_routed_experts", 1), 1)
    every = head = 0
    for name, dims, _, _ in w.tensors:
        n = 1
        for d in dims:
            n *= d
        if len(dims) < 2 or "ffn_gate_inp" in name:
            continue
        if "_exps." in name:
            every += n * used
        elif name == "output.weight" or (name == "token_embd.weight" and c["tie_word_embeddings"]):
            every += n
            head = n
        elif name != "token_embd.weight":
            every += n
    return every, head
