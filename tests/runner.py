"""runner.py - the stages of tests/run, their processes, and the sum of what they report.

A test is any program that ends with the line "N passed, N failed, N skipped"; without that line its
exit status counts as one test (77: skipped, its last line is the reason). Each runs in a session of
its own with a fresh TMPDIR, and is killed with all it started when its time is over. What it leaves
running is found by the variable HAI_TEST_JOB in its environment, killed, and counted as a failure.
"""

import argparse
import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "build-tests")
LOGS = os.path.join(BUILD, "logs")
E2E = os.path.join(ROOT, "tests", "e2e")
CLOSING = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.M)
SKIPPED = re.compile(r"^\s*skipped:? .*$", re.M)
TAIL_LINES = 40
N_PARALLEL = max(1, min(os.cpu_count() or 1, 8))
# End-to-end tests that measure, or look for what others leave behind. Of those beside each other only
# one may have ranks that meet at a port: clusters give the same ones.
ALONE = {"test_agent", "test_agent_faults", "test_api", "test_install", "test_start", "test_upd",
         "test_usage"}
# Each end-to-end test runs once: against the sanitized programs, but for those that measure, compare
# builds, or start programs that are not ours. The campaigns run the release's.
OF_RELEASE = {"test_install", "test_newcomer", "test_pytorch", "test_sim", "test_start", "test_usage"}
# Sanitized programs and loaded machines are slower, never more than this.
SANITIZER_FACTOR = 4
BUILDS = {
    "release": [],
    "asan": ["-Db_sanitize=address,undefined", "-Dcuda=disabled"],
    "tsan": ["-Db_sanitize=thread", "-Dcuda=disabled"],
}

Job = collections.namedtuple("Job", "name argv env timeout_s alone")
Result = collections.namedtuple("Result", "job passed failed skipped reasons log seconds")


def processes_of(job_id):
    """Pids whose environment carries the mark of this job, whatever session they moved to."""
    mark = b"HAI_TEST_JOB=" + job_id.encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if mark in f.read().split(b"\0"):
                    found.append(int(pid))
        except OSError:
            continue
    return found


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def kill_left(job_id, wait_s):
    """Kill what still runs wait_s after the end of a job; returns their command lines."""
    deadline = time.monotonic() + wait_s
    while (left := processes_of(job_id)) and time.monotonic() < deadline:
        time.sleep(0.1)
    names = [name for name in map(command_of, left) if name]
    for _ in range(50):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.1)
        left = processes_of(job_id)
        if not left:
            break
    return names


def count(text, status):
    """(passed, failed, skipped, reasons of skips) from a program's output and exit status."""
    closing = CLOSING.findall(text)
    reasons = [line.strip() for line in SKIPPED.findall(text)]
    if closing:
        passed, failed, skipped = map(int, closing[-1])
        if status != 0 and failed == 0:
            failed = 1
        return passed, failed, skipped, reasons
    if status == 77:
        lines = text.strip().splitlines() or ["no reason given"]
        return 0, 0, 1, [lines[-1]]
    return int(status == 0), int(status != 0), 0, reasons


