"""Released PixelGen checkpoints: a Lightning `.ckpt` whose state dict holds the network and its average."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

PREFIXES = {"ema": "ema_denoiser.", "model": "denoiser."}


def read_lightning_weights(path: Path, weights: Literal["ema", "model"] = "ema") -> dict[str, Tensor]:
    """The state dict of a class backbone (`JiT`), of the average or of the network itself.

    Only tensors and plain values are unpickled. Raises ValueError naming the file if it cannot be read so, or has no
    such weights.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint of plain tensors: {error}") from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    prefix = PREFIXES[weights]
    found = {key.removeprefix(prefix): value for key, value in (state or {}).items() if key.startswith(prefix)}
    if not found:
        raise ValueError(f"{path} holds no {prefix}* tensors; is it a Lightning checkpoint of PixelGen?")
    return found
