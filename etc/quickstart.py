"""quickstart.py - the steps of etc/quickstart, in the order in which a person sees them."""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests"))
import cluster  # noqa: E402
import training  # noqa: E402

BUILD = os.path.join(ROOT, "build-quickstart")
STEPS = 240
PROMPTS = ["The ", "import "]
LAST = 10  # steps whose mean is the final loss: single batches differ


class Failed(Exception):
    """The quickstart cannot go on; the text is for a person."""


class Screen:
    """Lines, and one bar below them where there is a terminal."""

    def __init__(self):
        self.terminal = sys.stdout.isatty()
        self.started = time.monotonic()
        self.bar_text = ""
        self.told = -1

    def line(self, text=""):
        if self.bar_text:
            print("\r\033[K", end="")
        print(text)
        if self.bar_text:
            print(self.bar_text, end="")
        sys.stdout.flush()

    def title(self, text):
        self.end_bar()
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        self.line(f"[{minutes}:{seconds:02d}] {text}")
        self.told = -1

    def bar(self, done, total, note):
        if self.terminal:
            width = 30
            filled = width * done // max(total, 1)
            self.bar_text = f"       [{'#' * filled}{'.' * (width - filled)}] {note}"[:100]
            print("\r\033[K" + self.bar_text, end="", flush=True)
        elif 10 * done // max(total, 1) != self.told:
            self.told = 10 * done // max(total, 1)
            self.line("       " + note)

    def end_bar(self):
        if self.bar_text:
            print()
            self.bar_text = ""


def build(screen):
    """Compile and install below the build folder; returns the prefix."""
    screen.title("building")
    log = os.path.join(BUILD + ".log")
    with subprocess.Popen(["etc/build", BUILD, "--prefix=/usr/local"], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL) as process, open(log, "w") as out:
        for line in process.stdout:
            out.write(line)
            match = re.match(r"\[(\d+)/(\d+)\]", line)
            if match:
                screen.bar(int(match[1]), int(match[2]), f"{match[1]} of {match[2]} files")
    if process.returncode != 0:
        with open(log) as f:
            raise Failed("the build failed:\n" + "".join(f.readlines()[-30:]))
    os.unlink(log)
    stage = os.path.join(BUILD, "stage")
    subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", stage],
                   check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return os.path.join(stage, "usr", "local")


def text_folders(directory):
    """Folders of real text: manuals in Chinese and English, Python's own sources. Some systems are
    set up to leave manuals out when they install; then the packages are unpacked beside."""
    man = "/usr/share/man"
    if not os.path.isdir(f"{man}/zh_CN/man1") or not os.path.isdir(f"{man}/man7"):
        folder = os.path.join(directory, "packages")
        os.makedirs(folder)
        subprocess.run(["apt-get", "-q", "download", "manpages", "manpages-zh"], cwd=folder,
                       check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        for name in os.listdir(folder):
            subprocess.run(["dpkg-deb", "-x", name, "."], cwd=folder, check=True)
        man = os.path.join(folder, "usr", "share", "man")
    python = os.path.dirname(os.__file__)
    return [f"{man}/man7", f"{man}/zh_CN/man1", os.path.join(python, "asyncio"),
            os.path.join(python, "email")]


def write_files(directory, seed):
    training.write(directory, training.model(), text_folders(directory), STEPS, seed)
    for name in ("undisturbed", "disturbed"):
        training.write_job(directory, name)
    # Under sudo ranks run as the calling user.
    if os.getuid() == 0 and int(os.environ.get("SUDO_UID", 0)):
        for folder, _, names in os.walk(directory):
            for path in [folder] + [os.path.join(folder, name) for name in names]:
                os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))


