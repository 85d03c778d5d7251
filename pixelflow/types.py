"""The records that are passed between the parts, and the interface (protocol) of each part.

Shape legend: B images, C channels, H and W pixels, N tokens of a whole pack, D model width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, Protocol

from torch import Tensor


def on(tensor: Tensor, device: Any) -> Tensor:
    """Returns the tensor on a device without a synchronisation, which indexing by a host tensor would cause."""
    import torch

    device = torch.device(device)
    if tensor.device.type == device.type:
        return tensor
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=device.type == "cuda")


class VelocityFn(Protocol):
    """The right-hand side of the equation that a solver integrates, dx/dtau = velocity(x, tau)."""

    def __call__(
        self, x: Tensor, tau: float | Tensor, *, guidance_tau: float | None = None, images: Tensor | None = None
    ) -> Tensor:
        """Returns the velocity (B, C, H, W).

        Args:
            x: (B, C, H, W), the state.
            tau: Time in [0, 1]: one number, or (B,) with the time of each image.
            guidance_tau: The time at which the guidance scale is read; tau if None.
            images: (B,) positions in the whole batch of the images in x; all of them if None.
        """


@dataclass(frozen=True)
class Condition:
    """The conditions of B images; a null condition has the same fields.

    Args:
        class_label: (B,) int64. The null label is `num_classes`.
        caption: B texts, if the data have captions.
        text: (B, L, D) precomputed embeddings of the captions, if the data have them.
    """

    class_label: Tensor
    caption: tuple[str, ...] | None = None
    text: Tensor | None = None

    def __len__(self) -> int:
        return len(self.class_label)

    def __getitem__(self, index: Any) -> Condition:
        import torch

        caption = self.caption
        if caption is not None:
            chosen = torch.arange(len(caption))[index.cpu() if isinstance(index, Tensor) else index]
            caption = tuple(caption[i] for i in chosen.tolist())
        index = on(index, self.class_label.device) if isinstance(index, Tensor) else index
        text = None if self.text is None else self.text[index]
        return Condition(self.class_label[index], caption, text)

    def to(self, device: Any) -> Condition:
        """Returns the condition with its tensors on `device`."""
        text = None if self.text is None else on(self.text, device)
        return Condition(on(self.class_label, device), self.caption, text)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
        """Concatenates conditions along the images."""
        import torch

        captions = [c.caption for c in conditions if c.caption is not None]
        texts = [c.text for c in conditions if c.text is not None]
        return Condition(
            class_label=torch.cat([c.class_label for c in conditions]),
            caption=tuple(text for caption in captions for text in caption) if captions else None,
            text=torch.cat(texts) if texts else None,
        )


@dataclass(frozen=True)
class Batch:
    """Clean images and their conditions.

    Args:
        x: (B, C, H, W) float32 in [-1, 1].
        condition: One entry per image, before any condition is dropped.
        sample_id: (B,) int64, the position of each image in the endless training sequence. It keys the random numbers
            of the image, so it must not depend on the batch size or the number of processes. It stays on the host.
    """

    x: Tensor
    condition: Condition
    sample_id: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Batch:
        there = on(index, self.x.device) if isinstance(index, Tensor) else index
        here = on(index, self.sample_id.device) if isinstance(index, Tensor) else index
        return Batch(self.x[there], self.condition[index], self.sample_id[here])

    def to(self, device: Any) -> Batch:
        """Returns the batch with images and conditions on `device`; `sample_id` stays on the host."""
        return Batch(on(self.x, device), self.condition.to(device), self.sample_id)


class Path(Protocol):
    """The straight path of one stage, from its noisy start (tau = 0) to its less noisy end (tau = 1).

    x, noise, x_t: (B, C, H, W) at the stage's resolution. tau: (B,) in [0, 1].
    """

    @property
    def stage(self) -> int:
        """Number of the stage; 0 is the coarsest."""

    def sigma(self, tau: Tensor) -> Tensor:
        """Returns the share of noise at tau, (B,)."""

    def interpolate(self, x: Tensor, noise: Tensor, tau: Tensor) -> Tensor:
        """Returns x_t, the point of the path at tau."""

    def velocity(self, x: Tensor, noise: Tensor) -> Tensor:
        """Returns the constant velocity of the path, its end minus its start."""

    def velocity_from_x(self, x: Tensor, x_t: Tensor, tau: Tensor) -> Tensor:
        """Returns the velocity of the path through x_t whose clean image is x."""

    def x_error_weight(self, tau: Tensor) -> Tensor:
        """Returns the weight that a mean square error of the velocity gives to an error of x, (B,)."""

    def x_from_velocity(self, velocity: Tensor, x_t: Tensor, tau: Tensor) -> Tensor:
        """Returns the clean image of the path through x_t that has this velocity."""


@dataclass(frozen=True)
class FlowSample:
    """The noised images of one stage of a training batch.

    Args:
        path: The path of the stage.
        x: (B, C, H, W), clean images at the resolution of the stage.
        noise: (B, C, H, W).
        tau: (B,), time within the stage, in [0, 1].
        timestep: (B,) in [0, max_timestep), the time that is passed to the backbone.
        x_t: (B, C, H, W), the point of the path at tau.
        index: (B,), position of each image in the whole batch.
    """

    path: Path
    x: Tensor
    noise: Tensor
    tau: Tensor
    timestep: Tensor
    x_t: Tensor
    index: Tensor

    def __getitem__(self, rows: Tensor) -> FlowSample:
        there = on(rows, self.x.device)
        return FlowSample(
            self.path, self.x[there], self.noise[there], self.tau[there], self.timestep[there], self.x_t[there],
            self.index[on(rows, self.index.device)],
        )  # fmt: skip

    @cached_property
    def velocity(self) -> Tensor:
        """The constant velocity of the path, its end minus its start, (B, C, H, W)."""
        return self.path.velocity(self.x, self.noise)


@dataclass(frozen=True)
class BackboneOutput:
    """The result of a forward pass.

    Args:
        output: The raw prediction in the form of the input: one tensor (B, C, H, W), or a list of one tensor per
            resolution of a pack.
        features: The tokens (B, L, D) that entered the requested layers, by layer; for a pack a list of one tensor
            per resolution.
    """

    output: Any
    features: dict[int, Any] = field(default_factory=dict)


class Prediction(Protocol):
    """The meaning of a backbone's raw output, which is converted to the velocity and to the clean image.

    raw, x_t: (B, C, H, W). tau: (B,). path: the path of the stage.
    """

    def velocity(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: Path) -> Tensor:
        """Returns the predicted velocity."""

    def clean(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: Path) -> Tensor:
        """Returns the predicted clean image at the resolution of the stage."""

    def target(self, sample: FlowSample) -> Tensor:
        """Returns the raw output of a perfect network."""


class Timesteps(Protocol):
    """The distribution from which training draws tau."""

    def __call__(self, uniform: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Maps uniform numbers in [0, 1), and the window [start, end] of each image's stage, to tau in [0, 1], (B,)."""


