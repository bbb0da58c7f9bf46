#!/usr/bin/env python3
"""schedd_storm.py - kill -9 of the scheduler alone in a storm of submissions and stops.

No agents: what is tested is that an acknowledged request is never lost, in three builds:
  real     hai-schedd as it is
  power    its SQLite loses at the kill what was not synced, as a power loss would
  planted  it answers a turn before the commit: this storm must lose something, else it tests nothing
After every kill hai-replay proves on the store that was left that state follows from log and
snapshots; at the end it also compares with the living scheduler. The clients note an acknowledgement
before they ask again.

usage: schedd_storm.py [--rounds N] [--seed N] [--keep]
"""

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("HAI_BUILD_DIR") or os.path.join(ROOT, "build")
N_CLIENTS = 6
REPLAY_EVERY = 4
START_S = 30
CLUSTER = """version: 1
name: storm
zones: [{name: a}]
nodes: [{names: "a[1-2]", zone: a, gpus: 2, emulated: true}]
"""
SPEC = {"version": 3, "command": ["true"], "workdir": "/tmp", "resources": {"nodes": 1}}


def program(name):
    for folder in ("scheduler", "tests/fault"):
        path = os.path.join(BUILD, folder, name)
        if os.access(path, os.X_OK):
            return path
    raise SystemExit(f"{name} is not built in {BUILD}; HAI_BUILD_DIR names the build")


class Refused(Exception):
    """The daemon does not start on the store that the last kill left."""


class Scheduler:
    """One state directory, and the daemon that is killed and started on it."""

    def __init__(self, binary, folder):
        self.binary = program(binary)
        self.state = os.path.join(folder, "state")
        self.log = open(os.path.join(folder, "log"), "w")
        cluster = os.path.join(folder, "cluster.yaml")
        with open(cluster, "w") as f:
            f.write(CLUSTER)
        subprocess.run([program("hai-schedd"), "init", "--state-dir", self.state, "--cluster", cluster,
                        "--listen", "127.0.0.1:0", "--user", "alice", "--uid", "1000", "--gid", "1000"],
                       check=True)
        with open(os.path.join(self.state, "tokens", "admin")) as f:
            self.token = f.read().strip()
        self.process = None
        self.port = None

    def start(self):
        path = os.path.join(self.state, "port")
        if os.path.exists(path):
            os.unlink(path)
        self.process = subprocess.Popen([self.binary, "--dir", self.state], stderr=self.log)
        end = time.monotonic() + START_S
        while not os.path.exists(path):
            if self.process.poll() is not None:
                raise Refused(f"it ended with {self.process.returncode}: {self.last_words()}")
            if time.monotonic() > end:
                raise Refused(f"it is not there after {START_S} s: {self.last_words()}")
            time.sleep(0.005)
        with open(path) as f:
            self.port = int(f.read())

    def last_words(self):
        with open(self.log.name) as f:
            return (f.read().splitlines() or ["nothing in its log"])[-1]

    def end(self, how):
        self.process.send_signal(how)
        return self.process.wait()

    def call(self, method, path, body=None, key=None, timeout=10):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        headers = {"Authorization": "Bearer " + self.token}
        if key:
            headers["Idempotency-Key"] = key
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            connection.close()

    def replay(self, *expected):
        done = subprocess.run([program("hai-replay"), self.state, *expected], capture_output=True, text=True)
        return done.returncode == 0, done.stderr.strip()


class Client(threading.Thread):
    """Submits and stops until told to end; repeats with the same key what was not answered."""

    def __init__(self, scheduler, number, rng, ended):
        super().__init__(daemon=True)
        self.scheduler, self.number, self.rng, self.ended = scheduler, number, rng, ended
        self.jobs = {}       # id -> name, acknowledged
        self.stopped = set()  # ids whose stop was acknowledged
        self.wrong = []

    def persist(self, *args, **kwargs):
        while not self.ended.is_set():
            try:
                status, answer = self.scheduler.call(*args, **kwargs)
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(0.01)
                continue
            if status != 503:
                return status, answer
        return None, None

    def run(self):
        n = 0
        while not self.ended.is_set():
            n += 1
            name = f"c{self.number}-{n}"
            status, answer = self.persist("POST", "/api/v1/jobs", dict(SPEC, name=name), key=name)
            if status is None:
                return
            if status not in (200, 201):
                self.wrong.append((status, answer))
                continue
            self.jobs[answer["id"]] = name
            if self.rng.random() < 0.2:
                status, _ = self.persist("POST", f"/api/v1/jobs/{answer['id']}/stop", {})
                if status == 200:
                    self.stopped.add(answer["id"])


