"""The declaration of a job: everything that the framework must know about it before it runs."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hydra.core.config_store import ConfigStore

from pixelflow.config.schema import read_record

Config = Mapping[str, Any]
"""A resolved config: plain dictionaries, lists, numbers and strings."""

Need = Literal["model", "data", "checkpoint", "checkpoint-or-samples", "metrics", "sweep"]


@dataclass(frozen=True)
class NoOptions:
    """The options of a job that has none."""


def nothing_more(config: Config, options: Any) -> None:
    """Accepts every config."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Declares one value of `job=NAME`. `pixelflow/jobs/NAME.py` holds it as `JOB` and imports no heavy module.

    Args:
        name: the name on the command line.
        help: one line for `--help`.
        run: `run(config, options, overrides)`; its result is what a search minimises, or None. It imports what it
            needs itself, so that reading the declarations takes no time.
        options: a frozen dataclass; its fields are the keys of `job` in the config. `__post_init__` raises ValueError
            naming a field.
        needs: what must be given or valid. "model": all groups of the model must fit each other. "data": the data are
            looked for. "metrics": the metrics can measure such data. "checkpoint", "checkpoint-or-samples": the paths
            of that name. "sweep": the folder of a sweep; such a job reads no other group of the config, so it starts
            without importing torch.
        makes_run_folder: whether it trains, in a run folder of its own.
        submittable: whether a launcher may send it to SLURM or to another process.
        check: raises ValueError, naming the whole key, where options do not agree with the rest of the config.
    """

    name: str
    help: str
    run: Callable[[Config, Any, list[str]], Any]
    options: type = NoOptions
    needs: frozenset[Need] = frozenset()
    makes_run_folder: bool = False
    submittable: bool = False
    check: Callable[[Config, Any], None] = nothing_more

    def start(self, config: Config, overrides: list[str]) -> Any:
        """Runs the job with the options that `config["job"]` holds and returns its result."""
        return self.run(config, self.read(config["job"]), overrides)

    def defaults(self) -> dict[str, Any]:
        """Returns the section `job` of a config that changes nothing."""
        return {"name": self.name, **asdict(self.options())}

    def read(self, node: Config) -> Any:
        """Returns the options in the section `job` of a config.

        Raises:
            UserError: for an unknown key, a value of another type or out of range; names key and value.
        """
        given = {key: value for key, value in node.items() if key != "name"}
        return read_record(self.options, given, "job", unknown=f"{{key}} is not an option of job={self.name}")


FindJob = Callable[[str], Job]
"""Returns the declaration of a job by its name. The layers below the jobs are given this function."""


def at_least(least: float, options: Any, *names: str) -> None:
    """Raises ValueError, naming the field, unless each of these fields of `options` is None or `least` or more."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"{name}={value} must be at least {least}")


def register_jobs(jobs: typing.Iterable[Job]) -> None:
    """Makes the declared options the choices of the config group `job`."""
    for job in jobs:
        ConfigStore.instance().store(group="job", name=job.name, node=job.defaults(), provider="pixelflow")
