"""Faults of a cluster, which hit running jobs of a sweep at drawn moments."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelflow.runs.status import read_status
from pixelflow.sweeps.claims import read_claim
from pixelflow.sweeps.manifest import Sweep
from tests.slurm.cluster import Cluster, wait_for


@dataclass(frozen=True)
class Hit:
    """A run that was hit, in which way, and the step that it had reached."""

    way: str
    run: str
    step: int

    def __str__(self) -> str:
        return f"{self.way} at step {self.step}"


class Chaos:
    """Hits runs of a sweep, once each, as long as its block lasts.

    Which runs, in which way and after which step is drawn; no way comes again before all others have come. A run that
    ends before its moment leaves its place to another one.

    Args:
        cluster: The cluster.
        sweep: The sweep.
        spared: Names of runs that are not hit.
        count: The number of runs to hit.
        steps: The training steps of a run.
        seed: Of the draws.
    """

    def __init__(self, cluster: Cluster, sweep: Sweep, *, spared: set[str], count: int, steps: int, seed: int) -> None:
        self.cluster, self.folder = cluster, sweep.folder
        self.random = random.Random(seed)
        self.folders = {name: job.path for name, job in sweep.jobs.items() if name not in spared}
        drawn = self.random.sample(sorted(self.folders), len(self.folders))
        self.due = {name: self.random.randint(1, steps - 1) for name in drawn[:count]}
        self.others = {name: self.random.randint(1, steps - 1) for name in drawn[count:]}
        self.ways = [
            *(self.usr2, self.usr2_to_the_supervisor, self.term, self.requeue, self.time_limit, self.preemption),
            *(self.unannounced_preemption, self.node_dies, self.kill_task, self.kill_supervisor, self.controller_away),
            self.cancel,
        ]
        if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0:
            self.ways.append(self.disk_full)
        self.next: list[Callable[[str], None]] = []
        self.hits: list[Hit] = []
        self.problems: list[BaseException] = []
        self.over = threading.Event()
        self.controller = threading.Lock()
        """Held while the controller is away, or all nodes are taken."""
        self.threads = [threading.Thread(target=self._watch)]

    def __enter__(self) -> Chaos:
        self.threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        for thread in self.threads:  # the first starts the others
            thread.join()

    def _watch(self) -> None:
        while not self.over.wait(0.2):
            for name, step in list(self.due.items()):
                status = read_status(self.folders[name])
                if status.state == "finished":
                    del self.due[name]
                    late = (other for other in self.others if read_status(self.folders[other]).state != "finished")
                    if other := next(late, None):
                        self.due[other] = self.others.pop(other)
                elif status.state == "running" and (status.step or 0) >= step:
                    del self.due[name]
                    if not self.next:
                        self.next = self.random.sample(self.ways, len(self.ways))
                    way = self.next.pop()
                    self.hits.append(Hit(way.__name__, name, status.step or 0))
                    self.threads.append(threading.Thread(target=self._hit, args=(way, name)))
                    self.threads[-1].start()

    def _hit(self, way: Callable[[str], None], name: str) -> None:
        try:
            way(name)
        except Exception as error:  # shown at the end
            self.problems.append(error)

    def _command(self, *words: str) -> None:
        """scancel tries for a minute and a half where a job has just ended or begun."""
        with self.controller:
            self.cluster.run("timeout", "5", *words, check=False)

    def _job(self, name: str) -> str:
        claim = read_claim(self.folders[name])
        assert claim is not None
        return claim.job

    def _start(self, name: str) -> dict[str, Any]:
        """The record of the newest start of a run."""
        events = [json.loads(line) for line in (self.folders[name] / "attempts.jsonl").open()]
        return [event for event in events if event["event"] == "start"][-1]

    def _process(self, name: str, *, srun: bool = False) -> int | None:
        """The process of the run's task, or the first of its srun; None where it is not there."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")[:-1]
            except OSError:
                continue
            file = Path(words[-1].decode(errors="replace")) if words else Path()
            if file.name == f"{name}.json" and file.is_relative_to(self.folder) and (words[0] == b"srun") == srun:
                found.append(int(path.parent.name))
        return min((pid for pid in found if parent(pid) not in found), default=None)

    def usr2(self, name: str) -> None:
        self._command("scancel", "--signal=USR2", self._job(name))

    def usr2_to_the_supervisor(self, name: str) -> None:
        self._command("scancel", "--batch", "--signal=USR2", self._job(name))

    def term(self, name: str) -> None:
        self._command("scancel", "--signal=TERM", self._job(name))

    def requeue(self, name: str) -> None:
        self._command("scontrol", "requeue", self._job(name))

    def cancel(self, name: str) -> None:
        self._command("scancel", self._job(name))

    def time_limit(self, name: str) -> None:
        """A limit, in whole minutes, of which SLURM warns a minute before, at its next look: every half minute.

        The task hangs until the signal comes.
        """
        job, task = self._job(name), self._process(name)
        if task is None:
            return
        os.kill(task, signal.SIGSTOP)
        limit = math.ceil((time.time() - self._start(name)["time"] + 45) / 60)
        self._command("scontrol", "update", f"jobid={job}", f"timelimit={limit}")
        wait_for(lambda: pending(task, signal.SIGUSR2), 100, fail=False)
        end(task, signal.SIGCONT)
        wait_for(lambda: self._process(name) != task, 100)
        self._command("scontrol", "update", f"jobid={job}", "timelimit=10")  # for its later starts

    def preemption(self, name: str) -> None:
        with self.controller:
            self.cluster.preempt()

    def unannounced_preemption(self, name: str) -> None:
        with self.controller:
            self.cluster.configure(warn_preempted=False)
            try:
                self.cluster.preempt()
            finally:
                self.cluster.configure(warn_preempted=True)

    def node_dies(self, name: str) -> None:
        node = self._start(name)["node"]
        with self.controller:
            self.cluster.lose_node(node)
            self.cluster.return_node(node)

    def kill_task(self, name: str) -> None:
        end(self._process(name))

    def kill_supervisor(self, name: str) -> None:
        srun = self._process(name, srun=True)
        end(parent(srun) if srun else None)

    def controller_away(self, name: str) -> None:
        """The task is killed meanwhile: its supervisor needs the controller."""
        with self.controller:
            self.cluster.stop_controller()
            end(self._process(name))
            time.sleep(self.random.uniform(2, 12))
            self.cluster.start_controller()

    def disk_full(self, name: str) -> None:
        """A file system of 64 KiB takes the place of the checkpoints, on this node, until the task has ended."""
        task, node, folder = self._process(name), self._start(name)["node"], self.folders[name] / "checkpoints"
        if task is None:
            return
        folder.mkdir(exist_ok=True)
        slurmd = int((self.cluster.folder / f"slurmd-{node}.pid").read_text())
        place = ["nsenter", f"--target={slurmd}", "--mount"]
        subprocess.run([*place, "mount", "-t", "tmpfs", "-o", "size=64k", "full", str(folder)], check=True)
        wait_for(lambda: self._process(name) != task, 300)
        subprocess.run([*place, "umount", str(folder)])


def pending(pid: int, number: int) -> bool:
    """Whether a signal waits for the process, or the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def end(pid: int | None, number: int = signal.SIGKILL) -> None:
    """Sends a signal to a process that may have ended."""
    try:
        if pid is not None:
            os.kill(pid, number)
    except ProcessLookupError:
        return
