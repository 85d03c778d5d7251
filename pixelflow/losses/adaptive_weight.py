"""The adaptive weight of PixelGen's perceptual losses: their gradient stays near that of flow matching."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pixelflow.limits import above, at_least


class AdaptiveWeight(nn.Module):
    """A factor w on some terms of the objective, which is 1 until start_step and then updated every `every` steps.

    The update is w <- momentum * w + (1 - momentum) * clamp(|g_ref| / (|g| + 1e-4), 0, largest), where g_ref and g are
    the gradients, at the weight of the backbone's last layer, of the reference term and of the weighted sum of `terms`
    (without w). The new value is used from the next step on, because all parts of a step (gradient accumulation) must
    use the same value. A step in which no image passes the gates, and one that is skipped because it is not finite,
    leave w unchanged. `value` is saved in checkpoints.

    Args:
        terms: Names of the terms that w multiplies.
        reference: Name of the term whose gradient is the reference.
        start_step: First step with a measurement.
        every: Number of steps between two measurements.
        momentum: Share of the old value in the new one, in [0, 1).
        largest: Upper limit of the ratio of the gradients.

    Raises:
        ValueError: A number is out of range.
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
        at_least(1, every=every)
        at_least(0, start_step=start_step)
        above(0, largest=largest)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must be in [0, 1)")
        self.terms, self.reference = tuple(terms), reference
        self.start_step, self.every, self.momentum, self.largest = start_step, every, momentum, largest
        self.register_buffer("value", torch.ones(()))
        self._gradients: tuple[Tensor, Tensor] | None = None

    def due(self, step: int) -> bool:
        """Returns whether the step after `step` finished ones is measured."""
        return step >= self.start_step and step % self.every == 0

    def observe(self, reference: Tensor, adapted: Tensor, weight: Tensor) -> None:
        """Adds the gradients of one part of the step, and keeps the graph for the backward pass.

        Args:
            reference: The reference term, with gradient.
            adapted: The weighted sum of the terms, with gradient.
            weight: The weight of the backbone's last layer.
        """
        if not adapted.requires_grad:  # no image of this part passed the gates
            adapted = adapted + 0 * reference
        new = [torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (reference, adapted)]
        old = self._gradients or (torch.zeros_like(weight), torch.zeros_like(weight))
        self._gradients = (old[0] + new[0], old[1] + new[1])

    @torch.no_grad()
    def update(self, add: Callable[..., None] = lambda *tensors: None, *, taken: Tensor | bool = True) -> None:
        """Updates w at the end of a measured step.

        Args:
            add: Sums tensors in place over the processes that share the step.
            taken: Whether the step changes the weights, equal in all processes; on a GPU a tensor, so that the host
                does not wait for it.
        """
        assert self._gradients is not None
        add(*self._gradients)
        reference, adapted = (g.norm() for g in self._gradients)
        self._gradients = None
        ratio = (reference / (adapted + 1e-4)).clamp(0, self.largest)
        moved = self.momentum * self.value + (1 - self.momentum) * ratio
        self.value.copy_(torch.where((adapted > 0) & taken, moved, self.value))
