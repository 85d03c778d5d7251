"""A site: how jobs are queued and run there. One file each in conf/site."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Site:
    """Names and units are those of hydra-submitit-launcher's queue settings where it has them.

    partition, account, qos, constraint, exclude, gres: as sbatch takes them. tasks_per_node: by default one a GPU.
    cpus_per_task, mem_gb (of a node), timeout_min: what a job asks for. additional_parameters: any other option of
    sbatch, without its dashes. setup: shell lines before a job's process starts. srun_args: options of srun.
    signal_delay_s: how long before its time limit a job is told, so that it saves and is queued again.
    array_parallelism: jobs of a sweep at once, 0 for no limit. max_array_size: a larger sweep is split.
    requeue: whether interrupted jobs are queued again, at most max_restarts times in all, and at most max_stalls times
    in a row after a death without a word that brought no step of progress. max_attempts: how often a run may fail
    before the sweep's command leaves it alone. evaluation: queue settings of a second job that evaluates, with fewer
    GPUs, once its training is done; null to do both in one. max_gpu_hours: a sweep that could use more is refused.
    uncommitted: record the diff of uncommitted changes with the snapshot, or refuse them.
    processes: jobs at once with hydra/launcher=local.
    Raises ValueError for numbers out of range.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: int | None = None
    timeout_min: int = 60
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    setup: list[str] = field(default_factory=list)
    srun_args: list[str] = field(default_factory=list)
    signal_delay_s: int = 120
    array_parallelism: int = 0
    max_array_size: int = 1000
    requeue: bool = True
    max_restarts: int = 100
    max_stalls: int = 3
    max_attempts: int = 3
    evaluation: dict[str, Any] | None = None
    max_gpu_hours: float | None = None
    uncommitted: Literal["record", "refuse"] = "record"
    processes: int = 1

    def __post_init__(self) -> None:
        for name in ("nodes", "timeout_min", "max_array_size", "max_stalls", "max_attempts", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("gpus_per_node", "array_parallelism", "max_restarts", "signal_delay_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise ValueError(
                f"signal_delay_s={self.signal_delay_s} must be less than the time limit, timeout_min={self.timeout_min}"
            )
        for key in self.additional_parameters:
            if not re.fullmatch(r"[a-z][a-z-]*", key):
                raise ValueError(f"additional_parameters: {key!r} is no long option of sbatch, such as mail-type")

    @property
    def tasks(self) -> int:
        """On each node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def gpu_hours(self) -> float:
        """Of one job, if it uses its time limit to the end once."""
        return self.nodes * self.gpus_per_node * self.timeout_min / 60

    def sbatch_lines(self) -> list[str]:
        """The #SBATCH lines that say what a job needs and what happens when it is interrupted."""
        memory = f"{self.mem_gb}G" if self.mem_gb else None
        given = {
            "partition": self.partition, "account": self.account, "qos": self.qos, "constraint": self.constraint,
            "exclude": self.exclude, "gres": self.gres, "nodes": self.nodes, "ntasks-per-node": self.tasks,
            "gpus-per-node": self.gpus_per_node or None, "cpus-per-task": self.cpus_per_task, "mem": memory,
            "time": self.timeout_min, "open-mode": "append",
            # Without "B:" the signal goes to the processes of the step, where training waits for it.
            "signal": f"USR2@{self.signal_delay_s}", **self.additional_parameters,
        }  # fmt: skip
        lines = [f"#SBATCH --{key}={value}" for key, value in given.items() if value is not None]
        return [*lines, f"#SBATCH --{'requeue' if self.requeue else 'no-requeue'}"]

    def srun_options(self) -> list[str]:
        """One rank that fails ends the others, which would wait for it. srun does not inherit --cpus-per-task."""
        cpus = [f"--cpus-per-task={self.cpus_per_task}"] if self.cpus_per_task else []
        return ["--kill-on-bad-exit=1", *cpus, *self.srun_args]