class Run:
    """One job of the quickstart, from its submission to its end."""

    def __init__(self, screen, live, directory, name):
        self.screen, self.live, self.name = screen, live, name
        self.api = live.api()
        self.steps = training.Steps(directory, name)
        self.submitted = time.time()
        done = live.hai("submit", "-q", os.path.join(directory, name + ".yaml"), check=False)
        if done.returncode != 0:
            raise Failed(done.stderr)
        self.job = int(done.stdout)
        self.seen_event = 0
        self.events = []

    def view(self):
        return self.api.get(f"/api/v1/jobs/{self.job}?ranks=1")

    def new_events(self):
        events = self.api.get(f"/api/v1/jobs/{self.job}/events?since={self.seen_event}")
        for event in events:
            self.seen_event = max(self.seen_event, event["index"])
        self.events += events
        return events

    def show(self):
        self.steps.read()
        note = f"step {self.steps.last()} of {STEPS}"
        if self.steps.lines:
            note += f"  loss {self.steps.loss(-1):.3f}"
        self.screen.bar(self.steps.last(), STEPS, note)

    def follow(self, until, with_events=False):
        """Show progress until a condition holds or the job ends; returns its view if it ended."""
        asked = 0
        while not until():
            self.show()
            if time.monotonic() - asked > 0.25:
                asked = time.monotonic()
                view = self.view()
                for event in self.new_events() if with_events else []:
                    self.screen.line(f"       {event['at'][11:22]} {event['message']}")
                if view["state"] in cluster.ENDED:
                    self.show()
                    return view
            time.sleep(0.02)
        return None

    def finish(self):
        view = self.follow(lambda: False)
        self.screen.end_bar()
        if view["state"] != "succeeded":
            raise Failed(f"job {self.job} {view['state']}: {view['message']}\n" + self.live.hai(
                "logs", str(self.job), check=False).stdout[-3000:])


