"""Write a model's folder as a GGUF file, as llama.cpp's converter names, permutes and stacks it.

For tests: float64 arithmetic in plain Python, small models only.
"""
import array
import json
import math
import os
import struct

MAGIC, ALIGN = 0x46554747, 32
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "BF16": 30}

NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_a_proj.weight": "attn_q_a.weight",
    "self_attn.q_a_layernorm.weight": "attn_q_a_norm.weight",
    "self_attn.q_b_proj.weight": "attn_q_b.weight",
    "self_attn.kv_a_proj_with_mqa.weight": "attn_kv_a_mqa.weight",
    "self_attn.kv_a_layernorm.weight": "attn_kv_a_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    "mlp.shared_experts.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_experts.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_experts.down_proj.weight": "ffn_down_shexp.weight",
}


def f16(x):
    return struct.pack("<e", x)


def f32(x):
    """Rounded to float32: of one operation on float32 in double, what float32 would have given."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def nearest(x):
    return math.floor(x + 0.5) if x >= 0 else -math.floor(-x + 0.5)


def q8_0(row):
    """As llama.cpp rounds, operation by operation (quantize_row_q8_0_ref)."""
    out = bytearray()
    for i in range(0, len(row), 32):
        scale = f32(max(abs(x) for x in row[i:i + 32]) / 127)
        by = f32(1 / scale) if scale else 0
        out += f16(scale) + struct.pack("32b", *(nearest(f32(x * by)) for x in row[i:i + 32]))
    return bytes(out)


def q4_0(row):
    """The same (quantize_row_q4_0_ref)."""
    out = bytearray()
    for i in range(0, len(row), 32):
        scale = max(row[i:i + 32], key=abs) / -8
        by = f32(1 / scale) if scale else 0
        codes = [min(15, int(f32(f32(x * by) + 8.5))) for x in row[i:i + 32]]
        out += f16(scale) + bytes(codes[k] | codes[16 + k] << 4 for k in range(16))
    return bytes(out)


def decode(blocks, kind):
    """The numbers that blocks of q8_0 or q4_0 stand for, exact."""
    ret = []
    n = 34 if kind == "Q8_0" else 18
    for at in range(0, len(blocks), n):
        scale = struct.unpack("<e", blocks[at:at + 2])[0]
        codes = blocks[at + 2:at + n]
        if kind == "Q8_0":
            codes = struct.unpack("32b", codes)
        else:
            codes = [(c & 15) - 8 for c in codes] + [(c >> 4) - 8 for c in codes]
        ret += [scale * c for c in codes]
    return ret


def encode(values, n_row, kind):
    rows = [values[i:i + n_row] for i in range(0, len(values), n_row)]
    if kind == "Q8_0":
        return b"".join(map(q8_0, rows))
    if kind == "Q4_0":
        return b"".join(map(q4_0, rows))
    if kind == "F16":
        return b"".join(map(f16, values))
    a = array.array("f", values)
    if kind == "F32":
        return a.tobytes()
    return array.array("H", [x >> 16 for x in array.array("I", a.tobytes())]).tobytes()  # exact ones


def tensors_of(folder):
    """{name: (type, shape, bytes)} of model.safetensors."""
    data = open(folder + "/model.safetensors", "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    return {k: (t["dtype"], t["shape"], data[8 + n + t["data_offsets"][0]:
                                             8 + n + t["data_offsets"][1]])
            for k, t in header.items()}


def read_folder(folder):
    """{name: (shape, values)} of plain tensors."""
    ret = {}
    for name in sorted(os.listdir(folder)):
        if not name.startswith("model") or not name.endswith(".safetensors"):
            continue
        data = open(os.path.join(folder, name), "rb").read()
        n = struct.unpack("<Q", data[:8])[0]
        for key, t in json.loads(data[8:8 + n]).items():
            if key == "__metadata__" or key.endswith("inv_freq"):
                continue
            raw = data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]
            if t["dtype"] == "F32":
                values = array.array("f", raw)
            elif t["dtype"] == "BF16":
                values = array.array("f", array.array("I", [x << 16 for x in array.array("H", raw)])
                                     .tobytes())
            else:
                raise ValueError(t["dtype"])
            ret[key] = (t["shape"], list(values))
    return ret


def permute(shape, values, n_heads):
    """A head's rows (i, i + d/2) become neighbours."""
    n_in, d = shape[1], shape[0] // n_heads
    out = []
    for h in range(n_heads):
        for i in range(d // 2):
            for j in range(2):
                row = h * d + j * (d // 2) + i
                out += values[row * n_in:(row + 1) * n_in]
    return out


class Writer:
    def __init__(self, version=3):
        self.version, self.keys, self.tensors = version, [], []

    @staticmethod
    def text(s):
        raw = s if isinstance(s, bytes) else s.encode()
        return struct.pack("<Q", len(raw)) + raw

    def key(self, name, kind, value):
        formats = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<B"),
                   "u64": (10, "<Q")}
        if kind == "str":
            self.keys.append(self.text(name) + struct.pack("<I", 8) + self.text(value))
        elif kind == "strs":
            self.keys.append(self.text(name) + struct.pack("<IIQ", 9, 8, len(value)) +
                             b"".join(map(self.text, value)))
        elif kind == "i32s":
            self.keys.append(self.text(name) + struct.pack("<IIQ", 9, 5, len(value)) +
                             struct.pack("<%di" % len(value), *value))
        else:
            number, form = formats[kind]
            self.keys.append(self.text(name) + struct.pack("<I", number) + struct.pack(form, value))

    def tensor(self, name, dims, kind, data):
        """dims: along a row first."""
        self.tensors.append((name, dims, kind, data))

    def bytes(self):
        header, data = self.header(), b""
        for _, _, _, raw in self.tensors:
            data += raw + b"\0" * (-len(raw) % ALIGN)
        return header + data

    def header(self):
        """What stands before the data; of a tensor only the length of its data counts."""
        out = struct.pack("<IIQQ", MAGIC, self.version, len(self.tensors), len(self.keys))
        out += b"".join(self.keys)
        at = 0
        for name, dims, kind, raw in self.tensors:
            out += self.text(name) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims,
                                                 TYPES[kind], at)
            at += len(raw) + -len(raw) % ALIGN
        return out + b"\0" * (-len(out) % ALIGN)


