"""job=compare: what differs between runs: their settings, their learning curves, and samples of the same noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pixelflow.config.job import Config, Job
from pixelflow.errors import UserError


@dataclass(frozen=True)
class CompareOptions:
    """Options of job=compare.

    Args:
        output: A folder; the pictures go into a subfolder named after the runs.
    """

    output: str = "runs/compare"


def check(config: Config, options: CompareOptions) -> None:
    """Raises UserError unless `runs` names two or more run folders."""
    runs = config["runs"]
    if len(runs) < 2:
        raise UserError(f"runs={runs} must name two run folders or more: runs=[runs/quickstart/A,runs/quickstart/B]")
    for run in runs:
        if not (Path(run) / "config.yaml").is_file():
            raise UserError(f"runs: {run} is not a run folder (it has no config.yaml)")


def run(config: Config, options: CompareOptions, overrides: list[str]) -> None:
    """Prints the differing keys and the paths of the pictures."""
    from pixelflow.workflows.compare_runs import compare  # torch: seconds

    compare(config, [Path(run) for run in config["runs"]], Path(options.output))


JOB = Job(
    name="compare",
    help="settings, learning curves and samples of runs side by side: job=compare runs=[RUN,RUN]",
    run=run,
    options=CompareOptions,
    check=check,
)
