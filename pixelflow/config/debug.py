"""`debug=true`: any recipe with a tiny model, a few steps and a few samples, in a separate folder.

conf/debug.yaml lists what it sets. Nothing of such a run counts as a result: its tables say so, and its checkpoints and
runs are refused without debug=true.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from pixelflow.conf_dir import conf_folder
from pixelflow.errors import UserError
from pixelflow.runs.places import DEBUG_FOLDER, output_folder

RUNS = "runs_dir="
OF_SAMPLING = ("solver", "sampler", "metrics")
"""Sections that are set if the model comes from a checkpoint."""


def in_debug(arguments: Sequence[str]) -> bool:
    """Returns whether a command line, without the program, asks for debug=true."""
    chosen = [argument.partition("=")[2] for argument in arguments if argument.startswith("debug=")]
    return bool(chosen) and chosen[-1].lower() == "true"


def set_aside(arguments: Sequence[str]) -> list[str]:
    """Returns the command line with the folder of debug runs, `debug` below `runs_dir`, if it asks for debug=true."""
    if not in_debug(arguments):
        return list(arguments)
    given = [argument.removeprefix(RUNS) for argument in arguments if argument.startswith(RUNS)]
    folder = Path(given[-1] if given else "runs")
    folder = folder if folder.name == DEBUG_FOLDER else folder / DEBUG_FOLDER
    return [*(argument for argument in arguments if not argument.startswith(RUNS)), f"{RUNS}{folder}"]


def debugged(config: DictConfig, arguments: Sequence[str] | None = None) -> DictConfig:
    """Returns a composed config as debug=true changes it; without debug=true the config itself.

    Args:
        config: The config as Hydra composed it, of one run.
        arguments: The command line without the program, whose keys win; None for this process's.

    Raises:
        UserError: The runs would lie among others, or the results of a job elsewhere.
    """
    aside = Path(str(config.runs_dir)).name == DEBUG_FOLDER
    debug = bool(config.get("debug"))
    if debug != aside:
        raise UserError(
            f"runs_dir={config.runs_dir} holds runs of debug=true only; choose another folder, or add debug=true"
            if aside
            else "debug=true counts on the command line only, and not for a part of a sweep"
        )
    if not debug:
        return config
    config = deepcopy(config)
    typed = {argument.lstrip("+~").partition("=")[0] for argument in (sys.argv[1:] if arguments is None else arguments)}
    layer = yaml.safe_load((conf_folder() / "debug.yaml").read_text(encoding="utf-8"))
    for key, value in layer.items():
        fixed = config.checkpoint is not None and key.split(".")[0] not in OF_SAMPLING
        group, _, name = key.rpartition(".")
        if key not in typed and not fixed and name in (OmegaConf.select(config, group) or ()):
            OmegaConf.update(config, key, value, merge=False)
    OmegaConf.update(config, "tracking", {"mlflow": False, "uri": None}, merge=False)
    output = config.job.get("output")
    if "job.output" not in typed and output is not None:
        config.job.output = str(output_folder(output, debug=True, runs_dir=config.runs_dir))
    elif output is not None and not Path(output).absolute().is_relative_to(Path(config.runs_dir).absolute()):
        raise UserError(f"job.output={output}: debug=true writes into runs_dir={config.runs_dir} only; leave it out")
    return config


def refuse_debug(config: Any, stored: Any, key: str) -> None:
    """Raises UserError if a checkpoint at `key` was made with debug=true and the command is without it."""
    if stored.get("debug") and not config.get("debug"):
        raise UserError(f"{key}={config[key]} was made with debug=true; it can be used with debug=true only")
