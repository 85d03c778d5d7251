"""The configs of a sweep, resolved and checked before the first run is submitted."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pixelflow.config.build import Config, require_assets
from pixelflow.config.job import FindJob
from pixelflow.config.resolve import resolve
from pixelflow.config.validate import check_data


def checked(
    config: DictConfig, overrides: list[str], launcher: str, number: int, known: set[str], find_job: FindJob
) -> tuple[Config, list[str]]:
    before = len(known)
    try:
        elsewhere = launcher == "slurm" and (config.site.get("gpus_per_node") or 0) > 0
        job = find_job(config.job.name)
        resolved = resolve(config, overrides, job, elsewhere=elsewhere, checked=known)
        if not job.submittable:
            raise ValueError(f"job={job.name} runs here: leave hydra/launcher out")
        if len(known) > before:
            check_data(resolved, job)
            if job.makes_run_folder:
                require_assets(resolved)
    except ValueError as error:
        raise ValueError(f"run {number} ({' '.join(overrides)}): {error}; nothing was submitted") from None
    return resolved | {"runs_dir": str(Path(resolved["runs_dir"]).absolute())}, overrides
