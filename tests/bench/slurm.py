"""slurm.py - Slurm of Debian as a peer: 4 emulated nodes on this machine, in a directory of its own.

Packages slurmctld, slurmd and slurm-client; no munge (auth/none), no accounting, the scheduling
parameters Debian ships. `Slurm.missing()` says why it cannot run here.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import cluster  # noqa: E402

CONFIG = """\
ClusterName=peer
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MaxJobCount=20000
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Slurm:
    def __init__(self, folder, n_nodes=4):
        self.folder = folder
        self.names = [f"n{i}" for i in range(1, n_nodes + 1)]
        self.daemons = []
        self.env = dict(os.environ, SLURM_CONF=os.path.join(folder, "slurm.conf"))

    @staticmethod
    def missing():
        """Why Slurm cannot be a peer here; None if it can."""
        if os.getuid() != 0:
            return "Slurm's daemons need root"
        for name in ("slurmctld", "slurmd", "sbatch"):
            if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin"):
                return f"{name} is not installed (Debian: slurmctld slurmd slurm-client)"
        return None

    def __enter__(self):
        host = socket.gethostname().split(".")[0]
        ports = free_ports(len(self.names) + 1)
        os.makedirs(os.path.join(self.folder, "state"))
        nodes = "\n".join(f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
                          "CPUs=64 RealMemory=1000 State=UNKNOWN"
                          for name, port in zip(self.names, ports[1:]))
        with open(self.env["SLURM_CONF"], "w") as f:
            f.write(CONFIG.format(host=host, port=ports[0], folder=self.folder, nodes=nodes,
                                  names=",".join(self.names)))
        try:
            self.start("/usr/sbin/slurmctld", "-D")
            for name in self.names:
                os.makedirs(os.path.join(self.folder, f"spool-{name}"))
                self.start("/usr/sbin/slurmd", "-D", "-N", name)
            cluster.wait_for("idle Slurm nodes", self.ready, 60, 0.2)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def start(self, *words):
        self.daemons.append(subprocess.Popen(words, env=self.env, stdin=subprocess.DEVNULL,
                                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                             start_new_session=True))

    def ready(self):
        done = subprocess.run(["sinfo", "-h", "-t", "idle", "-o", "%D"], env=self.env, text=True,
                              capture_output=True, check=False)
        return done.stdout.strip() == str(len(self.names))

    def __exit__(self, *_):
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()

    def sbatch(self, *words):
        """Submit; returns the job's number."""
        done = subprocess.run(["sbatch", "--parsable", *words], env=self.env, text=True,
                              capture_output=True, check=True, cwd=self.folder)
        return int(done.stdout)

    def queue_length(self):
        done = subprocess.run(["squeue", "-h", "-o", "%i"], env=self.env, text=True,
                              capture_output=True, check=True)
        return len(done.stdout.split())

    def start_latency_s(self):
        """From the start of sbatch to the first instruction of the job's script."""
        path = os.path.join(self.folder, f"begun-{time.monotonic_ns()}")
        started = time.time()
        self.sbatch("-n1", "-o", "/dev/null", "--wrap", f"date +%s.%N >{path}; sleep 0.3")

        def begun():
            try:
                with open(path) as f:
                    return f.read().strip()
            except FileNotFoundError:
                return ""

        text = cluster.wait_for("start of a Slurm job", begun, 60, 0.01)
        cluster.wait_for("its end", lambda: self.queue_length() == 0, 60, 0.1)
        return float(text) - started

    def short_jobs_rate(self, n):
        """Jobs a second of n x true: an array, so that submission costs it nothing."""
        started = time.monotonic()
        self.sbatch("-n1", "-o", os.path.join(self.folder, "out-%a"), f"--array=1-{n}", "--wrap",
                    "true")
        cluster.wait_for("end of Slurm's jobs", lambda: self.queue_length() == 0, 180, 0.1)
        return n / (time.monotonic() - started)
