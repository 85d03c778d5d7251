"""The adaptive weight of PixelGen's perceptual losses, which keeps their gradient near that of flow matching."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class AdaptiveWeight(nn.Module):
    """w, a factor on some terms of the objective: 1 until start_step, then every `every` steps

        w <- momentum * w + (1 - momentum) * clamp(|g_ref| / (|g| + 1e-4), 0, largest)

    with the gradients, at the weight of the backbone's last layer, of the reference term and of the weighted sum of
    `terms` (without w). The new value holds from the next step on, because the parts of a step, with gradient
    accumulation, must meet the same one. A step in which no image passes the gates changes nothing.
    terms, reference: names of terms. `value` is state and belongs in the checkpoint.
    """

    value: Tensor

    def __init__(
        self,
        *,
        terms: Sequence[str],
        reference: str = "flow_matching",
        start_step: int = 400_000,
        every: int = 50,
        momentum: float = 0.8,
        largest: float = 100.0,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every={every} must be at least 1")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must be in [0, 1)")
        self.terms, self.reference = tuple(terms), reference
        self.start_step, self.every, self.momentum, self.largest = start_step, every, momentum, largest
        self.register_buffer("value", torch.ones(()))
        self._gradients: tuple[Tensor, Tensor] | None = None

    def due(self, step: int) -> bool:
        """Whether to measure in the step that follows `step` finished ones."""
        return step >= self.start_step and step % self.every == 0

    def observe(self, reference: Tensor, adapted: Tensor, weight: Tensor) -> None:
        """Add the gradients of one part of the step; the graph stays for the backward pass."""
        if not adapted.requires_grad:  # no image of this part passed the gates
            adapted = adapted + 0 * reference
        new = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (reference, adapted)]
        old = self._gradients or (torch.zeros_like(weight), torch.zeros_like(weight))
        self._gradients = (old[0] + new[0], old[1] + new[1])

    @torch.no_grad()
    def update(self, add: Callable[..., None] = lambda *tensors: None) -> None:
        """At the end of a step that was observed. add: sums tensors, in place, over the processes that shared it."""
        assert self._gradients is not None
        add(*self._gradients)
        reference, adapted = (g.norm() for g in self._gradients)
        self._gradients = None
        ratio = (reference / (adapted + 1e-4)).clamp(0, self.largest)
        moved = self.momentum * self.value + (1 - self.momentum) * ratio
        self.value.copy_(torch.where(adapted > 0, moved, self.value))
