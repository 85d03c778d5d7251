"""job=evaluate: metrics of a checkpoint or of given images, with a record of how they were computed.

The samples of a checkpoint are measured as they are made, and written only with job.images=true. Started by torchrun,
or by srun with several tasks, the processes divide the work. An interrupted evaluation continues when the command is
run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pixelflow.config.job import Config, Job


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of job=evaluate.

    Args:
        images: true also writes a checkpoint's samples (in sampler.format) and measures what was written.
    """

    images: bool = False


def run(config: Config, options: EvaluateOptions, overrides: list[str]) -> Any:
    """Prints the metrics and returns what a search minimises."""
    from pixelflow.workflows.evaluate_samples import run_evaluation  # torch: seconds

    return run_evaluation(config, images=options.images)


JOB = Job(
    name="evaluate",
    help="metrics of a checkpoint or of images: job=evaluate checkpoint=PATH | samples=FOLDER_OR_NPZ",
    run=run,
    options=EvaluateOptions,
    needs=frozenset({"model", "data", "metrics", "checkpoint-or-samples"}),
    submittable=True,
)