def lose_node(screen, run, rng):
    """Kill all of a node at a random step; returns the figures of the recovery."""
    target = rng.randint(STEPS * 30 // 100, STEPS * 70 // 100)
    if run.follow(lambda: run.steps.read() and run.steps.last() >= target):
        raise Failed(f"job {run.job} ended before step {target}")
    run.new_events()
    view = run.view()
    node = rng.choice(view["node_names"])
    killed_at = time.time()
    n_killed = run.live.kill_node(node)
    n_lines = run.steps.read()
    last = run.steps.last()
    screen.end_bar()
    screen.title(f"killed node {node} at step {last}: its agent, shim and ranks, {n_killed} "
                 "processes")
    if run.follow(lambda: run.steps.read() > n_lines, with_events=True):
        raise Failed(f"job {run.job} ended instead of going on")
    run.new_events()
    noticed = [event for event in run.events if cluster_time(event["at"]) >= killed_at]
    if not noticed:
        raise Failed("no event says that ranks were lost")
    first = run.steps.lines[n_lines][0]
    screen.line(f"       going on with step {first}, "
                f"{run.steps.times[n_lines] - killed_at:.1f} s after the kill, on "
                f"{', '.join(run.view()['node_names'])}")
    return {"last": last, "first": first, "noticed": noticed[0]["message"],
            "detect_s": cluster_time(noticed[0]["at"]) - killed_at,
            "resume_s": run.steps.times[n_lines] - killed_at}


def cluster_time(text):
    """Seconds since 1970 of 2026-11-23T13:11:40.102Z."""
    whole, _, rest = text.rstrip("Z").partition(".")
    return time.mktime(time.strptime(whole + " UTC", "%Y-%m-%dT%H:%M:%S %Z")) - time.timezone \
        + float("0." + (rest or "0"))


def generate(screen, directory):
    screen.title("generating with the model that lost a node on its way")
    for prompt in PROMPTS:
        done = subprocess.run(
            [cluster.program("hai-generate"), "--model", os.path.join(directory, "disturbed"),
             "--prompt", prompt, "--max-tokens", "160", "--temperature", "0.6", "--seed", "1"],
            text=True, capture_output=True, stdin=subprocess.DEVNULL, errors="replace", check=False)
        if done.returncode != 0:
            raise Failed("hai-generate: " + done.stderr)
        for line in (prompt + done.stdout.removeprefix(prompt)).splitlines()[:6]:
            screen.line("       | " + line[:100])


def closing(screen, control, run, loss, n_differ):
    rows = [
        ("time to first step", f"{run.steps.times[0] - run.submitted:.2f} s",
         "from hai submit to the end of step 1, 4 ranks on 2 nodes"),
        ("time to detect", f"{loss['detect_s']:.2f} s",
         f"from the kill to: {loss['noticed'][:60]}"),
        ("time to resume", f"{loss['resume_s']:.2f} s", "from the kill to the end of a new step"),
        ("steps recomputed", f"{loss['last'] - loss['first'] + 1}",
         f"of {STEPS}: {loss['first']} to {loss['last']}"),
        ("final loss", f"{run.steps.mean_loss(LAST):.3f}",
         f"mean of {LAST} steps; first {run.steps.loss(0):.3f}; undisturbed "
         f"{control.steps.mean_loss(LAST):.3f}"),
        ("whole run", f"{time.monotonic() - screen.started:.0f} s",
         "build and control run included"),
    ]
    screen.title("measured in this run")
    for name, value, remark in rows:
        screen.line(f"       {name:18} {value:>10}   {remark}")
    screen.line()
    screen.line(f"steps whose loss differs: {n_differ}")


def keep_hints(screen, prefix, live):
    screen.line(f"""
The cluster is up (--keep). In a shell:
  export PATH={prefix}/bin:$PATH HAI_CONFIG={live.dir}/client.yaml
  hai nodes
  hai run -n 2 --gpus-per-node 2 -- sh -c 'echo rank $RANK on $HAI_NODE' && hai logs -r all
  hai logs disturbed
  hai events disturbed
  hai down --purge --dir {live.dir} && rm -r {os.path.dirname(live.dir)}""")


def tour(screen, args):
    prefix = build(screen)
    cluster.PREFIX = prefix
    work = os.path.join(args.dir, "work")
    os.makedirs(work)
    os.chmod(args.dir, 0o755)
    write_files(work, args.seed)
    rng = random.Random(args.seed)
    live = cluster.Cluster(directory=os.path.join(args.dir, "c"))
    os.mkdir(live.dir)
    try:
        screen.title("starting 4 nodes with 2 emulated GPUs each, in zones a and b")
        live.up()
        for line in live.hai("nodes").stdout.splitlines():
            screen.line("       " + line)
        screen.title("training undisturbed, to compare with: 4 ranks on 2 nodes")
        control = Run(screen, live, work, "undisturbed")
        control.finish()
        screen.title(f"training again; a node will be lost (seed {args.seed})")
        run = Run(screen, live, work, "disturbed")
        loss = lose_node(screen, run, rng)
        run.finish()
        generate(screen, work)
        n_differ = training.differing(run.steps, control.steps, STEPS)
        closing(screen, control, run, loss, n_differ)
        if args.keep:
            keep_hints(screen, prefix, live)
        if n_differ or run.steps.mean_loss(LAST) > run.steps.loss(0) / 2:
            raise Failed("the loss did not fall by half" if not n_differ else "losses differ")
    except BaseException:
        args.keep = False
        raise
    finally:
        if not args.keep:
            live.down()


def interrupt(*_):
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(prog="etc/quickstart")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(31),
                        help="of the kill and of the training; default: fresh")
    parser.add_argument("--dir", required=True, help=argparse.SUPPRESS)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    screen = Screen()
    status = 1
    try:
        tour(screen, args)
        status = 0
    except KeyboardInterrupt:
        screen.end_bar()
        screen.line("interrupted: the cluster is stopped and its files are removed")
        status = 130
    except (Failed, RuntimeError, cluster.Timeout, cluster.Refused,
            subprocess.CalledProcessError) as problem:
        screen.end_bar()
        screen.line(f"quickstart: {problem}")
    finally:
        if not args.keep:
            shutil.rmtree(args.dir, ignore_errors=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
