"""The GPU hours that a submission could use."""

from __future__ import annotations

from collections.abc import Sequence

from pixelflow.errors import UserError
from pixelflow.sweeps.plan import Planned, steps_of
from pixelflow.sweeps.site import Site


def gpu_hours(entry: Planned, site: Site, launcher: str) -> float:
    """Returns the GPU hours of a run whose jobs use their whole time limits once; 0 for a run that is not due.

    Args:
        entry: The run.
        site: The queue settings.
        launcher: `"slurm"` or `"local"`, which does not split a run into several jobs.
    """
    steps = steps_of(entry.job.job, site, launcher == "slurm") if entry.due else []
    return sum(settings.gpu_hours for _, settings in steps)


def check_budget(planned: Sequence[Planned], site: Site, launcher: str) -> None:
    """Refuses a submission that could use more GPU hours than `site.max_gpu_hours`. The job of the table needs none.

    Raises:
        UserError: The submission could use more.
    """
    hours = sum(gpu_hours(entry, site, launcher) for entry in planned)
    if site.max_gpu_hours is not None and hours > site.max_gpu_hours:
        due = sum(entry.due for entry in planned)
        raise UserError(
            f"the due runs ({due}) may use {hours:.1f} GPU hours, more than site.max_gpu_hours={site.max_gpu_hours:g}: "
            "lower site.timeout_min, or raise the limit; nothing was submitted"
        )
