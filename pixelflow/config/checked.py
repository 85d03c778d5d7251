"""The configs of a sweep, resolved and checked before the first run is submitted."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from pixelflow.config.build import Config, require_assets
from pixelflow.config.resolve import resolve
from pixelflow.config.validate import check_data
from pixelflow.sweeps.submission import RUN_JOBS

JOBS = (*RUN_JOBS, "sample", "evaluate", "quality", "benchmark")
"""Jobs that can be sent somewhere else."""


def checked(
    config: DictConfig, overrides: list[str], launcher: str, number: int, known: set[str]
) -> tuple[Config, list[str]]:
    before = len(known)
    try:
        elsewhere = launcher == "slurm" and (config.site.get("gpus_per_node") or 0) > 0
        resolved = resolve(config, overrides, elsewhere=elsewhere, checked=known)
        if resolved["job"]["name"] not in JOBS:
            raise ValueError(f"job={resolved['job']['name']} runs here: leave hydra/launcher out")
        if len(known) > before:
            check_data(resolved)
            if resolved["job"]["name"] in RUN_JOBS:
                require_assets(resolved)
    except ValueError as error:
        raise ValueError(f"run {number} ({' '.join(overrides)}): {error}; nothing was submitted") from None
    return resolved | {"runs_dir": str(Path(resolved["runs_dir"]).absolute())}, overrides
