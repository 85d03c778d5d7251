"""A job of a sweep as it was frozen: python -m pixelflow.frozen_job FILE. Composes nothing: conf/ does not matter.

Leaves with 0 when the work is done, with 75 when it was interrupted and saved, and with 1, after a traceback, when it
failed. Only rank 0 says 75: as soon as one process of a step leaves with another status than 0, SLURM ends the others,
and rank 0 must not be ended while it writes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelflow.files import write_json
from pixelflow.jobs import find_job
from pixelflow.runs.status import read_status, write_status
from pixelflow.signals import CONTINUE, stop_on_signals, stop_signal

if TYPE_CHECKING:
    from pixelflow.processes import World

RESULT = "result.json"
"""In the run folder: what the job returned."""


def main() -> None:
    with stop_on_signals():  # from the first moment: importing takes seconds, in which a warning would kill
        start(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def start(job: dict[str, Any]) -> None:
    from pixelflow.errors import Interrupted
    from pixelflow.processes import world_of  # torch, as is the next

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger().handlers[0].addFilter(lambda record: record.name.startswith("pixelflow"))
    world = world_of(os.environ)
    first = world.rank == 0
    try:
        work(job["config"], job["overrides"], Path(job["folder"]), world)
    except Interrupted as error:
        print(f"stopped: {error}", file=sys.stderr)
        end(job, first, "interrupted", str(error))
        sys.exit(CONTINUE if first else 0)
    except Exception as error:
        traceback.print_exc()
        end(job, first, "failed", (str(error) or type(error).__name__).splitlines()[0])
        sys.exit(1)


def work(config: dict[str, Any], overrides: list[str], folder: Path, world: World) -> None:
    from pixelflow.config.validate import check_data  # torch
    from pixelflow.errors import Interrupted

    job = find_job(config["job"]["name"])
    # Several processes agree on it later, at a step's end: the others may not have heard yet.
    if world.size == 1 and (number := stop_signal()):
        raise Interrupted(f"before it began, {number.name}")
    check_data(config, job)
    result = job.start(config, overrides)
    if world.rank == 0:
        write_json(folder / RESULT, result)
        if not job.makes_run_folder:
            write_status(folder, "finished", job=job.name)


def end(job: dict[str, Any], first: bool, state: str, message: str) -> None:
    """What holds the run folder has said so itself, unless it failed before it held it."""
    folder = Path(job["folder"])
    if first and read_status(folder).state not in ("failed", "interrupted", "finished"):
        write_status(folder, state, message)


if __name__ == "__main__":
    main()
