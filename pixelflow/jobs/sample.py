"""job=sample: images from a checkpoint, with a record of their settings.

Started by torchrun, or by srun with several tasks, the processes divide the work. Running the command again completes a
partial set.
"""

from __future__ import annotations

import json
from typing import Any

from pixelflow.config.job import Config, Job
from pixelflow.terminal import say


def run(config: Config, options: Any, overrides: list[str]) -> None:
    """Writes the images and prints where they are."""
    from pixelflow.workflows.make_samples import sample  # torch: seconds

    folder = sample(config, config["checkpoint"])
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    say(f"samples: {folder / record['output']}\ngrid:    {folder / 'grid.png'}")


JOB = Job(
    name="sample",
    help="images from a checkpoint: job=sample checkpoint=PATH sampler.num_samples=1000",
    run=run,
    needs=frozenset({"model", "checkpoint"}),
    submittable=True,
)
