"""storm.py - kill -9 of the scheduler, and of agents, in a storm of submissions and stops.

Clients submit jobs and stop some of them as fast as they are answered, and write down what was
acknowledged before they ask again. Every round kills the scheduler at a random moment, sometimes
twice, sometimes with an agent. What was acknowledged must be there afterwards and end as it must;
the ranks themselves (lock_rank.c) find out whether a job or a GPU was given out twice.
"""

import argparse
import collections
import http.client
import json
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import cluster  # noqa: E402

N_CLIENTS = 6
ROUNDS_A_CHECK = 10
BACKLOG_MAX = 300
STOP_SHARE = 0.15
# (nodes, GPUs on each): few enough GPUs that the queue empties between rounds
SHAPES = [(1, 0)] * 6 + [(2, 0), (1, 1), (1, 2), (2, 1), (2, 2)]

Acked = collections.namedtuple("Acked", "name ranks milliseconds")


def lock_rank():
    folder = os.environ.get("HAI_BUILD_DIR") or os.path.join(
        os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "build")
    path = os.path.join(folder, "tests", "fault", "lock_rank")
    if not os.access(path, os.X_OK):
        raise SystemExit(f"{path} is not built; HAI_BUILD_DIR names the build")
    return path


class Client(threading.Thread):
    """Submits and stops until told to end; everything it records was answered."""

    def __init__(self, storm, number):
        super().__init__(daemon=True)
        self.storm = storm
        self.rng = random.Random(f"{storm.seed} client {number}")
        self.number = number
        self.api = storm.api()
        self.jobs = {}
        self.stopped = set()
        self.n_sent = 0
        self.refused = []
        self.record = open(os.path.join(storm.dir, f"acked-{number}"), "a", buffering=1)

    def persist(self, method, path, body, headers=None):
        """Ask until there is an answer that is not "come back later"."""
        while not self.storm.abort.is_set():
            try:
                status, answer = self.api.call(method, path, body, headers)
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)
                continue
            if status != 503:
                return status, answer
            time.sleep(0.02)
        return None, None

    def submit(self):
        self.n_sent += 1
        name = f"s{self.number}-{self.storm.tag}-{self.n_sent}"
        nodes, gpus = self.rng.choice(SHAPES)
        ms = self.rng.randrange(0, 60)
        spec = {"version": 3, "name": name, "workdir": "/", "grace_s": 1,
                "command": [self.storm.program, self.storm.dir, str(ms)],
                "resources": {"nodes": nodes, "gpus_per_node": gpus, "cpus": 1}}
        key = f"{name}-{self.rng.getrandbits(64):x}"
        status, answer = self.persist("POST", "/api/v1/jobs", spec, {"Idempotency-Key": key})
        if status in (200, 201):
            self.record.write(f"job {answer['id']} {name}\n")
            self.jobs[answer["id"]] = Acked(name, nodes * max(gpus, 1), ms)
        elif status is not None:
            self.refused.append(f"submission {name}: {status} {answer}")

    def stop(self):
        job = self.rng.choice(list(self.jobs)[-30:])
        status, answer = self.persist("POST", f"/api/v1/jobs/{job}/stop",
                                      {"force": self.rng.random() < 0.5})
        if status == 200:
            self.record.write(f"stop {job}\n")
            self.stopped.add(job)
        elif status is not None and status != 409:
            self.refused.append(f"stop of {job}: {status} {answer}")

    def run(self):
        while not self.storm.ending.is_set():
            if not self.storm.flowing.wait(0.1):
                continue
            if self.jobs and self.rng.random() < STOP_SHARE:
                self.stop()
            else:
                self.submit()
        self.api.close()
        self.record.close()


