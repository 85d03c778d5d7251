"""A site: how jobs are queued and run on a cluster. conf/site has one file for each."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from pixelflow.limits import at_least
from pixelflow.sweeps.devices import requested, share_of_gpu, with_gpus

AT_LEAST_1 = (
    "nodes", "tasks_per_node", "cpus_per_task", "mem_gb", "timeout_min", "max_array_size", "max_stalls", "max_attempts",
    "processes",
)  # fmt: skip
AT_LEAST_0 = ("gpus_per_node", "array_parallelism", "max_restarts", "signal_delay_s", "max_gpu_hours")

_RESOURCE = re.compile(
    r"exclusive|mem|cpu|gpu|gres|ntasks|cores|threads|hint|node|sockets|switches|contiguous|reservation|time-min"
)
"""Options of sbatch that ask for more than the job of the table needs."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """The queue settings of a site. Names and units are those of hydra-submitit-launcher where it has them.

    Args:
        partition: As sbatch takes it, as are account, qos, constraint, exclude and gres.
        account: The project that is charged.
        qos: The quality of service.
        constraint: The features that nodes must have.
        exclude: The nodes that are not used.
        gres: Generic resources. Its GPUs count where `gpus_per_node` is 0.
        nodes: The number of nodes of a job.
        gpus_per_node: The number of GPUs on each node.
        tasks_per_node: The number of processes on each node; None for one per GPU or MIG slice.
        cpus_per_task: The number of cores of each process.
        mem_gb: The memory of each node, in GB.
        timeout_min: The time limit, in minutes.
        additional_parameters: Other long options of sbatch, without their dashes.
        setup: Shell lines before the process of a job starts.
        srun_args: Options of srun.
        signal_delay_s: How long before its time limit a job receives a signal, in seconds. It then saves and is
            queued again.
        array_parallelism: The number of jobs of a sweep that run at once; 0 for no limit. Where the sweep is split into
            several arrays, an array then begins when the one before it is over.
        max_array_size: The size at which a sweep is split into several arrays; the limit of the cluster counts as well.
        requeue: Whether interrupted jobs are queued again.
        max_restarts: How often a job is queued again.
        max_stalls: After how many deaths in a row without a step of progress a job is given up.
        max_attempts: After how many failures the sweep's command leaves a run alone.
        evaluation: Settings of a second job that evaluates once the training is done; None to do both in one job. By
            default it has one node, and one GPU where the training has some.
        table: Settings of the job that writes the table. It needs no GPU: where the other jobs have some, it goes to
            the default partition.
        max_gpu_hours: A submission whose jobs could use more, with their time limits once, is refused.
        uncommitted: Whether uncommitted changes of the code are recorded or refused.
        processes: The number of jobs at once with hydra/launcher=submitit_local.

    Raises:
        ValueError: A number is out of range, or a parameter is not an option of sbatch.
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
    table: dict[str, Any] = field(default_factory=dict)
    max_gpu_hours: float | None = None
    uncommitted: Literal["record", "refuse"] = "record"
    processes: int = 1

    def __post_init__(self) -> None:
        at_least(1, **{name: getattr(self, name) for name in AT_LEAST_1})
        at_least(0, **{name: getattr(self, name) for name in AT_LEAST_0})
        for name in ("partition", "account", "qos", "constraint", "exclude", "gres"):
            _require_line(name, getattr(self, name))
        for number, option in enumerate(self.srun_args):
            _require_line(f"srun_args[{number}]", option)
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise ValueError(
                f"signal_delay_s={self.signal_delay_s} must be less than the time limit, timeout_min={self.timeout_min}"
            )
        for key in self.additional_parameters:
            if not re.fullmatch(r"[a-z][a-z-]*", key):
                raise ValueError(f"additional_parameters: {key!r} is not a long option of sbatch, such as mail-type")
            _require_line(f"additional_parameters.{key}", self.additional_parameters[key])
        if self.evaluation is not None:
            self.for_evaluation()
        if self.table:
            self.for_table()

    @property
    def tasks(self) -> int:
        """The number of processes on each node."""
        return self.tasks_per_node or max(1, self.gpus)

    @property
    def gpus(self) -> int:
        """The number of GPUs or MIG slices on each node."""
        return sum(count for _, count in self._gpus())

    @property
    def gpu_hours(self) -> float:
        """The GPU hours of one job that uses its whole time limit once; a MIG slice is its share of a GPU."""
        return self.nodes * sum(count * share_of_gpu(kind) for kind, count in self._gpus()) * self.timeout_min / 60

    def _gpus(self) -> list[tuple[str, int]]:
        """The kinds and numbers of the GPUs on each node."""
        if self.gpus_per_node:
            return [("", self.gpus_per_node)]
        if found := requested(self.gres or ""):
            return found
        given = self.additional_parameters
        per_task = self.tasks_per_node or 1
        for key, factor in (("gpus-per-node", 1), ("gpus-per-task", per_task), ("gpus", 1 / self.nodes)):
            if given.get(key):
                return [(kind, math.ceil(count * factor)) for kind, count in requested(f"gpu:{given[key]}")]
        return []

    def for_evaluation(self) -> Site:
        """Returns the settings of the job that evaluates.

        Raises:
            ValueError: `evaluation` has an unknown setting, or one that is out of range.
        """
        given = self.evaluation or {}
        one: dict[str, Any] = {"nodes": 1, "tasks_per_node": None, "gpus_per_node": min(1, self.gpus_per_node)}
        if self.gres:
            one["gres"] = with_gpus(self.gres, 0 if "gpus_per_node" in given else 1)
        return self._changed("evaluation", one | given)

    def for_table(self) -> Site:
        """Returns the settings of the job that writes the table.

        Raises:
            ValueError: `table` has an unknown setting, or one that is out of range.
        """
        others = {key: value for key, value in self.additional_parameters.items() if not _RESOURCE.match(key)}
        small: dict[str, Any] = dict(
            nodes=1, gpus_per_node=0, tasks_per_node=1, cpus_per_task=None, mem_gb=None, gres=None, constraint=None,
            exclude=None, timeout_min=30, signal_delay_s=0, additional_parameters=others,
            **({"partition": None, "qos": None} if self.gpus else {}),
        )  # fmt: skip
        return self._changed("table", small | self.table)

    def _changed(self, name: str, changes: dict[str, Any]) -> Site:
        if unknown := changes.keys() - {known.name for known in fields(self)}:
            raise ValueError(f"{name}: {min(unknown)!r} is not a setting of a site")
        try:
            return replace(self, **changes | {"evaluation": None, "table": {}})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from None

    def srun_options(self) -> list[str]:
        """Returns the options of srun. A rank that fails ends the others, which would otherwise wait for it."""
        # srun does not inherit --cpus-per-task, and after sbatch --export=NONE it would not pass PYTHONPATH on.
        cpus = [f"--cpus-per-task={self.cpus_per_task}"] if self.cpus_per_task else []
        return ["--kill-on-bad-exit=1", "--export=ALL", *cpus, *self.srun_args]


def _require_line(name: str, value: Any) -> None:
    """Raises ValueError for a text that would add a line to the script of a job, or that is empty."""
    if isinstance(value, str) and (not value.strip() or len(value.splitlines()) > 1):
        raise ValueError(f"{name}={value!r} must be one line of text; leave it out for none")
