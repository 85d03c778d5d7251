"""Steps whose loss or gradient is not finite: skipped by all processes, and counted, without making a device wait."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class TrainingDiverged(ValueError):
    """Too many steps in a row were not finite; the message names them and the checkpoint that is kept."""


@dataclass
class _Verdict:
    """Of one step, on its way to the host."""

    step: int
    values: Tensor
    copied: torch.cuda.Event | None


class StepGuard:
    """Decides on the device whether a step is taken, and lets the host know later.

    The optimizer gets `found_inf` (as under a gradient scaler) and does nothing where it is 1; the host asks for the
    verdict when the device has long passed that step: before the next step's update, or at a checkpoint.
    in_a_row, skipped: of steps so far; both belong in the checkpoint.
    """

    def __init__(self) -> None:
        self.in_a_row = self.skipped = 0
        self.last = (float("nan"), float("nan"))
        self._pending: _Verdict | None = None

    def judge(self, step: int, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """loss, grad_norm: of the whole step, the same in all processes. Returns found_inf, 0 or 1, on their device."""
        assert self._pending is None, "the verdict of the step before was not asked for"
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
        """The step that was judged last and whether it was taken; None if that is known already."""
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
        return {"in_a_row": self.in_a_row, "skipped": self.skipped}

    def load(self, state: dict[str, int]) -> None:
        self.in_a_row, self.skipped = state["in_a_row"], state["skipped"]
