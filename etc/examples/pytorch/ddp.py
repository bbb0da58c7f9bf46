"""Data-parallel training on the CPU (gloo), started rank by rank by hai.

HAI_CKPT_DIR says where checkpoints go; HAI_RESUME is the number of earlier attempts, 0 at first.
"""

import argparse
import os
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--every", type=int, default=10, help="steps between checkpoints")
parser.add_argument("--pause", type=float, default=0.02, help="seconds of a step, for real work")
args = parser.parse_args()

torch.manual_seed(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
model = DistributedDataParallel(torch.nn.Sequential(
    torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

directory = os.environ["HAI_CKPT_DIR"]
path = os.path.join(directory, "ddp.pt")
first = 0
if int(os.environ["HAI_RESUME"]) > 0 and os.path.exists(path):
    saved = torch.load(path)
    model.module.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    first = saved["step"]
    if rank == 0:
        print(f"resumed at step {first} from {path}", flush=True)

for step in range(first + 1, args.steps + 1):
    # A batch follows from step and rank alone, so a resumed run sees the same ones.
    generator = torch.Generator().manual_seed(step * 1000 + rank)
    x = torch.randn(16, 32, generator=generator)
    loss = (model(x) - x.sum(1, keepdim=True).sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    time.sleep(args.pause)
    if rank == 0 and step % args.every == 0:
        os.makedirs(directory, exist_ok=True)
        torch.save({"step": step, "model": model.module.state_dict(),
                    "optimizer": optimizer.state_dict()}, path + ".new")
        os.replace(path + ".new", path)  # a kill leaves the old one or the new one
        print(f"step {step}/{args.steps} loss {loss.item():.6f}", flush=True)

weights = sum(p.double().sum().item() for p in model.parameters())
if rank == 0:
    print(f"done, sum of weights {weights.hex()}", flush=True)
dist.destroy_process_group()
