"""Detects steps whose loss or gradient is not finite, without synchronising a GPU in every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Verdict:
    """The verdict on one step while it is copied to the host."""

    step: int
    values: Tensor
    copied: torch.cuda.Event | None


class StepGuard:
    """Decides on the device whether a step is taken, and reports it to the host later.

    The optimizer receives `found_inf` (as from a gradient scaler) and changes nothing if it is 1. The host reads the
    verdict when the device has passed that step: before the update of the next step, or at a checkpoint.

    Attributes:
        in_a_row: Number of steps up to the last one that were skipped without a break.
        skipped: Number of all skipped steps. Both numbers are part of a checkpoint.
        last: Loss and gradient norm of the last step that was settled.
    """

    def __init__(self) -> None:
        self.in_a_row = self.skipped = 0
        self.last = (float("nan"), float("nan"))
        self._pending: _Verdict | None = None

    def judge(self, step: int, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Judges step number `step`.

        Args:
            step: Number of the step, from 1.
            loss: Loss of the whole step, equal in all processes.
            grad_norm: Norm of the gradient of the whole step, equal in all processes.

        Returns:
            `found_inf`, 0.0 or 1.0, on the device of the loss.
        """
        assert self._pending is None, "the verdict on the step before was not settled"
        values = torch.stack([loss.float(), grad_norm.float()])
        copied = None
        if values.is_cuda:
            host = torch.empty(2, pin_memory=True).copy_(values, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        else:
            host = values
        self._pending = _Verdict(step, host, copied)
        return (~torch.isfinite(values)).any().float()

    def settle(self) -> tuple[int, bool] | None:
        """Returns the step that was judged last and whether it was taken; None if it is settled already."""
        if self._pending is None:
            return None
        verdict, self._pending = self._pending, None
        if verdict.copied is not None:
            verdict.copied.synchronize()
        self.last = (verdict.values[0].item(), verdict.values[1].item())
        taken = bool(torch.isfinite(verdict.values).all())
        self.in_a_row = 0 if taken else self.in_a_row + 1
        self.skipped += not taken
        return verdict.step, taken

    def state(self) -> dict[str, int]:
        """Returns the numbers that a checkpoint holds."""
        return {"in_a_row": self.in_a_row, "skipped": self.skipped}

    def load(self, state: dict[str, int]) -> None:
        """Restores the numbers of a checkpoint."""
        self.in_a_row, self.skipped = state["in_a_row"], state["skipped"]
