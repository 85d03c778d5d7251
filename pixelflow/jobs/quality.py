"""job=quality: sampler settings side by side on one checkpoint: error, distance and cost of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pixelflow.config.job import Config, Job


def _settings() -> list[dict[str, Any]]:
    fixed = [{"solver": solver, "num_steps": steps} for solver, most in (("euler", 30), ("heun", 15))
             for steps in (5, 10, 15, 30) if steps <= most]  # fmt: skip
    multistep = [{"solver": "adams_bashforth", "num_steps": steps, "grid": "uniform"} for steps in (5, 10, 15, 30)]
    return [
        *fixed,
        *multistep,
        {"solver": "dopri5", "timesteps": "trained"},
        {"solver": "fast"},
        {"solver": "faster"},
        {"solver": "fast", "cache_every": 2},
        {"solver": "euler", "num_steps": 30, "cache_every": 2},
    ]


@dataclass(frozen=True)
class QualityOptions:
    """Options of job=quality.

    Args:
        settings: what is compared; each names an option of the group `solver`, and values for keys of it or of
            `sampler`.
        output: the folder of the table and the chart.
    """

    settings: list[dict[str, Any]] = field(default_factory=_settings)
    output: str = "experiments/results"


def run(config: Config, options: QualityOptions, overrides: list[str]) -> None:
    """Writes `<output>/quality.{json,md,png}` and prints the table."""
    from pixelflow.benchmarks.sampler_quality import compare_settings  # torch: seconds

    compare_settings(config, JOB, settings=options.settings, output=options.output, overrides=overrides)


JOB = Job(
    name="quality",
    help="number of steps against quality: job=quality checkpoint=PATH",
    run=run,
    options=QualityOptions,
    needs=frozenset({"model", "metrics", "checkpoint"}),
    submittable=True,
)
