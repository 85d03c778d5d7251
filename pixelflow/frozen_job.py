"""Runs one frozen job of a sweep: python -m pixelflow.frozen_job FILE.

The file holds resolved configs, so no config is composed, and the config groups of the checkout or of the user are not
read. The user's own modules are found through PYTHONPATH, which holds the folders in which the submission found them.

The exit status is 0 when the work is done, 75 when it was interrupted and saved, 130 when a second Ctrl-C ended it at
once, and 1, after a traceback, when it failed. Only rank 0 returns 75. As soon as one process of a step leaves with
another status than 0, SLURM ends the others, and rank 0 must not be ended while it writes.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from pixelflow.errors import Interrupted
from pixelflow.files import InUse, patient, write_json
from pixelflow.runs.folder import recorded_in
from pixelflow.runs.status import LOCK_PATIENCE, read_status, write_status
from pixelflow.signals import BY_HAND, CONTINUE, stop_on_signals, stop_signal
from pixelflow.sweeps.batch import RESULT, FrozenConfigs
from pixelflow.terminal import log_to_terminal, say, uncopied

if TYPE_CHECKING:
    from pixelflow.processes import World


def main() -> None:
    """Runs the job in the file that the command line names."""
    # From the start: imports take seconds, in which a signal would end the process.
    with stop_on_signals(), patient(lambda waited: waited < LOCK_PATIENCE and stop_signal() is None):
        start(FrozenConfigs.load(Path(sys.argv[1])))


def start(job: FrozenConfigs) -> None:
    """Runs the job and exits with its status."""
    from submitit.helpers import TorchDistributedEnvironment

    from pixelflow.processes import choose_slice, world_of  # imports torch

    log_to_terminal()
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    world = world_of(os.environ)
    choose_slice(os.environ, world.local_rank)
    first = world.rank == 0
    try:
        work(job, world)
    except Interrupted as error:
        say(f"stopped: {error}", stream=sys.stderr)
        record_end(job, first, "interrupted", str(error))
        sys.exit(CONTINUE if first else 0)
    except KeyboardInterrupt:
        say("stopped at once by Ctrl-C", stream=sys.stderr)
        record_end(job, first, "interrupted", "stopped at once by Ctrl-C")
        sys.exit(BY_HAND)
    except Exception as error:
        say(traceback.format_exc(), stream=uncopied(sys.stderr) if recorded_in(error) else sys.stderr, end="")
        record_end(job, first, "failed", (str(error) or type(error).__name__).splitlines()[0])
        sys.exit(1)


def work(job: FrozenConfigs, world: World) -> None:
    """Executes the configs of the job one after the other.

    Raises:
        Interrupted: A signal asked to stop, and everything is saved.
    """
    from pixelflow.config.validate import check_data  # imports torch
    from pixelflow.jobs import find_job

    # Several processes stop together at the end of a step; here some of them may not have received the signal yet.
    if world.size == 1 and (number := stop_signal()):
        raise Interrupted(f"before it began, {number.name}")
    for config in job.configs:
        declaration = find_job(config["job"]["name"])
        check_data(config, declaration)
        try:
            result = declaration.start(config, job.overrides)
        except InUse:
            if number := stop_signal():
                raise Interrupted(f"before it began, {number.name}") from None
            raise
        if world.rank == 0:
            write_json(Path(job.folder) / RESULT, result)
            if not declaration.makes_run_folder:
                write_status(Path(job.folder), "finished", job=declaration.name)


def record_end(job: FrozenConfigs, first: bool, state: str, message: str) -> None:
    """Records the end of a job that ended before it could record it itself, because it did not hold its run folder."""
    folder = Path(job.folder)
    if first and read_status(folder).state not in ("failed", "interrupted", "finished"):
        write_status(folder, state, message)


if __name__ == "__main__":
    main()
