"""The lists of `--help`: jobs, launchers, sweepers, recipes, and the options of the config groups."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from pixelflow.config.job import Job
from pixelflow.config.scale import miniatures
from pixelflow.config.search_path import config_folders

LAUNCHERS = {
    "basic": "one run after the other in this process (the default)",
    "submitit_local": "as processes of this machine, site.processes at a time; its short name is local",
    "submitit_slurm": "as jobs of a SLURM cluster, site=NAME; its short name is slurm",
}
SWEEPERS = {
    "basic": "every combination of values, times settings and seeds (the default)",
    "optuna": "a search by Optuna",
    "pruning": "a search by Optuna on a cluster that stops poor runs early",
    "sampler_search": "a search for sampler settings of a checkpoint: experiments=inference_search",
}
NO_PARTS = ("hydra", "experiments", "job")
WIDTH = 120


def register_help(jobs: Sequence[Job]) -> None:
    """Makes the lists available to the template in conf/run.yaml."""
    lists = {
        "jobs": lambda: _table({job.name: job.help for job in jobs}),
        "launchers": lambda: _table(LAUNCHERS),
        "sweepers": lambda: _table(SWEEPERS),
        "recipes": lambda: _recipes(config_folders()),
        "groups": lambda: _groups(config_folders()),
    }
    OmegaConf.register_new_resolver("help_of", lambda name: lists[name](), replace=True)


def _table(lines: dict[str, str]) -> str:
    return "\n".join(f"  {name:20} {line}" for name, line in lines.items())


def _recipes(folders: Sequence[Path]) -> str:
    names = _stems(folder / "experiments" for folder in folders)
    return f"{_wrapped(names)}\n  with a miniature, scale=mini\n{_wrapped(miniatures(folders))}"


def _groups(folders: Sequence[Path]) -> str:
    inside = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
    groups = {name: _stems(folder / name for folder in folders) for name in sorted(inside) if name not in NO_PARTS}
    return "\n".join(
        textwrap.fill(f"{name:20} {', '.join(options)}", WIDTH, initial_indent="  ", subsequent_indent=" " * 23)
        for name, options in groups.items()
        if options
    )


def _stems(folders: Iterable[Path]) -> list[str]:
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def _wrapped(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(names), WIDTH, initial_indent="    ", subsequent_indent="    ")
