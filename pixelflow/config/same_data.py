"""The record of the data that a run is trained on, in `data.json` of its folder.

`data.root` does not belong to the identity of a run, so that data can be moved. The record distinguishes moved data
from other data.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pixelflow.config.build import Config, trainer_settings
from pixelflow.config.schema import build, with_key
from pixelflow.config.training_parts import checkpoint_store
from pixelflow.data.decode import jpeg_decoder
from pixelflow.data.fingerprint import difference, fingerprint
from pixelflow.errors import UserError
from pixelflow.runs.status import read_status

logger = logging.getLogger(__name__)

FILE = "data.json"


def examine_data(config: Config, path: Path) -> dict[str, Any] | None:
    """Lists the data of a command before its run folder is made, and compares them with those of an earlier call.

    Args:
        config: The resolved config of the command.
        path: The run folder, which need not exist.

    Returns:
        The record to be written when training starts; None if the run has weights already, or if no record is needed:
        data without `root` are part of the identity of the run.

    Raises:
        UserError: The data cannot be used, or they differ from those that the run was trained on.
    """
    if _has_begun(config, path):
        check_same_data(config, path)
        return None
    found = _fingerprint(config)
    return None if _root(config) is None else {"root": _root(config), "decoder": jpeg_decoder(), **found}


def check_same_data(config: Config, path: Path, known: dict[str, dict[str, Any]] | None = None) -> None:
    """Compares the data of a command with those that a run was trained on. A run without a record is accepted.

    Args:
        config: The resolved config of the command.
        path: The run folder, which need not exist.
        known: Fingerprints by data section, for the runs of a sweep. Those that are computed are added.

    Raises:
        UserError: The data differ, or the record is damaged.
    """
    if _root(config) is None or not (path / FILE).exists() or not _has_begun(config, path):
        return
    try:
        before = json.loads((path / FILE).read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if not isinstance(before, dict) or "images" not in before:
        raise UserError(f"{path / FILE} is damaged; remove it to train on with these data")
    if (decoder := before.get("decoder", jpeg_decoder())) != jpeg_decoder():
        logger.warning(
            "%s was trained on JPEGs decoded by %s; here %s decodes them, and the pixels differ slightly",
            path.name, decoder, jpeg_decoder(),
        )  # fmt: skip
    if differs := difference(before, _fingerprint(config, known)):
        raise UserError(
            f"data.root={_root(config)} holds other data than the run {path.name} was trained on: {differs}; "
            f"use data.root={before.get('root')}, or start another run with rerun=true or another experiment=NAME"
        )


def _root(config: Config) -> Any:
    return config["data"].get("root")


def _has_begun(config: Config, path: Path) -> bool:
    """Returns whether the run holds trained weights, so that the data can no longer be chosen."""
    return bool(checkpoint_store(trainer_settings(config), path).steps()) or read_status(path).state == "finished"


def _fingerprint(config: Config, known: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    key = json.dumps(config["data"], sort_keys=True)
    if known is not None and key in known:
        return known[key]
    data = build(config, "data")
    found = with_key(lambda: fingerprint(data), config["data"], "data")
    if known is not None:
        known[key] = found
    return found
