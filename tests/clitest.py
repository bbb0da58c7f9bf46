"""clitest.py - what the tests of the `hai` command share: cases that count themselves, a run of
`hai`, and a small scheduler that answers what a case tells it to.

The real scheduler is used where behaviour counts; this one where every digit of an answer must be
known (layouts, exit statuses, retries).
"""

import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse

PREFIX = os.environ.get("HAI_PREFIX")
BUILD = os.environ.get("HAI_BUILD_DIR", "build")
HAI = os.path.join(PREFIX, "bin", "hai") if PREFIX else os.path.join(BUILD, "cli", "hai")
CASES = []


def case(function):
    CASES.append(function)
    return function


class Skip(Exception):
    pass


def main():
    """Run the cases named on the command line, or all; print the closing line."""
    passed = failed = skipped = 0
    for function in CASES:
        if len(sys.argv) > 1 and function.__name__ not in sys.argv[1:]:
            continue
        try:
            function()
            passed += 1
        except Skip as reason:
            skipped += 1
            print(f"skipped: {function.__name__}: {reason}")
        except Exception as error:  # a case must not hide the others
            failed += 1
            print(f"FAILED {function.__name__}: {type(error).__name__}: {error}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)


def equal(got, wanted, what=""):
    if got != wanted:
        raise AssertionError(f"{what}\n--- got\n{got}\n--- wanted\n{wanted}\n---")


def contains(text, part):
    if part not in text:
        raise AssertionError(f"no {part!r} in\n{text}")


class Fake(http.server.ThreadingHTTPServer):
    """Answers by (method, path without query): JSON, or a function of the request."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers
        self.requests = []  # (method, path, query, headers, body)
        self.home = tempfile.mkdtemp(prefix="clitest-")
        self.drop = 0  # close so many requests without an answer

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        shutil.rmtree(self.home, ignore_errors=True)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # hai may leave before the answer
            super().handle_error(request, client_address)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def hai(self, *words, env=None, token="secret", **options):
        more = {"HAI_SERVER": self.url, "HAI_TOKEN": token, **(env or {})}
        return hai(*words, env=more, home=self.home, **options)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def answer(self):
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = self.server
        server.requests.append((self.command, parts.path, query, self.headers, body))
        if server.drop > 0:
            server.drop -= 1
            self.close_connection = True
            return
        if parts.path != "/healthz" and self.headers.get("Authorization") != "Bearer secret":
            self.reply(401, error("bad_token", "the token is not known"))
            return
        found = server.answers.get((self.command, parts.path))
        if callable(found):
            found = found(query, self.headers, body)
        if found is None:
            self.reply(404, error("not_found", f"no {parts.path}"))
        elif isinstance(found, tuple):
            self.reply(*found)
        else:
            self.reply(200, found)

    do_GET = do_POST = answer

    def reply(self, status, body, headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def error(code, message, where=None, hint=None):
    return {"error": {"code": code, "message": message, "where": where, "hint": hint}}


def hai(*words, env=None, home=None, stdin=None, cwd=None, timeout=30):
    """Run `hai WORDS` without a terminal, in a clean environment; the finished process."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HAI_")}
    clean.update({"TZ": "UTC", "HOME": home or tempfile.gettempdir() + "/nobody", **(env or {})})
    clean.pop("XDG_CONFIG_HOME", None)
    options = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run([os.path.abspath(HAI), *words], env=clean, text=True, cwd=cwd,
                          capture_output=True, timeout=timeout, check=False, **options)
