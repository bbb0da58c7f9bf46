"""scheduling.py - what submission, start and memory cost, against the machine's limits and Slurm.

usage: tests/bench/scheduling.py [--quick] [--write]

Every figure is measured in this run, hai and its peer or limit in turns, median of at least five
unless said otherwise. --write keeps the table in docs/performance.md.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)),
                os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
import benchtable  # noqa: E402
import cluster  # noqa: E402
from slurm import Slurm  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# About what one submission writes to the log.
LOG_ROW_BYTES = 400
IN_FLIGHT = 64


def median(values):
    return cluster.percentile(values, 0.5)


def bench_program(name):
    folder = os.environ.get("HAI_BUILD_DIR") or os.path.join(ROOT, "build")
    return os.path.join(folder, "tests", "bench", name)


def spec(name, command, nodes=1, gpus=0):
    return {"version": 3, "name": name, "workdir": "/", "command": command,
            "resources": {"nodes": nodes, "gpus_per_node": gpus, "cpus": 1}}


class Bench:
    def __init__(self, live, quick, slurm):
        self.live = live
        self.slurm = slurm  # None: not here
        self.api = live.api()
        self.quick = quick
        self.rows = []  # what, hai, peer or limit, ratio, bar
        self.n = 0

    def row(self, what, own, peer, ratio, bar, met):
        self.rows.append((what, own, peer, ratio, bar, met))
        mark = "" if met is None else "ok" if met else "BELOW THE BAR"
        print(f"  {what:52} {own:>16}  {peer:>30}  {ratio:>8}  {bar:>16}  {mark}", flush=True)

    def submit_storm(self, n, in_flight):
        """Submissions a second over raw connections; none of the jobs can start."""
        self.n += 1
        body = json.dumps(spec("storm", ["true"], 1, 2))
        server = self.live.server
        done = subprocess.run([bench_program("bench_submit"), server.hostname, str(server.port),
                               self.live.token, str(n), str(in_flight), body,
                               f"bench{self.n}-{os.getpid()}"], text=True, capture_output=True,
                              check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stdout + done.stderr)
        return json.loads(done.stdout)

    def occupy(self):
        """One job that holds all GPUs."""
        body = spec("occupy", ["sleep", "3600"], 4, 2)
        body["resources"]["cross_zones"] = True
        job = self.api.post("/api/v1/jobs", body)["id"]
        self.live.wait_job(job, ("running",), 30)
        return job

    def memory(self, pid):
        with open(f"/proc/{pid}/status") as f:
            fields = dict(line.split(":", 1) for line in f)
        return int(fields["VmRSS"].split()[0]) / 1024

    # ---- the figures ----

    def latency(self):
        """Submission to running on an idle cluster: to the rank's first instruction, and to what
        the API says."""
        folder = tempfile.mkdtemp(prefix="lat-", dir=self.live.dir)
        os.chmod(folder, 0o777)
        lock_rank = os.path.join(os.path.dirname(bench_program("x")), "..", "fault", "lock_rank")
        begun, seen, peer = [], [], []
        for n in range(5 if self.quick else 20):
            if self.slurm and n % 4 == 0:
                peer.append(self.slurm.start_latency_s())
            time.sleep(0.2)
            started = time.time()
            job = self.api.post("/api/v1/jobs", spec(f"lat{n}", [lock_rank, folder, "300"]))["id"]
            index = 0
            while True:
                view = self.api.get(f"/api/v1/jobs/{job}?since={index}&wait=5")
                if view["state"] == "running":
                    break
                index = view["index"]
            seen.append(time.time() - started)
            self.live.wait_job(job)
            with open(os.path.join(folder, "ranks")) as f:
                first = [line.split() for line in f if line.startswith(f"{job} ")][0]
            begun.append(int(first[4]) / 1e6 - started)
        slow = median(peer) if peer else 2.3
        self.row("idle cluster, submission to first instruction", f"{median(begun) * 1e3:.1f} ms",
                 f"Slurm {slow * 1e3:.0f} ms" + ("" if peer else " (recorded)"),
                 f"{slow / median(begun):.0f}x", "< 50 ms", median(begun) < 0.05)
        self.row("idle cluster, submission to `running` seen", f"{median(seen) * 1e3:.1f} ms", "",
                 "", "< 50 ms", median(seen) < 0.05)

    def short_jobs(self):
        """1,000 x true on 4 nodes: first submission to the last end, outputs and exits kept."""
        n = 200 if self.quick else 1000
        rates, peer = [], []
        for _ in range(1 if self.quick else 5):
            if self.slurm:
                peer.append(self.slurm.short_jobs_rate(200))
            started = time.monotonic()
            jobs = []
            for at in range(0, n, 250):
                body = {"jobs": [{"spec": spec(f"t{at + i}", ["true"])}
                                 for i in range(min(250, n - at))]}
                answer = self.api.post("/api/v1/jobs:batch", body)
                jobs += [result["id"] for result in answer["results"]]
            cluster.wait_for("end of all jobs", lambda: not self.api.get("/api/v1/queue"), 120,
                             0.01)
            rates.append(n / (time.monotonic() - started))
            views = {view["id"]: view for view in self.api.get("/api/v1/jobs?all=1&limit=10000")}
            wrong = [job for job in jobs if views[job]["state"] != "succeeded"
                     or views[job]["exit_code"] != 0
                     or not os.path.exists(os.path.join(self.live.dir, "jobs", str(job), "1",
                                                        "0.log"))]
            if wrong:
                raise RuntimeError(f"{len(wrong)} of {n} jobs without success or output: "
                                   f"{wrong[:5]}")
        slow = median(peer) if peer else 57
        self.row(f"{n} x true on 4 nodes", f"{median(rates):.0f} jobs/s",
                 f"Slurm {slow:.0f} jobs/s" + ("" if peer else " (recorded)"),
                 f"{median(rates) / slow:.1f}x", ">= 245 jobs/s", median(rates) >= 245)

    def submissions(self):
        self.occupy()
        n = 2000 if self.quick else 10000
        storms = [self.submit_storm(n, IN_FLIGHT) for _ in range(1 if self.quick else 3)]
        rates = [n / storm["seconds"] for storm in storms]
        self.row(f"submissions, {IN_FLIGHT} in flight, durable", f"{median(rates):.0f}/s",
                 "Slurm 720-1,702, not durable", f"{median(rates) / 1702:.1f}x", ">= 5,000/s",
                 median(rates) >= 5000)
        self.row("  their 99th percentile", f"{storms[-1]['p99_us'] / 1e3:.1f} ms", "", "", "",
                 None)
        own, limit = [], []
        for _ in range(3 if self.quick else 5):
            own.append(500 / self.submit_storm(500, 1)["seconds"])
            with tempfile.TemporaryDirectory(dir=self.live.dir) as folder:
                done = subprocess.run([bench_program("bench_commit"), folder, "0.5",
                                       str(LOG_ROW_BYTES)], text=True, capture_output=True,
                                      check=True)
                limit.append(float(done.stdout))
        ratio = median([a / b for a, b in zip(own, limit)])
        self.row("submissions, one after another, durable", f"{median(own):.0f}/s",
                 f"SQLite commits {median(limit):.0f}/s", f"{ratio:.2f}", ">= 0.60", ratio >= 0.6)

    def process(self):
        """One `hai submit` process, start to end; curl's own start in turns."""
        own, curl = [], []
        words = [cluster.program("hai"), "submit", "-q", "--gpus-per-node", "2", "--", "true"]
        for _ in range(10 if self.quick else 40):
            own.append(self.run_time(words))
            if shutil.which("curl"):
                curl.append(self.run_time([shutil.which("curl"), "-s", "-o", "/dev/null",
                                           self.live.server.geturl() + "/healthz"]))
        peer = f"curl, one request: {median(curl) * 1e3:.1f} ms" if curl else ""
        ratio = f"{median(own) / median(curl):.2f}" if curl else ""
        self.row("one `hai submit` process", f"{median(own) * 1e3:.1f} ms", peer, ratio, "< 15 ms",
                 median(own) < 0.015)

    def run_time(self, words):
        null = os.open(os.devnull, os.O_RDWR)
        started = time.monotonic()
        pid = os.posix_spawn(words[0], words, self.live.env(),
                             file_actions=[(os.POSIX_SPAWN_DUP2, null, 0),
                                           (os.POSIX_SPAWN_DUP2, null, 1)])
        _, status = os.waitpid(pid, 0)
        spent = time.monotonic() - started
        os.close(null)
        if status != 0:
            raise RuntimeError(f"{words} ended with {status}")
        return spent

    def many_files(self):
        """`hai submit` of a stream of job files in one process."""
        n = 500 if self.quick else 5000
        text = "---\n".join(f"version: 3\nname: f{i}\ncommand: 'true'\nworkdir: /\n"
                            "resources: {gpus_per_node: 2}\n" for i in range(n))
        started = time.monotonic()
        done = subprocess.run([cluster.program("hai"), "submit", "-q", "-"], input=text, text=True,
                              env=self.live.env(), capture_output=True, check=True)
        rate = n / (time.monotonic() - started)
        if len(done.stdout.split()) != n:
            raise RuntimeError(f"{len(done.stdout.split())} ids for {n} job files")
        self.row("`hai submit -`, a stream of job files", f"{rate:.0f}/s", "", "", ">= 5,000/s",
                 rate >= 5000)

    def memories(self):
        queued = len([job for job in self.api.get("/api/v1/queue") if job["state"] == "queued"])
        pid = self.live.schedd_pid()
        size = self.memory(pid)
        self.row(f"resident memory, scheduler, {queued} queued", f"{size:.1f} MB",
                 "Slurm 82 MB (recorded)", "", "< 100 MB", size < 100)
        node = self.live.node_names()[0]
        time.sleep(4)  # idle is what the bar is for
        size = self.memory(self.live.agent_pid(node))
        self.row("resident memory, idle agent", f"{size:.1f} MB", "", "", "< 15 MB", size < 15)
        sizes = [self.memory(pid) for pid in self.live.shim_pids(node)]
        if sizes:
            self.row("resident memory, shim with 2 ranks", f"{max(sizes):.1f} MB", "", "", "< 2 MB",
                     max(sizes) < 2)

    def run(self):
        self.latency()
        self.short_jobs()
        self.submissions()
        self.process()
        self.many_files()
        if not self.quick:
            queued = len(self.api.get("/api/v1/queue"))
            if queued < 10000:
                self.submit_storm(10000 - queued, IN_FLIGHT)
        self.memories()


def keep(rows, where):
    met = {None: "", True: "yes", False: "no"}
    lines = [where + ".", ""] + benchtable.rows(
        ("what", "hai", "peer or limit", "ratio", "bar", "met"),
        [(row[0].strip(), *row[1:5], met[row[5]]) for row in rows])
    benchtable.keep("performance.md", "scheduling", lines)


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/scheduling.py")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, for tests/run")
    parser.add_argument("--write", action="store_true",
                        help="keep the table in docs/performance.md")
    args = parser.parse_args()
    where = benchtable.machine()
    print(where)
    reason = "--quick" if args.quick else Slurm.missing()
    if reason:
        print(f"skipped: Slurm as a peer: {reason}")
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(cluster.Cluster())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-"))
        slurm = None if reason else stack.enter_context(Slurm(folder))
        bench = Bench(live, args.quick, slurm)
        try:
            bench.run()
        except BaseException:
            print(live.tails())
            raise
    if args.write:
        keep(bench.rows, where)
    print(f"{len(bench.rows)} passed, 0 failed, {int(bool(reason))} skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
