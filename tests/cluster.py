"""cluster.py - a cluster of `hai up` in a directory of its own, its API, and the faults to give it.

For end-to-end tests, campaigns and benches. Programs come from $HAI_PREFIX/bin (tests/run sets it),
else from PATH. Use as a context manager: the cluster is stopped and its directory removed whatever
happens.
"""

import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse

PREFIX = os.environ.get("HAI_PREFIX")
ENDED = ("succeeded", "failed", "stopped", "timed_out")


def program(name):
    return os.path.join(PREFIX, "bin", name) if PREFIX else shutil.which(name) or name


def seed_of(argument=None):
    """The seed of a campaign: given, else that of tests/run, else a fresh one."""
    if argument is not None:
        return argument
    given = os.environ.get("HAI_TEST_SEED")
    return int(given) if given else random.SystemRandom().getrandbits(31)


def percentile(values, share):
    """The value below which this share of a not empty list lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Timeout(Exception):
    pass


class Refused(Exception):
    """The scheduler answered with an error status."""

    def __init__(self, status, text):
        super().__init__(f"{status}: {text}")
        self.status = status


def wait_for(what, condition, timeout_s, poll_s=0.05):
    """Call condition until it returns something true; returns that."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Timeout(f"after {timeout_s} s still no {what}")
        time.sleep(poll_s)


class Api:
    """One connection to the scheduler; used by one thread. Reconnects after an error."""

    def __init__(self, host, port, token, timeout_s=60):
        self.address = (host, port)
        self.token = token
        self.timeout_s = timeout_s
        self.connection = None

    def call(self, method, path, body=None, headers=None):
        """(status, decoded JSON or text). Raises OSError or HTTPException without an answer."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection(*self.address, timeout=self.timeout_s)
        head = {"Authorization": f"Bearer {self.token}"}
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            head["Content-Type"] = "application/json"
        head.update(headers or {})
        try:
            self.connection.request(method, path, data, head)
            answer = self.connection.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if "json" in (answer.getheader("Content-Type") or ""):
            return answer.status, json.loads(raw)
        return answer.status, raw.decode(errors="replace")

    def get(self, path):
        status, answer = self.call("GET", path)
        if status != 200:
            raise Refused(status, answer)
        return answer

    def post(self, path, body=None, headers=None):
        status, answer = self.call("POST", path, body if body is not None else {}, headers)
        if status not in (200, 201):
            raise Refused(status, answer)
        return answer

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def processes():
    """(pid, parent, words of the command line) of every process."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
                parent = int(f.read().rsplit(")", 1)[1].split()[1])
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().decode(errors="replace").split("\0")[:-1]
        except (OSError, IndexError):
            continue
        yield int(pid), parent, words


def descendants(root):
    children = {}
    for pid, parent, _ in processes():
        children.setdefault(parent, []).append(pid)
    found, queue = [], [root]
    while queue:
        for pid in children.get(queue.pop(), []):
            found.append(pid)
            queue.append(pid)
    return found


def kill(pid, number=signal.SIGKILL):
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


