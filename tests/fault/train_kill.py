"""train_kill.py - kill ranks, agents and nodes of training jobs; the losses stay the same bits.

One undisturbed run of the same world size is the control. Then jobs of the same configuration run,
and in each a few random kills fall at random moments. Every job must succeed by itself, and every
line of its steps.log, also of steps computed again, must be the control's.
"""

import argparse
import json
import os
import random
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import cluster  # noqa: E402
import training  # noqa: E402

STEPS = 150
KINDS = ("rank", "agent", "node")
# Restarts wait longer one after the other (1 s doubling), which says nothing about recovery: few
# kills fall into one job.
KILLS_A_JOB = 3


class Campaign:
    def __init__(self, live, folder, seed):
        self.live, self.folder = live, folder
        self.rng = random.Random(seed)
        self.api = live.api()
        self.control = None
        self.n_jobs = 0
        self.kills = dict.fromkeys(KINDS, 0)
        self.back_s = {kind: [] for kind in KINDS}
        self.recomputed = 0
        self.problems = []

    def submit(self, name):
        done = self.live.hai("submit", "-q", training.write_job(self.folder, name))
        return int(done.stdout), training.Steps(self.folder, name)

    def view(self, job):
        return self.api.get(f"/api/v1/jobs/{job}?ranks=1")

    def run_control(self):
        job, steps = self.submit("control")
        view = self.live.wait_job(job, timeout_s=300)
        if view["state"] != "succeeded" or steps.read() != STEPS:
            raise cluster.Timeout(f"control run {view['state']} with {len(steps.lines)} lines: "
                                  f"{view['message']}")
        self.control = steps
        return steps.times[-1]

    def kill(self, kind, job, view):
        """Strike; returns whether something died and ranks have to start again."""
        node = self.rng.choice(view["node_names"])
        if kind == "node":
            return self.live.kill_node(node) > 0
        if kind == "agent":
            pid = self.live.agent_pid(node)
            return pid is not None and cluster.kill(pid)
        pids = self.live.rank_pids(job)
        return bool(pids) and cluster.kill(self.rng.choice(sorted(pids.values())))

    def strike(self, kind, job, steps):
        """One kill in a running job and the way back; False once the job has ended."""
        start = steps.read()
        moment = self.rng.uniform(0, 1.5)
        deadline = time.monotonic() + moment
        while time.monotonic() < deadline or steps.read() == start:
            view = self.view(job)
            if view["state"] in cluster.ENDED:
                return False
            time.sleep(0.02)
        if view["state"] != "running" or steps.last() >= STEPS - 10:
            return view["state"] not in cluster.ENDED and steps.last() < STEPS - 10
        before, last = view["attempt"], steps.last()
        struck_at = time.time()
        if not self.kill(kind, job, view):
            return True
        self.kills[kind] += 1
        if kind == "agent":
            cluster.wait_for("agent", lambda: self.live.agent_pid(view["node_names"][0]), 20)
            n_lines = steps.read()
        else:
            cluster.wait_for("next attempt", lambda: self.view(job)["attempt"] > before, 120, 0.02)
            n_lines = steps.read()
        cluster.wait_for("next step", lambda: steps.read() > n_lines or
                         self.view(job)["state"] in cluster.ENDED, 120, 0.01)
        if len(steps.lines) > n_lines:
            self.back_s[kind].append(steps.times[n_lines] - struck_at)
            self.recomputed += max(0, last - steps.lines[n_lines][0] + 1)
        if kind == "agent" and self.view(job)["attempt"] != before:
            self.problems.append(f"job {job}: the kill of an agent ended its ranks")
        return True

    def job(self, kinds):
        """One job with these kills."""
        self.n_jobs += 1
        name = f"job{self.n_jobs}"
        job, steps = self.submit(name)
        done = 0
        for kind in kinds:
            if not self.strike(kind, job, steps):
                break
            done += 1
        view = self.live.wait_job(job, timeout_s=300)
        steps.read()
        n_differ = training.differing(steps, self.control, STEPS)
        if view["state"] != "succeeded":
            self.problems.append(f"job {job} {view['state']}: {view['message']}")
        elif n_differ:
            self.problems.append(f"job {job}: {n_differ} steps differ from the undisturbed run")
        return done

    def run(self, rounds, minutes):
        self.run_control()
        deadline = time.monotonic() + minutes * 60 if minutes else None
        while not self.problems and (not rounds or sum(self.kills.values()) < rounds) and \
                (deadline is None or time.monotonic() < deadline):
            left = rounds - sum(self.kills.values()) if rounds else KILLS_A_JOB
            # Each kind comes, also in a short campaign.
            kinds = sorted(KINDS, key=lambda kind: (self.kills[kind], self.rng.random()))
            self.job(kinds[:min(left, self.rng.randint(1, KILLS_A_JOB))])
            print(f"  {self.n_jobs} jobs, kills {self.kills}", flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="train_kill")
    parser.add_argument("--rounds", type=int, default=0, help="kills")
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--seed", type=int)
    args = parser.parse_args(argv)
    if not args.rounds and not args.minutes:
        args.rounds = 3
    seed = cluster.seed_of(args.seed)
    print(f"seed {seed}")
    with cluster.Cluster() as live:
        folder = os.path.join(live.dir, "work")
        training.write(folder, training.model(64, 2, 4), training.python_sources("asyncio"), STEPS,
                       seed, batch=4, seq=64)
        campaign = Campaign(live, folder, seed)
        try:
            campaign.run(args.rounds, args.minutes)
        except (cluster.Timeout, cluster.Refused, OSError) as problem:
            campaign.problems.append(f"{type(problem).__name__}: {problem}")
        result = {"rounds": sum(campaign.kills.values()), "jobs": campaign.n_jobs,
                  "recomputed": campaign.recomputed, "problems": len(campaign.problems)}
        for kind in KINDS:
            times = campaign.back_s[kind]
            result[f"{kind}_kills"] = campaign.kills[kind]
            if times:
                result[f"{kind}_median_s"] = round(cluster.percentile(times, 0.5), 3)
                result[f"{kind}_p99_s"] = round(cluster.percentile(times, 0.99), 3)
        for problem in campaign.problems:
            print(f"FAILED {problem}")
        if campaign.problems:
            print(live.tails())
    print("result " + json.dumps(result))
    bad = bool(campaign.problems)
    print(f"{int(not bad)} passed, {int(bad)} failed, 0 skipped")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
