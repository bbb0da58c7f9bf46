"""A script as it is written for torchrun, knowing nothing of hai: a snapshot file, found by name."""

import argparse
import os
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


class Trainer:
    def __init__(self, snapshot):
        self.rank = int(os.environ["RANK"])
        self.snapshot = snapshot
        self.step = 0
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(),
                                    torch.nn.Linear(64, 1))
        if os.path.exists(snapshot):
            saved = torch.load(snapshot)
            model.load_state_dict(saved["model"])
            self.step = saved["step"]
            if self.rank == 0:
                print(f"resumed at step {self.step} from {snapshot}", flush=True)
        self.model = DistributedDataParallel(model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)

    def run_step(self):
        generator = torch.Generator().manual_seed(self.step * 1000 + self.rank)
        x = torch.randn(16, 32, generator=generator)
        loss = (self.model(x) - x.sum(1, keepdim=True).sin()).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def save(self):
        os.makedirs(os.path.dirname(self.snapshot), exist_ok=True)
        torch.save({"model": self.model.module.state_dict(), "step": self.step},
                   self.snapshot + ".new")
        os.replace(self.snapshot + ".new", self.snapshot)

    def train(self, steps, every, pause):
        while self.step < steps:
            self.step += 1
            loss = self.run_step()
            time.sleep(pause)
            if self.rank == 0 and self.step % every == 0:
                self.save()
                print(f"step {self.step}/{steps} loss {loss:.6f}", flush=True)
        weights = sum(p.double().sum().item() for p in self.model.parameters())
        if self.rank == 0:
            print(f"done, sum of weights {weights.hex()}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--snapshot", default="snapshot.pt")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--pause", type=float, default=0.02)
    args = parser.parse_args()
    dist.init_process_group("gloo")
    Trainer(args.snapshot).train(args.steps, args.every, args.pause)
    dist.destroy_process_group()