def rope_factors(c, d):
    s = c["rope_scaling"]
    ret = []
    for i in range(d // 2):
        wave = 2 * math.pi * c["rope_theta"] ** (2 * i / d)
        smooth = (s["original_max_position_embeddings"] / wave - s["low_freq_factor"]) / (
            s["high_freq_factor"] - s["low_freq_factor"])
        ret.append(1 / ((1 - min(1, max(0, smooth))) / s["factor"] + min(1, max(0, smooth))))
    return ret


def add_keys(w, c, arch):
    w.key("general.architecture", "str", arch)
    w.key("general.name", "str", "a test")
    put = lambda name, kind, value: w.key(arch + "." + name, kind, value)
    for name, field in (("block_count", "num_hidden_layers"),
                        ("context_length", "max_position_embeddings"),
                        ("embedding_length", "hidden_size"),
                        ("feed_forward_length", "intermediate_size"),
                        ("attention.head_count", "num_attention_heads")):
        put(name, "u32", c[field])
    put("attention.layer_norm_rms_epsilon", "f32", c["rms_norm_eps"])
    put("rope.freq_base", "f32", c.get("rope_theta", 10000))
    put("vocab_size", "u32", c["vocab_size"])
    scaling = c.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in ("linear", "yarn"):
        put("rope.scaling.type", "str", kind)
        put("rope.scaling.factor", "f32", scaling["factor"])
    if kind == "yarn":
        put("rope.scaling.original_context_length", "u32",
            scaling["original_max_position_embeddings"])
        put("rope.scaling.yarn_log_multiplier", "f32", 0.1 * scaling["mscale_all_dim"])
    if arch != "deepseek2":
        put("attention.head_count_kv", "u32", c["num_key_value_heads"])
        put("rope.dimension_count", "u32", c["hidden_size"] // c["num_attention_heads"])
    else:
        put("attention.head_count_kv", "u32", 1)
        put("attention.kv_lora_rank", "u32", c["kv_lora_rank"])
        if c.get("q_lora_rank"):
            put("attention.q_lora_rank", "u32", c["q_lora_rank"])
        put("attention.key_length", "u32", c["kv_lora_rank"] + c["qk_rope_head_dim"])
        put("attention.value_length", "u32", c["kv_lora_rank"])
        put("attention.key_length_mla", "u32", c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
        put("attention.value_length_mla", "u32", c["v_head_dim"])
        put("rope.dimension_count", "u32", c["qk_rope_head_dim"])
    if "n_routed_experts" in c:
        for name, field in (("expert_count", "n_routed_experts"),
                            ("expert_used_count", "num_experts_per_tok"),
                            ("expert_shared_count", "n_shared_experts"),
                            ("expert_feed_forward_length", "moe_intermediate_size"),
                            ("leading_dense_block_count", "first_k_dense_replace")):
            put(name, "u32", c[field])
        put("expert_weights_scale", "f32", c.get("routed_scaling_factor", 1.0))
        put("expert_weights_norm", "bool", c["norm_topk_prob"])
        put("expert_gating_func", "u32", 2 if c["scoring_func"] == "sigmoid" else 1)
        if c.get("n_group", 1) > 1:
            put("expert_group_count", "u32", c["n_group"])
            put("expert_group_used_count", "u32", c["topk_group"])


def add_tokenizer(w, folder, pre):
    t = json.load(open(folder + "/tokenizer.json"))
    c = json.load(open(folder + "/tokenizer_config.json"))
    added = {a["id"]: a for a in t["added_tokens"]}
    tokens = {i: s for s, i in t["model"]["vocab"].items()}
    tokens.update({i: a["content"] for i, a in added.items()})
    n = max(tokens) + 1
    w.key("tokenizer.ggml.model", "str", "gpt2")
    w.key("tokenizer.ggml.pre", "str", pre)
    w.key("tokenizer.ggml.tokens", "strs", [tokens.get(i, "[PAD%d]" % i) for i in range(n)])
    w.key("tokenizer.ggml.token_type", "i32s",
          [5 if i not in tokens else 1 if i not in added else 3 if added[i]["special"] else 4
           for i in range(n)])
    w.key("tokenizer.ggml.merges", "strs", [m if isinstance(m, str) else " ".join(m)
                                            for m in t["model"]["merges"]])
    model = json.load(open(folder + "/config.json"))
    w.key("tokenizer.ggml.bos_token_id", "u32", model["bos_token_id"])
    w.key("tokenizer.ggml.eos_token_id", "u32", model["eos_token_id"])
    w.key("tokenizer.ggml.add_bos_token", "bool", c.get("add_bos_token", False))
    if "chat_template" in c:
        w.key("tokenizer.chat_template", "str", c["chat_template"])


def add_tensors(w, c, arch, tensors, kind, whole_kv_b):
    """kind: of matrices whose rows are whole blocks, or a function of the tensor's name in the file."""
    choose = kind if callable(kind) else lambda name: kind

    def put(name, dims, values):
        k = choose(name)
        if len(dims) < 2 or "ffn_gate_inp" in name:
            k = "F32"
        elif k in ("Q8_0", "Q4_0") and dims[0] % 32:
            k = "F16"
        w.tensor(name, dims, k, encode(values, dims[0], k))

    for name, hf in (("token_embd.weight", "model.embed_tokens.weight"),
                     ("output_norm.weight", "model.norm.weight"),
                     ("output.weight", "lm_head.weight")):
        if hf in tensors:
            put(name, tensors[hf][0][::-1], tensors[hf][1])
    if (c.get("rope_scaling") or {}).get("rope_type") == "llama3":
        factors = rope_factors(c, c["hidden_size"] // c["num_attention_heads"])
        w.tensor("rope_freqs.weight", [len(factors)], "F32", encode(factors, len(factors), "F32"))
    for layer in range(c["num_hidden_layers"]):
        prefix, blk = "model.layers.%d." % layer, "blk.%d." % layer
        for hf, name in NAMES.items():
            if prefix + hf not in tensors:
                continue
            shape, values = tensors[prefix + hf]
            if arch in ("llama", "deepseek") and name in ("attn_q.weight", "attn_k.weight"):
                values = permute(shape, values, c["num_attention_heads" if "_q" in name
                                                  else "num_key_value_heads"])
            put(blk + name, shape[::-1], values)
        hf = prefix + "self_attn.kv_b_proj.weight"
        if hf in tensors:
            shape, values = tensors[hf]
            if whole_kv_b:
                put(blk + "attn_kv_b.weight", shape[::-1], values)
            else:
                nope, v, n_in = c["qk_nope_head_dim"], c["v_head_dim"], shape[1]
                keys, vals = [], []
                for h in range(c["num_attention_heads"]):
                    head = values[h * (nope + v) * n_in:(h + 1) * (nope + v) * n_in]
                    keys += [head[r * n_in + i] for i in range(n_in) for r in range(nope)]
                    vals += head[nope * n_in:]
                put(blk + "attn_k_b.weight", [nope, n_in, c["num_attention_heads"]], keys)
                put(blk + "attn_v_b.weight", [n_in, v, c["num_attention_heads"]], vals)
        for part in ("gate", "up", "down"):
            stack, shape = [], None
            for e in range(c.get("n_routed_experts", 0)):
                hf = "%smlp.experts.%d.%s_proj.weight" % (prefix, e, part)
                if hf in tensors:
                    shape = tensors[hf][0]
                    stack += tensors[hf][1]
            if shape:
                put("%sffn_%s_exps.weight" % (blk, part),
                    [shape[1], shape[0], c["n_routed_experts"]], stack)


def write(folder, path, kind="F32", pre="deepseek-v3", version=3, whole_kv_b=False, change=None):
    """change: a function of the Writer, called before its bytes are taken."""
    c = json.load(open(folder + "/config.json"))
    arch = {"deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2"}.get(c["model_type"],
                                                                       c["model_type"])
    w = Writer(version)
    add_keys(w, c, arch)
    add_tokenizer(w, folder, pre)
    add_tensors(w, c, arch, read_folder(folder), kind, whole_kv_b)
    if change:
        change(w)
    with open(path, "wb") as f:
        f.write(w.bytes())
