"""benchtable.py - what all benches say of themselves: the machine, the commit, and their table, which
--write keeps between two marks of a page in docs/."""

import datetime
import json
import os
import platform
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def commit():
    return subprocess.run(["git", "-c", f"safe.directory={ROOT}", "rev-parse", "--short", "HEAD"],
                          cwd=ROOT, text=True, capture_output=True, check=False).stdout.strip()


def machine():
    """One line: cores, kernel, commit, day and load."""
    model = "unknown"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return (f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, commit {commit()}, "
            f"{datetime.date.today().isoformat()}; load before the run {os.getloadavg()[0]:.1f}")


def rows(head, values):
    """Lines of a table in Markdown."""
    first, *others = ["| " + " | ".join(map(str, row)) + " |" for row in [head, *values]]
    return [first, "|" + "---|" * len(head), *others]


class State:
    """What is measured so far, {key: figures}, in a file if there is one, so that a run can go on."""

    def __init__(self, path):
        self.path, self.results = path, {}
        if path and os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                self.results = json.load(f)

    def add(self, key, found):
        """Beside what the key has already."""
        self.results.setdefault(key, {}).update(found)
        if self.path:
            with open(self.path + ".new", "w", encoding="utf-8") as f:
                json.dump(self.results, f, indent=1)
            os.replace(self.path + ".new", self.path)


def keep(page, name, lines):
    """Put lines between `<!-- NAME: begin -->` and `<!-- NAME: end -->` of docs/PAGE."""
    path = os.path.join(ROOT, "docs", page)
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    with open(path) as f:
        text = f.read()
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise RuntimeError(f"{path} has no {begin} ... {end}")
    with open(path, "w") as f:
        f.write(before + "\n".join([begin, *lines, end]) + after)
