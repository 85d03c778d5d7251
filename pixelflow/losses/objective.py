"""The training objective: a weighted sum of losses, each averaged over the images that pass its gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pixelflow.limits import at_least
from pixelflow.losses.adaptive_weight import AdaptiveWeight
from pixelflow.losses.frozen import Frozen
from pixelflow.losses.gated import TrainedLoss
from pixelflow.types import Batch, Encoded, Encoder, Loss, Predicted, on

Key = tuple[int, str]
"""Stage and term."""


@dataclass(frozen=True)
class ObjectiveValue:
    """The value of the objective on a step, or on a part of one.

    Args:
        loss: Scalar with gradient, to be summed over the parts of a step.
        sums: The sum of each term over the images that pass its gate, detached, by stage and term.
        counts: The number of those images.
        weights: The weights of the terms.
        images: The number of images of each stage.
        reference: The part of `loss` that an adaptive weight takes as reference, with gradient.
        adapted: The part of `loss` that an adaptive weight scales, with gradient.
    """

    loss: Tensor
    sums: dict[Key, Tensor]
    counts: dict[Key, int]
    weights: dict[str, Any]
    images: dict[int, int]
    reference: Tensor | None = None
    adapted: Tensor | None = None

    @property
    def terms(self) -> dict[str, Tensor]:
        """The unweighted mean of each term over the images that passed its gate; a term without images is left out."""
        names = dict.fromkeys(name for _, name in self.sums)
        return {name: self._total(name) / sum(n for (_, t), n in self.counts.items() if t == name) for name in names}

    def _total(self, name: str) -> Tensor:
        return torch.stack([value for (_, term), value in self.sums.items() if term == name]).sum()

    @property
    def stages(self) -> dict[int, Tensor]:
        """The objective on the images of each stage alone, by stage."""
        means: dict[int, Tensor] = {}
        for (stage, term), value in self.sums.items():
            means[stage] = means.get(stage, 0) + self.weights[term] * value / self.counts[stage, term]
        return {stage: means[stage] for stage in sorted(means)}

    @staticmethod
    def merged(parts: Sequence[ObjectiveValue]) -> ObjectiveValue:
        """Returns the value of a step, detached, from those of its parts."""
        sums: dict[Key, Tensor] = {}
        counts: dict[Key, int] = {}
        images: dict[int, int] = {}
        for part in parts:
            for key, value in part.sums.items():
                sums[key] = sums.get(key, 0) + value
                counts[key] = counts.get(key, 0) + part.counts[key]
            for stage, n in part.images.items():
                images[stage] = images.get(stage, 0) + n
        loss = torch.stack([part.loss.detach() for part in parts]).sum()
        return ObjectiveValue(loss, sums, counts, parts[0].weights, dict(sorted(images.items())))


class Objective(nn.Module):
    """The weighted sum of the terms, each averaged over the images of the step that pass its gate.

    Its parameters and state are those of the terms and of the adaptive weight; frozen networks are not part of it.

    Args:
        terms: Losses by name. A term of weight zero is left out, and what only it needs is never loaded.
        encoders: Frozen networks by name, for the terms that name one.
        adaptive: A factor on some terms that follows their gradient.
        pad_to: The images that pass a gate are padded to a multiple of this number, so that a compiled encoder
            is compiled for few shapes; the padding is computed and dropped. None takes exactly those images.

    Raises:
        ValueError: No term is left, or a name is not among the terms or encoders.
    """

    def __init__(
        self,
        *,
        terms: Mapping[str, Loss],
        encoders: Mapping[str, Encoder] | None = None,
        adaptive: AdaptiveWeight | None = None,
        pad_to: int | None = None,
    ) -> None:
        super().__init__()
        self.terms = {name: loss for name, loss in terms.items() if loss.weight != 0}
        if not self.terms:
            raise ValueError("terms: at least one loss needs a weight other than 0")
        at_least(1, pad_to=pad_to)
        encoders = encoders or {}
        for name, loss in self.terms.items():
            if loss.encoder is not None and loss.encoder not in encoders:
                known = ", ".join(encoders) or "none"
                raise ValueError(f"terms.{name}.encoder={loss.encoder} is not among the encoders ({known})")
        used = {loss.encoder for loss in self.terms.values()}
        self.encoders = {name: encoder for name, encoder in encoders.items() if name in used}
        self.trained = nn.ModuleDict({n: loss for n, loss in self.terms.items() if isinstance(loss, nn.Module)})
        self.adaptive, self.pad_to = self._adaptive(adaptive, terms), pad_to

    def _adaptive(self, adaptive: AdaptiveWeight | None, terms: Mapping[str, Loss]) -> AdaptiveWeight | None:
        if adaptive is None:
            return None
        for name in (*adaptive.terms, adaptive.reference):
            if name not in terms:
                raise ValueError(f"adaptive names {name}, which is not among the terms {', '.join(terms)}")
        active = adaptive.reference in self.terms and any(name in self.terms for name in adaptive.terms)
        return adaptive if active else None

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks of the backbone whose features the terms need."""
        return tuple(sorted({loss.layer for loss in self.terms.values() if loss.layer is not None}))

    def _frozen(self) -> list[Any]:
        return [*self.encoders.values(), *(network for loss in self.terms.values() for network in loss.networks)]

    def needs(self) -> list[str]:
        """Returns the files that the terms read from the assets folder."""
        return [file for network in self._frozen() if isinstance(network, Frozen) for file in network.needs()]

    def missing(self, assets: Path) -> list[str]:
        """Returns one line for each file that the terms need and the assets folder lacks."""
        return [line for network in self._frozen() for line in network.missing(assets)]

    def check_backbone(self, backbone: Any) -> None:
        """Checks that the backbone has the attributes that the terms need.

        Raises:
            ValueError: `width`, `depth` or `last_layer` is missing, or a term needs the features of a missing block.
        """
        kind = type(backbone).__name__
        for name, loss in self.terms.items():
            if loss.layer is None:
                continue
            for attribute in ("width", "depth"):
                if not hasattr(backbone, attribute):
                    raise ValueError(f"terms.{name} needs features of the backbone, but {kind} has no `{attribute}`")
            if loss.layer >= backbone.depth:
                raise ValueError(
                    f"terms.{name}.layer={loss.layer} must be a block of the backbone, 0 to {backbone.depth - 1}"
                )
        if self.adaptive is not None and not hasattr(getattr(backbone, "last_layer", None), "weight"):
            raise ValueError(f"adaptive needs a backbone with `last_layer.weight`, which {kind} does not have")

    def check_images(self, side: int) -> None:
        """Checks that the frozen networks of the terms can be computed on images of `side` pixels, the smallest ones.

        Raises:
            ValueError: A network needs larger images.
        """
        for name, loss in self.terms.items():
            for network in loss.networks:
                if side < (least := getattr(network, "smallest", 1)):
                    raise ValueError(
                        f"terms.{name}: {type(network).__name__} needs images of at least {least} pixels, but the "
                        f"smallest ones have {side}; set its image_size"
                    )

    def prepare(self, *, width: int | None, assets: Path, device: Any, bf16: bool = False) -> None:
        """Loads the frozen networks and makes the trained parts.

        Args:
            width: The backbone's width; None for a backbone without features.
            assets: The folder of the frozen networks' weights.
            device: Where the objective is computed.
            bf16: Whether frozen networks compute under autocast.

        Raises:
            ValueError: A term has trained parts and the backbone has no width.
        """
        for network in self._frozen():
            network.load(assets, device, bf16=bf16)
        for loss in self.terms.values():
            if isinstance(loss, TrainedLoss):
                assert loss.encoder is not None
                if width is None:
                    raise ValueError(f"{type(loss).__name__} needs features of the backbone, which has no `width`")
                loss.build(width=width, num_features=self.encoders[loss.encoder].num_features)
        self.to(device)

    def forward(
        self,
        predicted: Sequence[Predicted],
        batch: Batch,
        step_tau: Tensor | None = None,
        *,
        tau: Tensor | None = None,
    ) -> ObjectiveValue:
        """Computes the objective on a batch, or on a part of a step.

        Args:
            predicted: One entry per stage of the batch.
            batch: The clean images.
            step_tau: tau of all images of the step if this batch is only a part of it (accumulation, or one of several
                processes). Each term is divided by the number of images of the whole step that pass its gate, so
                losses and gradients of the parts must be summed, not averaged.
            tau: (B,), tau of the batch's images on the host, if available: the gates are then evaluated without a
                synchronisation of the device.
        """
        taus = [p.sample.tau if tau is None else tau[p.sample.index] for p in predicted]
        step_tau = torch.cat(taus) if step_tau is None else on(step_tau, taus[0].device)
        passing = {name: loss.gate(step_tau, step_tau).sum().clamp(min=1) for name, loss in self.terms.items()}
        sums: dict[Key, Tensor] = {}
        counts: dict[Key, int] = {}
        weighted = {name: batch.x.new_zeros(()) for name in self.terms}
        for p, tau_p in zip(predicted, taus, strict=True):
            masks = {name: loss.gate(tau_p, step_tau) for name, loss in self.terms.items()}
            for name, values in self._stage_losses(p, batch[p.sample.index], masks).items():
                key = (p.sample.path.stage, name)
                sums[key], counts[key] = values.sum().detach(), len(values)
                weighted[name] = weighted[name] + self.terms[name].weight * values.sum() / on(
                    passing[name], values.device
                )
        images = {p.sample.path.stage: len(p.sample.index) for p in predicted}
        return self._value(weighted, sums, counts, images)

    def _value(
        self, weighted: dict[str, Tensor], sums: dict[Key, Tensor], counts: dict[Key, int], images: dict[int, int]
    ) -> ObjectiveValue:
        weights: dict[str, Any] = {name: loss.weight for name, loss in self.terms.items()}
        if self.adaptive is None:
            return ObjectiveValue(torch.stack([*weighted.values()]).sum(), sums, counts, weights, images)
        w, names = self.adaptive.value.detach().clone(), self.adaptive.terms
        weights |= {name: weights[name] * w for name in names if name in weights}
        adapted = torch.stack([value for name, value in weighted.items() if name in names]).sum()
        rest = torch.stack([value for name, value in weighted.items() if name not in names]).sum()
        reference = weighted[self.adaptive.reference]
        return ObjectiveValue(rest + w * adapted, sums, counts, weights, images, reference, adapted)

    def _stage_losses(self, p: Predicted, batch: Batch, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of each term on the images of one stage that pass its gate; terms without images are left out."""
        encoded = self._encode(p, masks)
        values = {}
        for name, loss in self.terms.items():
            rows, n = self._rows(masks[name])
            if n == 0:
                continue
            part, images = (p, batch) if n == len(masks[name]) else (p[rows], batch[rows])
            if loss.encoder is not None:
                part = replace(part, encoded=encoded[loss.encoder].at(rows, prediction=loss.encodes_prediction))
            values[name] = loss(part.sample, part, images)[:n]
        return values

    def _encode(self, p: Predicted, masks: Mapping[str, Tensor]) -> dict[str, Features]:
        """Runs each encoder once on the clean and once on the predicted images, for all terms that need them."""
        features = {}
        for name, encoder in self.encoders.items():
            users = {term: loss for term, loss in self.terms.items() if loss.encoder == name}
            of_x = torch.stack([masks[term] for term in users]).any(dim=0)
            of_prediction = torch.zeros_like(of_x)
            for term, loss in users.items():
                if loss.encodes_prediction:
                    of_prediction = of_prediction | masks[term]
            with torch.no_grad():
                clean = self._features(encoder, p.sample.x, of_x)
            predicted = self._features(encoder, p.x_pred, of_prediction) if self._wants_prediction(users) else None
            features[name] = Features(clean, of_x, predicted, of_prediction)
        return features

    @staticmethod
    def _wants_prediction(users: Mapping[str, Loss]) -> bool:
        return any(loss.encodes_prediction for loss in users.values())

    def _features(self, encoder: Encoder, images: Tensor, mask: Tensor) -> Tensor | None:
        rows, n = self._rows(mask)
        if n == 0:
            return None
        return encoder(images if n == len(mask) else images[on(rows, images.device)])[:n]

    def _rows(self, mask: Tensor) -> tuple[Tensor, int]:
        """Positions where `mask` (b,) is true, padded with the first of them, and their number without the padding."""
        rows = mask.nonzero()[:, 0]
        n = len(rows)
        if self.pad_to is None or n == 0:
            return rows, n
        wanted = min(-(-n // self.pad_to) * self.pad_to, len(mask))
        return torch.cat([rows, rows[:1].expand(wanted - n)]), n


@dataclass(frozen=True)
class Features:
    """An encoder's features of those images of a stage where the masks (b,) are true."""

    clean: Tensor | None
    clean_mask: Tensor
    predicted: Tensor | None
    predicted_mask: Tensor

    def at(self, rows: Tensor, *, prediction: bool) -> Encoded:
        """Returns the features of the images `rows`, a subset of the masked ones."""
        assert self.clean is not None
        clean = self.clean[on(self.clean_mask.cumsum(0)[rows] - 1, self.clean.device)]
        if not prediction:
            return Encoded(clean)
        assert self.predicted is not None
        return Encoded(clean, self.predicted[on(self.predicted_mask.cumsum(0)[rows] - 1, self.predicted.device)])
