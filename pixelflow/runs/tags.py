"""The tags of a run in MLflow: those that its page and its table of runs expect, and one for each key that was set."""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixelflow.runs.identity import setting_overrides

LONGEST = 500
"""Length at which a value is cut. MLflow's own limit is 5,000 characters."""


def run_tags(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tags of a run.

    Args:
        folder: The run folder, with its provenance.json.
        config: The resolved config of this call.
    """
    record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    command = str(record["command"])
    words = shlex.split(command)
    question = config.get("question")
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": Path(words[1]).name if len(words) > 1 else command,
        "mlflow.source.type": "JOB" if "SLURM_JOB_ID" in os.environ else "LOCAL",
        "mlflow.source.git.commit": record["commit"],
        "mlflow.note.content": f"{question}\n\n`{command}`" if question else f"`{command}`",
        "seed": config["seed"],
        "arm": config.get("arm"),
    }
    set_by_hand = {_tag_name(key): value for key, value in setting_overrides(config.get("overrides") or ()).items()}
    return {key: str(value)[:LONGEST] for key, value in {**set_by_hand, **tags}.items() if value is not None}


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return None


def _tag_name(key: str) -> str:
    """A key in the characters that MLflow accepts. A group of arms, `experiments/NAME@_global_`, has its name."""
    group, at, _ = key.partition("@")
    return re.sub(r"[^\w.\-/ ]", "_", group.rpartition("/")[2] if at else key)
