"""trainrun.py - for tests of hai-train: ranks started by hand, and what a run leaves behind."""
import json
import os
import random
import socket
import struct
import subprocess


def free_port():
    """Below those that the kernel gives to callers, one of which could have it before rank 0."""
    while True:
        port = random.SystemRandom().randrange(15000, 30000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def train(program, config, world=1, **more):
    """Run hai-train to its end on every rank: the highest status, and all messages."""
    ranks, port = [], free_port()
    for rank in range(world):
        env = {k: v for k, v in os.environ.items() if not k.startswith("HAI_")}
        env.update(more)
        if world > 1:
            env.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
                       MASTER_PORT=str(port), NODE_RANK="0")
        ranks.append(subprocess.Popen([program, config], env=env, stdout=subprocess.DEVNULL,
                                      stderr=subprocess.PIPE))
    err = b"".join(p.communicate(timeout=300)[1] for p in ranks)
    return max(p.returncode for p in ranks), err.decode()


def lines(path):
    with open(path, encoding="utf-8") as f:
        return f.read().splitlines()


def parts(folder):
    """{"weight/NAME": list of floats} of a checkpoint's folder."""
    found = {}
    for name in os.listdir(folder):
        if not name.endswith(".safetensors"):
            continue
        with open(os.path.join(folder, name), "rb") as f:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
            values = f.read()
        header.pop("__metadata__", None)
        for key, x in header.items():
            a, b = x["data_offsets"]
            found[key] = struct.unpack("<%df" % ((b - a) // 4), values[a:b])
    return found