@dataclass(frozen=True)
class Encoded:
    """The features that a frozen encoder computes from the images of a `FlowSample`.

    Args:
        clean: (B, L, F), features of x, without gradient.
        predicted: (B, L, F), features of x_pred, with gradient; None if no loss needs them.
    """

    clean: Tensor
    predicted: Tensor | None = None


@dataclass(frozen=True)
class Predicted:
    """A backbone's output on one `FlowSample`, converted to the velocity or the clean image on first use.

    Args:
        raw: (B, C, H, W), the raw output.
        sample: The noised images.
        prediction: The meaning of the raw output.
        features: Tokens (B, L, D) of the backbone, by layer.
        encoded: Features of the encoder that the loss names, if it names one.
    """

    raw: Tensor
    sample: FlowSample
    prediction: Prediction
    features: dict[int, Tensor] = field(default_factory=dict)
    encoded: Encoded | None = None

    def __getitem__(self, rows: Tensor) -> Predicted:
        there = on(rows, self.raw.device)
        features = {layer: tokens[there] for layer, tokens in self.features.items()}
        return Predicted(self.raw[there], self.sample[rows], self.prediction, features)

    @cached_property
    def velocity(self) -> Tensor:
        """The predicted velocity, (B, C, H, W)."""
        s = self.sample
        return self.prediction.velocity(self.raw, s.x_t, s.tau, s.path)

    @cached_property
    def target_velocity(self) -> Tensor:
        """The velocity of a perfect output after the same conversion, clamp included, as `velocity`."""
        s = self.sample
        return self.prediction.velocity(self.prediction.target(s), s.x_t, s.tau, s.path)

    @cached_property
    def x_pred(self) -> Tensor:
        """The predicted clean image, (B, C, H, W), not clamped."""
        s = self.sample
        return self.prediction.clean(self.raw, s.x_t, s.tau, s.path)


