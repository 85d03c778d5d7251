"""job=benchmark: what sampling, training or its logging costs on this machine, or is estimated to cost on others."""

from __future__ import annotations

from pixelflow.benchmarks.options import BenchmarkOptions
from pixelflow.config.job import Config, Job
from pixelflow.config.schema import build
from pixelflow.errors import UserError


def check(config: Config, options: BenchmarkOptions) -> None:
    """Raises ValueError if the batch cannot be divided among the devices of an estimate."""
    if not options.estimate:
        return
    try:
        build(config, "trainer").images_per_part(options.devices or 1)
    except ValueError as error:
        raise UserError(f"trainer.{error} (job.devices={options.devices})") from None


def run(config: Config, options: BenchmarkOptions, overrides: list[str]) -> None:
    """Writes job.part of `<output>/benchmark_<machine>.json`, or prints the estimated costs of the recipe's table."""
    if options.estimate:
        from pixelflow.benchmarks.estimate_table import run as estimate  # torch: seconds

        estimate(config, options, overrides, JOB)
        return
    from pixelflow.benchmarks.sampling_cost import run as work  # torch: seconds

    work(config, options, overrides)


JOB = Job(
    name="benchmark",
    help="seconds, utilisation and memory: experiments=benchmark_sampling; job.estimate=true only counts",
    run=run,
    options=BenchmarkOptions,
    needs=frozenset({"model"}),
    submittable=True,
    check=check,
)
