"""checks.py - for tests of one program: what is checked is counted, what is run has ended."""
import subprocess

counts = {"passed": 0, "failed": 0}


def check(ok, text):
    """text: what is wrong if not ok."""
    counts["passed" if ok else "failed"] += 1
    if not ok:
        print("FAILED:", text)


def run(*args, stdin="", env=None):
    """Run a program to its end on that input: its status, output and messages."""
    p = subprocess.run([str(a) for a in args], capture_output=True, timeout=300, env=env,
                       input=stdin.encode())
    return p.returncode, p.stdout.decode(), p.stderr.decode()


def closing():
    """Print the closing line. Returns the exit status."""
    print("%d passed, %d failed, 0 skipped" % (counts["passed"], counts["failed"]))
    return 1 if counts["failed"] else 0
