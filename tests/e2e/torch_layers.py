#!/usr/bin/env python3
"""Every layer and loss of engine/net against PyTorch: outputs, losses and all gradients at random
shapes, from what net_values printed.

usage: torch_layers.py NET_VALUES [ROUNDS]      (skips where /usr/bin/python3 has no torch)
"""
import json
import subprocess
import sys

try:
    import torch
    import torch.nn.functional as F
    from torch.nn.utils import stateless
except ImportError:
    torch = None

TOLERANCE = 2e-5  # of the largest of a tensor's numbers
CURVES = ("relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh")


def tensor(numbers, shape):
    return torch.tensor(numbers, dtype=torch.float64).reshape(shape)


def curve(kind, x):
    if kind == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    return {"relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": F.silu,
            "gelu": F.gelu}[kind](x)


def recurrent(kind, x, params):
    """x [items, positions, channels]. The modules keep weights where functional_call does not
    reach; these functions are what they call."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [params["m." + name] for name in names]
    zeros = torch.zeros(1, x.shape[0], weights[1].shape[1], dtype=torch.float64)
    rest = (weights, True, 1, 0.0, False, False, True)
    return torch.lstm(x, (zeros, zeros), *rest)[0] if kind == "lstm" else \
        torch.gru(x, zeros, *rest)[0]


def functional(module, params, *inputs, **options):
    """Call a module with these tensors as its parameters, so that they get the gradients."""
    return stateless.functional_call(module, {k[2:]: v for k, v in params.items()}, inputs,
                                     options)


def attention(line, x, params):
    """x [items, queries, channels]; the three forms of net_values.c."""
    n, channels = x.shape[0], x.shape[2]
    heads, keys, queries = line["heads"], line["keys"], x.shape[1]
    module = torch.nn.MultiheadAttention(channels, heads, batch_first=True).double()
    kv, mask, padding = x, None, None
    if line["form"] == 0:
        mask = torch.ones(queries, keys, dtype=torch.bool).triu(1)
    elif line["form"] == 1:
        mask = tensor(line["second"][:n * queries * keys], (n, queries, keys))
        mask = mask.repeat_interleave(heads, 0)
    else:
        kv = tensor(line["second"][:n * keys * channels], (n, keys, channels))
        lengths = torch.tensor(line["ints"][:n]) + 1
        padding = torch.arange(keys)[None, :] >= lengths[:, None]
    return functional(module, params, x, kv, kv, attn_mask=mask, key_padding_mask=padding,
                      need_weights=False)[0]


def windows(line, x, params):
    """x [items, height, width, channels]; torch has channels second."""
    h, w, step_y, step_x, pad_y, pad_x, spread_y, spread_x = line["window"]
    x = x.permute(0, 3, 1, 2)
    if line["kind"] == "conv1d":
        y = F.conv1d(x[:, :, 0], params["m.weight"], params["m.bias"], step_x, pad_x,
                     spread_x)[:, :, None]
    elif line["kind"] == "conv2d":
        y = F.conv2d(x, params["m.weight"], params["m.bias"], (step_y, step_x), (pad_y, pad_x),
                     (spread_y, spread_x))
    elif line["kind"] == "maxpool":
        y = F.max_pool2d(x, (h, w), (step_y, step_x), (pad_y, pad_x), (spread_y, spread_x))
    else:
        y = F.avg_pool2d(x, (h, w), (step_y, step_x), (pad_y, pad_x))
    return y.permute(0, 2, 3, 1)


def forward(line, x, params):
    kind = line["kind"]
    if kind in CURVES:
        return curve(kind, x)
    if kind in ("linear", "labels"):
        return F.linear(x, params["m.weight"], params["m.bias"])
    if kind == "layernorm":
        return F.layer_norm(x, x.shape[-1:], params["m.weight"], params["m.bias"], 1e-5)
    if kind == "softmax":
        return x.softmax(-1)
    if kind == "embedding":
        n = line["y_shape"][0] * line["y_shape"][2]
        return F.embedding(torch.tensor(line["ints"][:n]), params["m.weight"])
    if kind in ("lstm", "gru"):
        return recurrent(kind, x[:, 0], params)
    if kind == "attention":
        return attention(line, x[:, 0], params)
    if kind == "loss_binary":
        return torch.sigmoid(x)
    return x if kind.startswith("loss_") else windows(line, x, params)


def loss_of(line, y):
    target = tensor(line["target"], line["y_shape"])
    if line["kind"] in ("embedding", "labels"):
        return F.cross_entropy(y.reshape(-1, y.shape[-1]),
                               torch.tensor(line["ints"][:y[..., 0].numel()]))
    if line["kind"] == "loss_binary":
        return F.binary_cross_entropy(y, target)
    if line["kind"] == "loss_binary_logit":
        return F.binary_cross_entropy_with_logits(y, target)
    return F.mse_loss(y.reshape(target.shape), target)


def compare(line, what, got, want):
    got = torch.tensor(got, dtype=torch.float64).reshape(want.shape)
    off = ((got - want).abs().max() / (want.abs().max() + 1e-3)).item()
    if not off <= TOLERANCE:
        print(f"FAILED: {line['kind']} {what}: off by {off:.3g}")
        return 1
    return 0


def check(line):
    params = {p["name"]: tensor(p["w"], p["shape"]).requires_grad_() for p in line["params"]}
    x = tensor(line["x"], line["x_shape"]).requires_grad_() if "x" in line else None
    y = forward(line, x, params)
    loss = loss_of(line, y)
    loss.backward()
    failed = compare(line, "y", line["y"], y.detach())
    failed += compare(line, "loss", [line["loss"]], loss.detach().reshape(1))
    if x is not None:
        failed += compare(line, "dx", line["dx"], x.grad)
    for p in line["params"]:
        failed += compare(line, p["name"], p["dw"], params[p["name"]].grad)
    return failed


def main():
    if torch is None:
        print("skipped: python3-torch is not installed (apt-get install python3-torch)")
        return 77
    torch.set_num_threads(1)
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    failed = n = 0
    for seed in range(1, rounds + 1):
        text = subprocess.run([sys.argv[1], str(seed)], capture_output=True, text=True,
                              check=True).stdout
        for line in map(json.loads, text.splitlines()):
            failed += check(line)
            n += 1
    print(f"{n} layers compared with torch {torch.__version__}: {failed or 'none'} off")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
