"""peerserver.py - another engine's HTTP server (llama.cpp, ik_llama.cpp) as something to measure.

A process is started once for a model and number of threads and waits between the measurements, so
that several engines are measured in turns. Times are those that the server reports of itself.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import time

sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
import cluster  # noqa: E402

START_S = 600
ANSWER_S = 3600


def find(folder, name):
    """The program in a folder of binaries or of a build, or None."""
    for path in (os.path.join(folder, name), os.path.join(folder, "bin", name)):
        if os.access(path, os.X_OK):
            return os.path.abspath(path)
    return None


def version(program):
    """What the server says of its build, without paths."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    for line in (done.stdout + done.stderr).splitlines():
        if line.startswith("version:"):
            return line.split(":", 1)[1].strip()
    return "unknown version"


class Server:
    """A running server; use as a context manager."""

    def __init__(self, program, model, n_threads, n_tokens, folder, name, more=()):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.folder = folder  # some write a log where they are started
        self.log = os.path.join(folder, f"server-{self.port}.log")
        self.saved = os.path.join(folder, f"{os.path.basename(model)}.{name}".replace(" ", "-"))
        self.words = [program, "-m", model, "--host", "127.0.0.1", "--port", str(self.port),
                      "-t", str(n_threads), "-tb", str(n_threads), "-c", str(n_tokens), "-np", "1",
                      "-b", "2048", "-ub", "512", "--ctx-checkpoints", "0", "--cache-ram", "0",
                      "--slot-save-path", folder, *more]
        self.process = None

    def __enter__(self):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.words, cwd=self.folder,
                                            stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)
        try:
            cluster.wait_for(f"answer of {self.words[0]}", self.ready, START_S, 0.2)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return "".join(f.readlines()[-12:])

    def ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.words[0]} ended with {self.process.returncode}:\n"
                               + self.tail())
        try:
            return self.call("GET", "/health")[0] == 200
        except OSError:
            return False

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        connection.request(method, path, json.dumps(body) if body is not None else None,
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data

    def complete(self, ids, n_new, keep=True):
        """(tokens a second of the prompt, those after, tokens of the prompt that were computed)."""
        status, data = self.call("POST", "/completion", {
            "prompt": ids, "n_predict": n_new, "temperature": 0, "cache_prompt": keep,
            "ignore_eos": True, "samplers": ["top_k"], "top_k": 1})
        if status != 200:
            raise RuntimeError(f"{self.words[0]}: {status}: {data[:500]!r}\n{self.tail()}")
        t = json.loads(data)["timings"]
        # The first new token belongs to the prompt's time.
        return (t["prompt_n"] * 1e3 / max(t["prompt_ms"], 1e-3),
                (t["predicted_n"] - 1) * 1e3 / max(t["predicted_ms"], 1e-3), t["prompt_n"])

    def save(self):
        """Keep the context in a file for the next server of the same model; False if it cannot."""
        return self.call("POST", "/slots/0?action=save",
                         {"filename": os.path.basename(self.saved)})[0] == 200

    def restore(self):
        return os.path.exists(self.saved) and self.call(
            "POST", "/slots/0?action=restore", {"filename": os.path.basename(self.saved)})[0] == 200