def lost_of(scheduler, clients):
    """Acknowledged submissions and stops that the scheduler does not know any more."""
    lost = []
    owner = {}
    for client in clients:
        for job, name in client.jobs.items():
            status, answer = scheduler.call("GET", f"/api/v1/jobs/{job}")
            if status != 200 or answer["name"] != name:
                lost.append(f"job {job} ({name}): {status} {json.dumps(answer)[:200]}")
            elif job in client.stopped and answer["state"] != "stopped":
                lost.append(f"stop of job {job}: it is {answer['state']}")
            if owner.setdefault(job, name) != name:
                lost.append(f"job {job} was given to {owner[job]} and to {name}")
    return lost


def kill_often(scheduler, rounds, rng):
    """Kills and starts; returns what hai-replay found wrong on the way. Raises Refused."""
    failures = []
    for number in range(rounds):
        time.sleep(rng.uniform(0.02, 0.3))
        scheduler.end(signal.SIGKILL)
        if number % REPLAY_EVERY == 0:
            ok, text = scheduler.replay()
            if not ok:
                failures.append(text)
        scheduler.start()
    time.sleep(0.2)
    return failures


def storm(binary, rounds, rng, folder):
    """Returns (acknowledged, lost, replays that failed)."""
    scheduler = Scheduler(binary, folder)
    ended = threading.Event()
    clients = [Client(scheduler, i, random.Random(rng.random()), ended) for i in range(N_CLIENTS)]
    scheduler.start()
    for client in clients:
        client.start()
    refused = None
    try:
        failures = kill_often(scheduler, rounds, rng)
    except Refused as e:
        refused = f"the whole store: {e}"
    ended.set()
    for client in clients:
        client.join()
    acknowledged = sum(len(c.jobs) + len(c.stopped) for c in clients)
    if refused:
        return acknowledged, [refused], []
    lost = lost_of(scheduler, clients)
    failures += [f"unexpected answer {w}" for c in clients for w in c.wrong]
    _, state = scheduler.call("GET", "/api/v1/state")
    ok, text = scheduler.replay(str(state["index"]), state["digest"])
    if not ok:
        failures.append("live state: " + text)
    if scheduler.end(signal.SIGTERM) != 0:
        failures.append("the scheduler did not end in good order")
    ok, text = scheduler.replay()
    if not ok:
        failures.append("after the end: " + text)
    return acknowledged, lost, failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--only", help="one of the three programs")
    args = parser.parse_args()
    print(f"seed {args.seed}")
    n_failed = 0
    binaries = [args.only] if args.only else ["hai-schedd", "hai-schedd-power", "hai-schedd-planted"]
    for binary in binaries:
        folder = tempfile.mkdtemp(prefix="hai-storm-")
        planted = binary.endswith("planted")
        rounds = args.rounds * (4 if planted else 1)  # a kill must fall between answer and commit
        n, lost, failures = storm(binary, rounds, random.Random(f"{args.seed} {binary}"), folder)
        ok = bool(lost) if planted else not lost and not failures
        print(f"{binary}: {rounds} kills, {n} acknowledged, {len(lost)} lost"
              f"{' as it must' if planted and ok else ''}")
        if not ok:
            n_failed += 1
            for line in (lost + failures)[:10]:
                print("  " + line)
        if args.keep:
            print(f"  {folder}")
        else:
            shutil.rmtree(folder)
    print(f"{len(binaries) - n_failed} passed, {n_failed} failed, 0 skipped")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