class Backbone(Protocol):
    """The network. An `nn.Module` with the three attributes below and `forward` is enough to train and to sample.

    Some features need further attributes. They raise `ValueError` naming the attribute if it is missing:

    - `width` (int) and `depth` (int), the width D of the features and the number of layers that have them, for
      losses that compare features (REPA);
    - `last_layer`, a module with `weight`, for the adaptive weight of an objective;
    - `transformer_blocks` or `blocks`, an `nn.ModuleList`, for compilation, activation checkpointing and FSDP;
      feature caching takes `transformer_blocks` only;
    - attention modules with `kernel`, `num_heads` and `head_dim`, for a choice of attention kernel.
      Without them there is nothing to choose.

    Attributes:
        patch_size: Side of a patch in pixels; it must divide the sides of all images. 1 for a network without patches.
        fixed_resolution: The only image side that the backbone accepts, or None.
        max_timestep: The timesteps passed to the backbone are in [0, max_timestep).
    """

    patch_size: int
    fixed_resolution: int | None
    max_timestep: float

    def __call__(
        self, x_t: Tensor | Sequence[Tensor], timestep: Tensor, condition: Condition, features: Sequence[int] = ()
    ) -> BackboneOutput:
        """Returns the raw prediction in the form of x_t.

        Args:
            x_t: Noised images: (B, C, H, W) in sampling; in training a pack of B images, which is a list of
                (b, C, H, W), one tensor per resolution.
            timestep: (B,) in the order of the images.
            condition: B entries in the order of the images.
            features: Layers whose input tokens are returned as well; empty unless a loss compares features.
        """


class Solver(Protocol):
    """Integrates the velocity of one stage."""

    last_tau: float | None
    """The tau that belongs to the stage's last timestep; None as in training (see `Cascade.timestep`)."""
    adaptive: bool
    """Whether the solver chooses its own steps."""

    def time_grid(self, stage: int) -> Tensor:
        """Returns the times of the stage, (K+1,) float64, rising from 0 to 1."""

    def integrate(self, velocity_fn: VelocityFn, x: Tensor, grid: Tensor) -> tuple[Tensor, int]:
        """Returns the state at grid[-1] for the state x at grid[0], and the number of evaluations."""


class Guidance(Protocol):
    """The scale of classifier-free guidance as a schedule."""

    def scale(self, stage: int, tau: float) -> float:
        """Returns the scale at a time; exactly 1 means that the null pass is left out."""


class Conditioning(Protocol):
    """Makes the condition of a batch."""

    reads_captions: bool
    """Whether the condition is made from captions."""

    def encode(self, batch: Batch) -> Condition:
        """Returns the condition of the batch."""

    def null(self, n: int) -> Condition:
        """Returns n null conditions."""

    def drop(self, condition: Condition, uniform: Tensor) -> Condition:
        """Replaces conditions by the null condition, by uniform numbers (B,) in [0, 1)."""


class Encoder(Protocol):
    """A frozen network that computes feature tokens of images; `load` is called only if a loss uses it."""

    num_features: int
    """Width F of the tokens."""

    def missing(self, folder: FilePath) -> list[str]:
        """Returns one line for each file that the assets folder lacks."""

    def load(self, folder: FilePath, device: Any, *, bf16: bool = False) -> None:
        """Builds the network on a device with weights from the assets folder."""

    def __call__(self, x: Tensor) -> Tensor:
        """Maps images (B, C, H, W) in [-1, 1], not clamped, to tokens (B, L, F), with gradient."""


class Loss(Protocol):
    """A term of the objective: one value per image, of the images that pass its gate.

    Attributes:
        weight: Factor of the term. A term of weight 0 is never computed.
        encoder: Name of the frozen encoder whose features the loss compares, or None.
        encodes_prediction: Whether it also needs the encoder's features of x_pred.
        layer: Layer of the backbone whose features it needs, or None.
        networks: Frozen networks that the loss holds itself.
    """

    weight: float
    encoder: str | None
    encodes_prediction: bool
    layer: int | None
    networks: tuple[Any, ...]

    def gate(self, tau: Tensor, step_tau: Tensor) -> Tensor:
        """Returns (b,) bool, which images count, from their tau (b,) and the tau of all images of the step."""

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        """Returns the loss of each image, (b,) float32."""


class Loader(Protocol):
    """An endless, seeded sequence of training batches whose position can be saved and restored."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the sequence."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a position in the sequence."""
