"""A real SLURM of virtual nodes on this machine, for the tests: slurmctld and one slurmd a node, as root, no systemd.

Everything lies in one folder: munge's key and socket, configuration, state, logs. As a script: `cluster.py FOLDER`
starts one and prints the line that points a shell to it; `cluster.py FOLDER stop` ends it.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SETTINGS = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0,bf_interval=2
SlurmdTimeout=10
InactiveLimit=0
OverTimeLimit=0
KillWait={kill_wait}
MinJobAge=3600
MaxJobCount=5000
MaxArraySize={max_array_size}
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
{extra}
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus} RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime={grace}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """warn_preempted: whether SLURM announces a preemption by the job's own signal. kill_wait, grace: seconds between
    SIGTERM and SIGKILL, at the end of a job and at its preemption."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 3,
        cpus: int = 2,
        warn_preempted: bool = True,
        kill_wait: int = 10,
        grace: int = 10,
        max_array_size: int = 1001,
    ) -> None:
        self.folder, self.nodes = folder, nodes
        (folder / "state").mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        port = free_ports(nodes + 1)
        self.text = SETTINGS.format(
            host=socket.gethostname().split(".")[0], port=port, first=port + 1, last=port + nodes, folder=folder,
            nodes=nodes, cpus=cpus, kill_wait=kill_wait, grace=grace, max_array_size=max_array_size,
            extra="{extra}",
        )  # fmt: skip
        self._write(warn_preempted)

    def _write(self, warn_preempted: bool) -> None:
        extra = "SlurmctldParameters=preempt_send_user_signal" if warn_preempted else ""
        (self.folder / "slurm.conf").write_text(self.text.replace("{extra}", extra))

    def configure(self, *, warn_preempted: bool) -> None:
        self._write(warn_preempted)
        self.run("scontrol", "reconfigure")

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def start(self) -> Cluster:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        files = {"key-file": key.name, "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
        files |= {"seed-file": "munged.seed"}
        self.run("munged", "--force", *(f"--{name}={self.folder / file}" for name, file in files.items()))
        self.run("slurmctld", "-c")
        for number in range(1, self.nodes + 1):
            self.start_node(f"n{number}")
        wait_for(self.is_idle, 60)
        return self

    def is_idle(self) -> bool:
        return len(self.run("sinfo", "-h", "-N", "-t", "idle", "-p", "main").splitlines()) == self.nodes

    def repair(self) -> None:
        """Ends what a test left running, and takes nodes back that SLURM gave up, so that the next test has all."""
        self.run("scancel", "-u", "root", check=False)
        if wait_for(self.is_idle, 30, fail=False):
            return
        print("mended:", self.run("sinfo", "-N", "-o", "%N %T %E"))
        for number in range(1, self.nodes + 1):
            pid = self.folder / f"slurmd-n{number}.pid"
            if not pid.exists() or not Path(f"/proc/{pid.read_text().strip()}").exists():
                self.start_node(f"n{number}")
            self.run("scontrol", "update", f"nodename=n{number}", "state=resume", check=False)
        wait_for(self.is_idle, 90)

    def start_controller(self) -> None:
        """The controller returns and knows the jobs that it knew."""
        self.run("slurmctld")
        wait_for(lambda: "UP" in self.run("scontrol", "ping", check=False), 60)

    def stop_controller(self) -> None:
        """The controller goes; jobs that run continue."""
        file = self.folder / "slurmctld.pid"
        pid = int(file.read_text())
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), 30)

    def preempt(self) -> None:
        """A job of a better partition takes all nodes for two seconds, whatever runs there."""
        job = self.run("sbatch", "--parsable", "-p", "urgent", f"-N{self.nodes}", "--exclusive", "--time=1",
                       "--output=/dev/null", "--wrap=sleep 2")  # fmt: skip
        there = ("RUNNING", "COMPLETING", "COMPLETED")
        wait_for(lambda: self.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T") in there, 90)

    def start_node(self, name: str) -> None:
        """Node names must resolve, or processes that meet by them wait for ever: the node gets hosts of its own.

        Jobs run as nicely as their slurmd.
        """
        (self.folder / f"spool-{name}").mkdir(exist_ok=True)
        slurmd = ["nice", "-n", "5", "slurmd", "-N", name]
        if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0:
            hosts = self.folder / "hosts"
            names = " ".join(f"n{number}" for number in range(1, self.nodes + 1))
            hosts.write_text(Path("/etc/hosts").read_text() + f"\n127.0.0.1 {names}\n")
            bind = f'mount --bind "{hosts}" /etc/hosts && exec "$@"'
            slurmd = ["unshare", "-m", "sh", "-c", bind, "sh", *slurmd]
        subprocess.run(slurmd, env=self.environment, check=True, timeout=60)

    def lose_node(self, name: str) -> None:
        """The node dies: its slurmd and everything that runs on it, without a word."""
        self.kill_pid(self.folder / f"slurmd-{name}.pid", signal.SIGKILL)
        for pid in self.processes_of(name):
            kill_tree(pid)
        self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def return_node(self, name: str) -> None:
        self.start_node(name)
        # A node that came back by itself refuses to be resumed.
        self.run("scontrol", "update", f"nodename={name}", "state=resume", check=False)

    def processes_of(self, name: str) -> list[int]:
        """The step daemons of a node."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
                environment = (path.parent / "environ").read_bytes()
            except OSError:
                continue
            if words[0].startswith(b"slurmstepd") and str(self.folder / "slurm.conf").encode() in environment:
                job = words[0].split(b"[")[-1].split(b".")[0].decode()
                if any(file.startswith(f"{name}_{job}.") for file in os.listdir(self.folder / f"spool-{name}")):
                    found.append(int(path.parent.name))
        return found

    def kill_pid(self, file: Path, number: int = signal.SIGTERM) -> None:
        try:
            os.kill(int(file.read_text()), number)
        except (OSError, ValueError):
            return

    def stop(self) -> None:
        """slurmd leaves its jobs alive when it goes: they are cancelled first."""
        self.run("scancel", "-u", "root", check=False)
        wait_for(lambda: not self.run("squeue", "-h", check=False), 30, fail=False)
        for name in [*(f"slurmd-n{number}" for number in range(1, self.nodes + 1)), "slurmctld", "munged"]:
            self.kill_pid(self.folder / f"{name}.pid")
        wait_for(lambda: not list(self.folder.glob("slurm*.pid")), 20, fail=False)


def kill_tree(pid: int) -> None:
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    for child in children:
        kill_tree(int(child))


def wait_for(condition: Callable[[], object], seconds: float, *, fail: bool = True, every: float = 0.2) -> bool:
    """Until the condition holds; raises TimeoutError when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            if fail:
                raise TimeoutError(f"not after {seconds} s")
            return False
        time.sleep(every)
    return True


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row."""
    # At random: another cluster may look for its ports at the same time.
    for start in random.sample(range(17800, 30000, 20), 100):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, each in enumerate(sockets):
                each.bind(("127.0.0.1", start + offset))
            return start
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
    raise RuntimeError("no free ports")


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    if sys.argv[2:] == ["stop"]:
        cluster = Cluster.__new__(Cluster)
        cluster.folder, cluster.nodes = folder, len(list(folder.glob("spool-n*")))
        cluster.stop()
        return
    shutil.rmtree(folder, ignore_errors=True)
    print(f"export SLURM_CONF={Cluster(folder).start().environment['SLURM_CONF']}")


if __name__ == "__main__":
    main()
