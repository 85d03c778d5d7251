"""Reads released PixelGen checkpoints: Lightning files whose state dict holds the network and its average."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pixelflow.errors import UserError

PREFIXES = {"ema": "ema_denoiser.", "model": "denoiser."}


def read_lightning_weights(path: Path, weights: Literal["ema", "model"] = "ema") -> dict[str, Tensor]:
    """Returns the state dict of a class-conditional backbone (`JiT`). Only tensors and plain values are unpickled.

    Args:
        path: The `.ckpt` file.
        weights: "ema" for the average, "model" for the network itself.

    Raises:
        UserError: The file cannot be read as plain tensors, or has no such weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint of plain tensors: {error}") from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    prefix = PREFIXES[weights]
    found = {key.removeprefix(prefix): value for key, value in (state or {}).items() if key.startswith(prefix)}
    if not found:
        raise UserError(f"{path} holds no {prefix}* tensors; is it a Lightning checkpoint of PixelGen?")
    return found
