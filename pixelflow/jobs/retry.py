"""job=retry: submits runs of a sweep again, with the configs and the code that were frozen at submission.

The sweep's own command uses the present code instead. Settings of the site can be changed for the new attempt:
job=retry sweep=... site.mem_gb=64
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from pixelflow.config.job import Config, Job
from pixelflow.sweeps.manifest import find_sweep
from pixelflow.sweeps.resubmission import retry_runs


@dataclass(frozen=True)
class RetryOptions:
    """Options of job=retry.

    Args:
        runs: "failed" for all that failed, were cancelled, interrupted or lost; "all"; or a list of numbers, names and
            patterns such as ["*seed-1*"].
    """

    runs: str | int | list[str | int] = "failed"


def run(config: Config, options: RetryOptions, overrides: list[str]) -> None:
    """Submits the chosen runs and prints them."""
    retry_runs(find_sweep(config["sweep"]), options.runs, changed_site(overrides))


def changed_site(overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the typed overrides of the form site.KEY=VALUE as a mapping."""
    given = (override.lstrip("+").split("=", 1) for override in overrides if override.lstrip("+").startswith("site."))
    return {key.removeprefix("site."): yaml.safe_load(value) for key, value in given}


JOB = Job(
    name="retry",
    help="submit runs of a sweep again, as they were frozen: job=retry sweep=FOLDER",
    run=run,
    options=RetryOptions,
    needs=frozenset({"sweep"}),
)
