"""The records that travel between the parts, and what each part promises.

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
    """The tensor on a device, without waiting for that device (an index on the host would make it wait)."""
    import torch

    device = torch.device(device)
    if tensor.device.type == device.type:
        return tensor
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=device.type == "cuda")


class VelocityFn(Protocol):
    """`(x (B, C, H, W), tau in [0, 1]) -> velocity (B, C, H, W)`.

    tau: one number, or (B,) with a time for each image. guidance_tau: the time by which guidance is chosen, tau if
    None. images: (B,) positions in the whole batch of the images that x holds, all of them if None.
    """

    def __call__(
        self, x: Tensor, tau: float | Tensor, *, guidance_tau: float | None = None, images: Tensor | None = None
    ) -> Tensor: ...


@dataclass(frozen=True)
class Condition:
    """What the images are conditioned on; a null condition has the same fields.

    class_label: (B,) int64; the null label is `num_classes`. caption: B texts, of data that have them.
    text: (B, L, D) precomputed embeddings of the captions, of data that have them.
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
        if isinstance(index, Tensor):
            index = on(index, self.class_label.device)
        text = None if self.text is None else self.text[index]
        return Condition(self.class_label[index], caption, text)

    def to(self, device: Any) -> Condition:
        text = None if self.text is None else on(self.text, device)
        return Condition(on(self.class_label, device), self.caption, text)

    @staticmethod
    def cat(conditions: Sequence[Condition]) -> Condition:
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
    """Clean images and what they show.

    x: (B, C, H, W) float32 in [-1, 1].
    condition: one entry per image, never dropped here.
    sample_id: (B,) int64, the position of each image in the endless training sequence. It keys the image's random
        numbers, so it must not depend on batch size or number of processes. It stays on the host.
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
        return Batch(on(self.x, device), self.condition.to(device), self.sample_id)


class Path(Protocol):
    """The straight line of one stage from its noisy start to its less noisy end."""

    @property
    def stage(self) -> int: ...
    def sigma(self, tau: Tensor) -> Tensor: ...
    def interpolate(self, x: Tensor, noise: Tensor, tau: Tensor) -> Tensor: ...
    def velocity(self, x: Tensor, noise: Tensor) -> Tensor: ...
    def velocity_from_x(self, x: Tensor, x_t: Tensor, tau: Tensor) -> Tensor: ...
    def x_from_velocity(self, velocity: Tensor, x_t: Tensor, tau: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class FlowSample:
    """The images of one stage of a training batch, noised.

    path: the stage's path. x: (B, C, H, W) clean, at the stage's resolution. noise: same shape.
    tau: (B,) in [0, 1]. timestep: (B,) in [0, max_timestep of the backbone), what it is told.
    x_t: the path at tau. index: (B,) position of each image in the whole batch.
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
        """(B, C, H, W), the constant velocity of the path, end minus start."""
        return self.path.velocity(self.x, self.noise)


@dataclass(frozen=True)
class BackboneOutput:
    """output: raw prediction, of the form of the input (one tensor, or one per group of a pack).

    features: tokens (B, L, D) that entered the asked-for layers, by layer; for a pack a list per group.
    """

    output: Any
    features: dict[int, Any] = field(default_factory=dict)


class Prediction(Protocol):
    """How the raw output of a backbone becomes velocity and clean image."""

    def velocity(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: Path) -> Tensor: ...
    def clean(self, raw: Tensor, x_t: Tensor, tau: Tensor, path: Path) -> Tensor: ...
    def target(self, sample: FlowSample) -> Tensor: ...


class Timesteps(Protocol):
    """`(B,) uniform in [0, 1) -> (B,) tau`."""

    def __call__(self, uniform: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Encoded:
    """What a frozen encoder makes of the images of a FlowSample. clean: (B, L, F), of x, without gradient.

    predicted: (B, L, F), of x_pred, with its gradient; None where no loss asks for it.
    """

    clean: Tensor
    predicted: Tensor | None = None


@dataclass(frozen=True)
class Predicted:
    """A backbone's output on one FlowSample, as velocity or clean image, converted when asked for.

    features: tokens (B, L, D) of the backbone by layer. encoded: by the loss's own encoder, if it has one.
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
        s = self.sample
        return self.prediction.velocity(self.raw, s.x_t, s.tau, s.path)

    @cached_property
    def target_velocity(self) -> Tensor:
        """The velocity of a perfect output, through the same conversion (and its clamp) as `velocity`."""
        s = self.sample
        return self.prediction.velocity(self.prediction.target(s), s.x_t, s.tau, s.path)

    @cached_property
    def x_pred(self) -> Tensor:
        s = self.sample
        return self.prediction.clean(self.raw, s.x_t, s.tau, s.path)


class Backbone(Protocol):
    """`x_t` is (B, C, H, W), or a pack: a sequence of such tensors, one per resolution.

    fixed_resolution: the only one that it serves, or None. max_timestep: `timestep` is in [0, max_timestep).
    width, depth: of its features. last_layer: what the output leaves through.
    """

    patch_size: int
    fixed_resolution: int | None
    max_timestep: float
    width: int
    depth: int

    @property
    def last_layer(self) -> Any: ...

    def __call__(
        self, x_t: Tensor | Sequence[Tensor], timestep: Tensor, condition: Condition, features: Sequence[int] = ()
    ) -> BackboneOutput: ...


class Solver(Protocol):
    """last_tau: where the backbone is told the stage's last timestep; None: as in training (see `Cascade.timestep`).
    adaptive: whether it chooses its own steps.
    """

    last_tau: float | None
    adaptive: bool

    def time_grid(self, stage: int) -> Tensor: ...
    def integrate(self, velocity_fn: VelocityFn, x: Tensor, grid: Tensor) -> tuple[Tensor, int]: ...


class Guidance(Protocol):
    def scale(self, stage: int, tau: float) -> float: ...


class Conditioning(Protocol):
    """reads_captions: whether the condition is made from captions."""

    reads_captions: bool

    def encode(self, batch: Batch) -> Condition: ...
    def null(self, n: int) -> Condition: ...
    def drop(self, condition: Condition, uniform: Tensor) -> Condition: ...


class Encoder(Protocol):
    """A frozen network: images (B, C, H, W) in [-1, 1], not clamped -> feature tokens (B, L, F), with the gradient.

    It loads nothing before `load`, which the objective calls if a loss uses it. num_features: F.
    """

    num_features: int

    def missing(self, folder: FilePath) -> list[str]: ...
    def load(self, folder: FilePath, device: Any, *, bf16: bool = False) -> None: ...
    def __call__(self, x: Tensor) -> Tensor: ...


class Loss(Protocol):
    """One value per image, of those that pass its gate; the objective averages over them.

    encoder: name of the frozen encoder whose features it compares, or None. encodes_prediction: of x_pred, too.
    layer: block of the backbone whose features it wants, or None. networks: frozen ones of its own.
    gate: `(tau of some images (b,), tau of all images of the step) -> (b,) bool`, which images count.
    """

    weight: float
    encoder: str | None
    encodes_prediction: bool
    layer: int | None
    networks: tuple[Any, ...]

    def gate(self, tau: Tensor, step_tau: Tensor) -> Tensor: ...
    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor: ...


class Loader(Protocol):
    """An endless, seeded sequence of training batches whose position can be saved and restored."""

    def __iter__(self) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Metric(Protocol):
    """Accumulates over batches, merges with its like, computes numbers by name."""

    def update(self, *args: Any, **kwargs: Any) -> None: ...
    def merge(self, other: Any) -> None: ...
    def compute(self) -> dict[str, float]: ...