def run_job(job, running):
    job_id = f"{os.getpid()}.{random.getrandbits(48):x}"
    log = os.path.join(LOGS, job.name.replace("/", ".") + ".log")
    started = time.monotonic()
    tmp = tempfile.mkdtemp(prefix="hai-")
    os.chmod(tmp, 0o755)  # ranks of other users pass through it
    env = dict(os.environ, TMPDIR=tmp, HAI_TEST_JOB=job_id, HAI_TEST_LOG=log, **job.env)
    reports = log + ".sanitizer"
    for old in find_reports(reports):
        os.unlink(old)
    common = f"log_path={reports}:halt_on_error=1:print_stacktrace=1"
    env["ASAN_OPTIONS"] = common + ":detect_stack_use_after_return=1:handle_abort=0"
    env["UBSAN_OPTIONS"] = common
    env["TSAN_OPTIONS"] = common
    notes = []
    with open(log, "wb") as out:
        process = subprocess.Popen(job.argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL,
                                   stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        running.add(job_id)
        try:
            status = process.wait(job.timeout_s)
            late = kill_left(job_id, 3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
            kill_left(job_id, 0)
            late = []
            notes.append(f"killed: still running after {job.timeout_s:.0f} s")
        running.discard(job_id)
    notes += [f"left running: {name}" for name in late]
    for report in find_reports(reports):
        with open(report, errors="replace") as f:
            notes.append(f.read())
    if notes:
        with open(log, "a") as out:
            out.write("\n".join([""] + notes) + "\n")
    shutil.rmtree(tmp, ignore_errors=True)
    with open(log, errors="replace") as f:
        passed, failed, skipped, reasons = count(f.read(), status)
    if notes and failed == 0:
        failed = 1
    return Result(job, passed, failed, skipped, reasons, log, time.monotonic() - started)


def find_reports(prefix):
    folder, base = os.path.split(prefix)
    return [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith(base)]


def print_tail(result):
    with open(result.log, errors="replace") as f:
        for line in f.read().splitlines()[-TAIL_LINES:]:
            print("              | " + line, flush=True)
    print(f"              log: {os.path.relpath(result.log, ROOT)}", flush=True)


class Runner:
    """Runs jobs, prints one line for each, keeps the sums."""

    def __init__(self, only):
        self.only = only
        self.results = []
        self.running = set()
        self.lock = threading.Lock()
        self.started = time.monotonic()

    def wants(self, name):
        return not self.only or any(word in name for word in self.only)

    def say(self, text):
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", flush=True)

    def add(self, result):
        with self.lock:
            self.results.append(result)
            word = "FAILED" if result.failed else "ok" if result.passed else "skipped"
            counts = f"{result.passed} passed"
            counts += f", {result.failed} failed" if result.failed else ""
            counts += f", {result.skipped} skipped" if result.skipped else ""
            self.say(f"{word:7} {result.job.name:40} {counts} ({result.seconds:.1f} s)")
            for reason in result.reasons:
                print(f"              {reason}", flush=True)
            if result.failed:
                print_tail(result)

    def run(self, jobs):
        """Run jobs, N_PARALLEL at a time, then those that want to be alone. True: all held."""
        jobs = [job for job in jobs if self.wants(job.name)]
        first = len(self.results)
        queue = collections.deque(job for job in jobs if not job.alone)

        def work():
            while True:
                try:
                    job = queue.popleft()
                except IndexError:
                    return
                self.add(run_job(job, self.running))

        threads = [threading.Thread(target=work, daemon=True) for _ in range(N_PARALLEL)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
        for job in jobs:
            if job.alone:
                self.add(run_job(job, self.running))
        return not any(result.failed for result in self.results[first:])


def build_job(kind, targets=()):
    """Build build-tests/KIND, and install it below its stage/ for end-to-end tests."""
    folder = os.path.join(BUILD, kind)
    options = " ".join(BUILDS[kind] + ["--prefix=/usr/local"])
    script = f"set -e; etc/build {folder} {options} -- {' '.join(targets)}"
    if not targets:
        script += f"""
        rm -rf {folder}/stage
        DESTDIR={folder}/stage meson install -C {folder} --no-rebuild --quiet"""
    return Job(f"{kind}/build", ["bash", "-c", script], {}, 1500, True)


def meson_tests(kind, suite=None):
    """The tests that the tree declares in meson.build files (STYLE: one program a module)."""
    folder = os.path.join(BUILD, kind)
    text = subprocess.check_output(["meson", "introspect", folder, "--tests"], text=True)
    factor = SANITIZER_FACTOR if kind != "release" else 1
    jobs = []
    for test in json.loads(text):
        suites = [name.split(":")[-1] for name in test["suite"]]
        if suite and suite not in suites:
            continue
        jobs.append(Job(f"{kind}/{test['name']}", test["cmd"], test["env"],
                        test["timeout"] * factor, not test["is_parallel"]))
    return jobs


def thread_targets():
    """What the tests of suite `threads` need built for the thread sanitizer."""
    folder = os.path.join(BUILD, "release")
    text = subprocess.check_output(["meson", "introspect", folder, "--tests"], text=True)
    return sorted(os.path.relpath(test["cmd"][0], folder) for test in json.loads(text)
                  if any(name.endswith(":threads") for name in test["suite"]))


def scripts(folder, kind, timeout_s, alone=lambda name: True):
    """Executable files tests/FOLDER/test_*, run against the programs of build-tests/KIND."""
    path = os.path.join(ROOT, "tests", folder)
    stage = os.path.join(BUILD, kind, "stage", "usr", "local")
    env = {"HAI_PREFIX": stage, "HAI_BUILD_DIR": os.path.join(BUILD, kind),
           "HAI_BUILD_KIND": kind, "PATH": f"{stage}/bin:{os.environ['PATH']}"}
    factor = SANITIZER_FACTOR if kind != "release" else 1
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    jobs = []
    for name in names:
        file = os.path.join(path, name)
        if name.startswith("test_") and os.path.isfile(file) and os.access(file, os.X_OK):
            jobs.append(Job(f"{kind}/{folder}/{name}", [file], env, timeout_s * factor, alone(name)))
    return jobs


def stages(runner):
    env = {"HAI_BUILD": os.path.join(BUILD, "release")}
    runner.say("builds")
    built = [kind for kind in ("release", "asan") if runner.run([build_job(kind)])]
    threads = "release" in built and thread_targets()
    if threads and runner.run([build_job("tsan", threads)]):
        built_for_threads = meson_tests("tsan", "threads")
    else:
        built_for_threads = []
    runner.say("tidy, unit tests, threads under the thread sanitizer")
    tests = [Job("tidy", ["tests/tidy"], env, 300, False),
             Job("tidy/planted", ["tests/test_tidy.py"], env, 300, False), *built_for_threads]
    for kind in reversed(built):  # the slow ones first: none is left over while a core idles
        tests += meson_tests(kind)
    runner.run(tests)
    runner.say("end to end")
    jobs = []
    for kind in built:
        of = OF_RELEASE if kind == "release" else set(os.listdir(E2E)) - OF_RELEASE
        jobs += [job for job in scripts("e2e", kind, 300, alone=ALONE.__contains__)
                 if os.path.basename(job.argv[0]) in of]
    # Most of their time is waiting: they share the machine, each with a cluster of its own.
    runner.run(jobs)
    if "release" in built:
        runner.say("campaigns, short form")
        runner.run(scripts("fault", "release", 600))
        runner.run(scripts("bench", "release", 300))


def main():
    parser = argparse.ArgumentParser(prog="tests/run")
    parser.add_argument("--only", action="append", default=[], metavar="WORD",
                        help="run what has WORD in its name (builds too, unless left out)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(31),
                        help="of the campaigns; default: fresh")
    args = parser.parse_args()
    os.makedirs(LOGS, exist_ok=True)
    os.environ["HAI_TEST_SEED"] = str(args.seed)
    runner = Runner(args.only + ["/build"] if args.only else [])
    runner.say(f"seed {args.seed} (repeat with --seed)")
    try:
        stages(runner)
    except KeyboardInterrupt:
        for job_id in list(runner.running):
            kill_left(job_id, 0)
        return 130
    bad = [result for result in runner.results if result.failed]
    for result in bad:  # once more: who reads only the end of a long output finds it there
        print("FAILED  " + result.job.name)
        print_tail(result)
    if bad:
        print("failed: " + ", ".join(result.job.name for result in bad))
    totals = [sum(getattr(result, field) for result in runner.results)
              for field in ("passed", "failed", "skipped")]
    print("{} passed, {} failed, {} skipped".format(*totals))
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main())