class Storm:
    def __init__(self, live, directory, seed):
        self.cluster = live
        self.dir = directory
        self.seed = seed
        self.rng = random.Random(seed)
        self.tag = f"{seed:x}"
        self.program = lock_rank()
        self.ending = threading.Event()
        self.flowing = threading.Event()
        self.abort = threading.Event()
        self.checked = set()
        self.looked_at = 0
        self.problems = []
        self.n_kills = self.n_agent_kills = self.n_restarts = 0
        self.agents_killed = set()
        self.back_s = []
        self.clients = []

    def api(self):
        return self.cluster.api(timeout_s=10)

    def settled(self, api):
        """Has every job ended? Not while the scheduler does not answer."""
        try:
            return not api.get("/api/v1/queue")
        except (OSError, http.client.HTTPException, cluster.Refused):
            return False

    def new_jobs(self, api):
        """The jobs after those already looked at, each by its number: numbers are never reused and
        follow each other, so a job that nobody was told of is seen too."""
        known = [job for client in self.clients for job in list(client.jobs)]
        last = max(known, default=0) + 20
        jobs = {}
        for job in range(self.looked_at + 1, last + 1):
            status, view = api.call("GET", f"/api/v1/jobs/{job}")
            if status == 200:
                jobs[job] = view
            elif status != 404:
                self.problems.append(f"job {job}: {status} {view}")
        self.looked_at = max(known, default=0)
        return jobs

    def backlog(self, api):
        try:
            return len(api.get("/api/v1/queue"))
        except (OSError, http.client.HTTPException, cluster.Refused):
            return 0

    def round(self, api):
        self.flowing.set()
        time.sleep(self.rng.uniform(0.05, 0.6))
        if self.rng.random() < 0.4:
            node = self.rng.choice(self.cluster.node_names())
            agent = self.cluster.agent_pid(node)
            if agent and cluster.kill(agent):
                self.n_agent_kills += 1
                self.agents_killed.add(node)
        for _ in range(1 + (self.rng.random() < 0.2)):
            pid = cluster.wait_for("scheduler", self.cluster.schedd_pid, 15, 0.01)
            # A second blow falls into the recovery from the first.
            time.sleep(self.rng.uniform(0, 0.05))
            started = time.monotonic()
            if cluster.kill(pid):
                self.n_kills += 1
        cluster.wait_for("service", lambda: self.alive(api), 30, 0.005)
        self.back_s.append(time.monotonic() - started)
        if self.backlog(api) > BACKLOG_MAX:
            self.flowing.clear()
            cluster.wait_for("shorter queue", lambda: self.backlog(api) < BACKLOG_MAX // 4, 120)

    @staticmethod
    def alive(api):
        try:
            return api.call("GET", "/healthz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def check(self, api):
        """Everything acknowledged so far is there, once, and ended as it must."""
        try:
            cluster.wait_for("end of all jobs", lambda: self.settled(api), 120, 0.2)
        except cluster.Timeout:
            left = api.get("/api/v1/queue")
            self.problems += [f"{len(left)} jobs do not end"] + [
                f"job {job['id']} ({job['name']}) is still {job['state']} on {job['node_names']}: "
                f"{job['message']}" for job in left[:10]]
            return
        by_id = self.new_jobs(api)
        known = {job for client in self.clients for job in client.jobs}
        self.problems += [f"job {job} ({view['name']}): nobody was told of it, or it is there twice"
                          for job, view in by_id.items() if job not in known]
        starts = self.starts()
        for client in self.clients:
            self.problems += client.refused
            client.refused = []
            for job, acked in list(client.jobs.items()):
                if job not in self.checked:
                    self.checked.add(job)
                    self.check_job(api, job, acked, by_id.get(job), starts,
                                   job in client.stopped)
        with open(os.path.join(self.dir, "violations"), "a+") as f:
            f.seek(0)
            self.problems += [f"violation: {line.strip()}" for line in f]

    def check_job(self, api, job, acked, view, starts, stopped):
        if view is None or view["name"] != acked.name:
            self.problems.append(f"job {job} ({acked.name}): acknowledged and lost")
            return
        allowed = ("stopped", "succeeded", "failed") if stopped else ("succeeded",)
        if view["state"] not in allowed:
            self.problems.append(f"job {job}: {view['state']} ({view['message']}), not {allowed}")
        if view["attempt"] > 1:
            self.check_restart(api, job, view)
        ranks = [[starts[(job, rank, n + 1)] for rank in range(acked.ranks)]
                 for n in range(view["attempt"])]
        if any(n > 1 for attempt in ranks for n in attempt):
            self.problems.append(f"job {job}: {ranks} starts of its ranks in each attempt")
        elif view["state"] == "succeeded" and ranks[-1] != [1] * acked.ranks:
            self.problems.append(f"job {job}: succeeded with {ranks[-1]} starts of its ranks")

    def check_restart(self, api, job, view):
        """An agent that dies between the mark of an attempt and its start cannot know whether it
        was started: it ends it and says so, and the job starts again. Nothing else restarts one."""
        events = api.get(f"/api/v1/jobs/{job}/events")
        agents = {event["node"] for event in events if event["kind"] == "fault"}
        if not self.agents_killed & agents or view["attempt"] > 1 + self.n_agent_kills:
            self.problems.append(f"job {job}: started {view['attempt']} times, faults on {agents}, "
                                 f"agents killed on {self.agents_killed}")
        self.n_restarts += 1

    def starts(self):
        """Starts by (job, rank, attempt). That attempts do not overlap is for the locks to tell."""
        counts = collections.Counter()
        try:
            with open(os.path.join(self.dir, "ranks")) as f:
                for line in f:
                    job, rank, attempt, what = line.split()[:4]
                    counts[(int(job), int(rank), int(attempt))] += what == "start"
        except FileNotFoundError:
            pass
        return counts

    def run(self, rounds, minutes):
        self.clients = [Client(self, number) for number in range(N_CLIENTS)]
        for client in self.clients:
            client.start()
        api = self.api()
        deadline = time.monotonic() + minutes * 60 if minutes else None
        done = 0
        try:
            while not self.problems and (done < rounds if rounds else True) and \
                    (deadline is None or time.monotonic() < deadline):
                self.round(api)
                done += 1
                if done % ROUNDS_A_CHECK == 0:
                    self.flowing.clear()
                    time.sleep(0.2)
                    self.check(api)
                    print(f"  {done} rounds, {len(self.checked)} jobs", flush=True)
        finally:
            self.ending.set()
            for client in self.clients:
                client.join(20)
            self.abort.set()
        self.check(api)
        return done


def main(argv=None):
    parser = argparse.ArgumentParser(prog="storm")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--seed", type=int)
    args = parser.parse_args(argv)
    if not args.rounds and not args.minutes:
        args.rounds = 8
    seed = cluster.seed_of(args.seed)
    print(f"seed {seed}")
    with cluster.Cluster() as live:
        directory = os.path.join(live.dir, "storm")
        os.mkdir(directory)
        os.chmod(directory, 0o777)
        storm = Storm(live, directory, seed)
        try:
            done = storm.run(args.rounds, args.minutes)
        except (cluster.Timeout, cluster.Refused, OSError) as problem:
            storm.problems.append(f"{type(problem).__name__}: {problem}")
            done = 0
        result = {"rounds": done, "scheduler_kills": storm.n_kills,
                  "agent_kills": storm.n_agent_kills, "restarts": storm.n_restarts,
                  "acknowledged": len(storm.checked),
                  "stops": sum(len(client.stopped) for client in storm.clients),
                  "problems": len(storm.problems)}
        if storm.back_s:
            result["back_median_s"] = round(cluster.percentile(storm.back_s, 0.5), 3)
            result["back_longest_s"] = round(max(storm.back_s), 3)
        for problem in storm.problems[:20]:
            print(f"FAILED {problem}")
        if storm.problems:
            print(live.tails())
    print("result " + json.dumps(result))
    print(f"{int(not storm.problems)} passed, {int(bool(storm.problems))} failed, 0 skipped")
    return 1 if storm.problems else 0


if __name__ == "__main__":
    sys.exit(main())
