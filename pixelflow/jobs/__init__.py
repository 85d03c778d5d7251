"""The jobs: one module for each `job=NAME`, which declares it as `JOB`. There is no other list of jobs.

The modules import what their jobs need when they run: looking at all declarations must take no time. `shared/` holds
what several jobs do.
"""

from __future__ import annotations

import importlib
import pkgutil

from pixelflow.config.job import Job
from pixelflow.errors import UserError


def job_names() -> list[str]:
    """Returns the names of all jobs in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def find_job(name: str) -> Job:
    """Returns the declaration of a job.

    Raises:
        UserError: if no job has this name.
    """
    if name not in job_names():
        raise UserError(f"job={name} does not exist; one of: {', '.join(job_names())}")
    job: Job = importlib.import_module(f"{__name__}.{name}").JOB
    return job