class Cluster:
    """`hai up` in a directory; 4 nodes of 2 GPUs in zones a and b unless told otherwise."""

    def __init__(self, nodes=4, gpus=2, zones=2, directory=None, args=()):
        self.own_dir = directory is None
        # Short: the path of a Unix socket has at most 107 bytes.
        self.dir = directory or tempfile.mkdtemp(prefix="hc-")
        self.shape = ["--nodes", str(nodes), "--gpus", str(gpus), "--zones", str(zones), *args]
        self.server = self.token = None

    def __enter__(self):
        try:
            self.up()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, failure, *_):
        try:
            if failure is None and self.schedd_pid():
                self.check_replay()
            self.down()
        finally:
            if self.own_dir:
                shutil.rmtree(self.dir, ignore_errors=True)

    def env(self):
        """Environment in which `hai` finds this cluster."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HAI_SERVER", "HAI_TOKEN"))}
        env["HAI_CONFIG"] = os.path.join(self.dir, "client.yaml")
        return env

    def hai(self, *words, check=True, timeout_s=120, **options):
        """Run `hai WORDS`; returns the finished process with its texts."""
        return subprocess.run([program("hai"), *words], env=self.env(), text=True, check=check,
                              capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout_s,
                              **options)

    def up(self, timeout_s=60):
        done = subprocess.run([program("hai"), "up", "--dir", self.dir, "--port", "0", *self.shape],
                              text=True, capture_output=True, stdin=subprocess.DEVNULL,
                              timeout=timeout_s, env=self.env(), check=False)
        if done.returncode != 0:
            raise RuntimeError(f"hai up ended with {done.returncode}: {done.stderr}\n"
                               f"{self.tails()}")
        self.read_client()

    def read_client(self):
        config = {}
        with open(os.path.join(self.dir, "client.yaml")) as f:
            for line in f:
                key, _, value = line.partition(":")
                config[key.strip()] = value.strip().strip("'\"")
        self.server = urllib.parse.urlparse(config["server"])
        if config.get("token"):
            self.token = config["token"]
        else:
            with open(config["token_file"]) as f:
                self.token = f.read().strip()

    def down(self):
        if os.path.exists(os.path.join(self.dir, "upd.pid")):
            subprocess.run([program("hai"), "down", "--dir", self.dir], env=self.env(), check=False,
                           capture_output=True, stdin=subprocess.DEVNULL, timeout=120)

    def check_replay(self):
        """The state that follows from the log is the live one, byte for byte (by their digests)."""
        state = self.api().get("/api/v1/state")
        done = subprocess.run([program("hai-replay"), os.path.join(self.dir, "schedd"),
                               str(state["index"]), state["digest"]], text=True, check=False,
                              capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
        if done.returncode != 0:
            raise AssertionError(f"replayed state differs from the live one: {done.stderr}")

    def tails(self, lines=15):
        """The last lines of each daemon's log, for a failure's report."""
        text = ""
        folder = os.path.join(self.dir, "log")
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            with open(os.path.join(folder, name), errors="replace") as f:
                text += f"--- {name}\n" + "".join(f.readlines()[-lines:])
        return text

    def api(self, timeout_s=60):
        return Api(self.server.hostname, self.server.port, self.token, timeout_s)

    def wait_job(self, job, states=ENDED, timeout_s=60):
        """The view of a job once it is in one of these states."""
        api = self.api()
        index, deadline = 0, time.monotonic() + timeout_s
        try:
            while True:
                view = api.get(f"/api/v1/jobs/{job}?ranks=1&since={index}&wait=5")
                if view["state"] in states:
                    return view
                index = view["index"]
                if time.monotonic() > deadline:
                    raise Timeout(f"job {job} is {view['state']}, not {states}: {view['message']}")
        finally:
            api.close()

    # ---- who is who ----

    def pids(self, name, *words):
        """Processes of program NAME of this cluster whose command line has all WORDS in it."""
        found = []
        for pid, _, argv in processes():
            if argv and os.path.basename(argv[0]) == name and \
                    any(self.dir in word for word in argv) and \
                    all(any(word in arg for arg in argv) for word in words):
                found.append(pid)
        return found

    def node_names(self):
        return sorted(os.listdir(os.path.join(self.dir, "nodes")))

    def schedd_pid(self):
        return next(iter(self.pids("hai-schedd")), None)

    def agent_pid(self, node):
        return next(iter(self.pids("hai-agentd", f"/nodes/{node}/")), None)

    def cgroups(self, node):
        """Folders of the cgroup that holds all of a node; empty where there are none."""
        try:
            with open(os.path.join(self.dir, "nodes", node, "cgroup")) as f:
                return [path for path in f.read().split() if os.path.isdir(path)]
        except FileNotFoundError:
            return []

    def node_pids(self, node):
        """Every process of a node: of its cgroup, else the agent, its shims and all below them."""
        found = set()
        for path in self.cgroups(node):
            for folder, _, _ in os.walk(path):
                try:
                    with open(os.path.join(folder, "cgroup.procs")) as f:
                        found.update(map(int, f.read().split()))
                except FileNotFoundError:
                    continue
        if not found:
            roots = self.pids("hai-agentd", f"/nodes/{node}/") + self.shim_pids(node)
            for pid in roots:
                found.update([pid, *descendants(pid)])
        return found

    def shim_pids(self, node):
        """The shims of a node: what its ranks, known by their socket, were started by."""
        mark = f"HAI_SOCKET={self.dir}/nodes/{node}/".encode()
        table = {pid: (parent, words) for pid, parent, words in processes()}
        found = set()
        for pid in table:
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    if not any(word.startswith(mark) for word in f.read().split(b"\0")):
                        continue
            except OSError:
                continue
            while pid in table:
                pid, words = table[pid][0], table.get(table[pid][0], (0, []))[1]
                if words and os.path.basename(words[0]) == "hai-shim":
                    found.add(pid)
        return sorted(found)

    def kill_node(self, node):
        """SIGKILL to all of a node until nothing is left; returns how many were killed."""
        killed = set()
        for _ in range(200):
            left = {pid for pid in self.node_pids(node) if kill(pid)}
            if not left:
                return len(killed)
            killed |= left
            time.sleep(0.001)
        raise Timeout(f"node {node} does not die")

    def rank_pids(self, job):
        """{rank: pid of the process started for it} of a job's newest attempt on this machine."""
        found = {}
        for pid, _, _ in processes():
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    words = f.read().split(b"\0")
                    env = dict(word.split(b"=", 1) for word in words if b"=" in word)
            except OSError:
                continue
            if env.get(b"HAI_JOB_ID") != str(job).encode() or b"RANK" not in env or \
                    self.dir.encode() not in env.get(b"HAI_SOCKET", b""):
                continue
            rank, attempt = int(env[b"RANK"]), int(env.get(b"HAI_ATTEMPT", b"0"))
            # A rank's own children carry its environment too: the oldest is the rank.
            order = (-attempt, pid)
            if rank not in found or order < found[rank]:
                found[rank] = order
        return {rank: order[1] for rank, order in found.items()}
