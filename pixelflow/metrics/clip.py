"""CLIP score (Hessel et al. 2021, without its factor 2.5): 100 times the cosine between an image and its prompt.

Shape legend: B images, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.metrics.dinov2 import resize
from pixelflow.metrics.features import FrozenFeatures

FILES = ("model.safetensors", "config.json", "vocab.json", "merges.txt")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipEncoder(FrozenFeatures):
    """The two towers of a CLIP of OpenAI's form, through transformers. folder: of its files, in the assets folder."""

    preprocessing = "RGB, bicubic with antialiasing to the network's side, rounded to uint8, /255, CLIP mean, deviation"

    def __init__(self, *, folder: str = "clip-vit-large-patch14") -> None:
        self.name = self.folder = folder
        super().__init__(file=f"{folder}/{FILES[0]}")
        self.tokenizer: Any = None

    def needs(self) -> list[str]:
        return [f"{self.folder}/{name}" for name in FILES]

    def _build(self, path: Path | None) -> nn.Module:
        from transformers import CLIPModel, CLIPTokenizer  # seconds

        assert path is not None
        try:
            model = CLIPModel.from_pretrained(path.parent, local_files_only=True, use_safetensors=True)
            self.tokenizer = CLIPTokenizer(str(path.parent / "vocab.json"), str(path.parent / "merges.txt"))
        except Exception as error:  # transformers, safetensors and tokenizers raise half a dozen kinds
            raise ValueError(f"{path.parent} holds no CLIP: {str(error).strip().splitlines()[0][:160]}") from None
        return _Towers(model.float())

    def images(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, H) uint8 -> (B, D) of length 1."""
        return self._run(images)

    def prompts(self, prompts: Sequence[str]) -> Tensor:
        """-> (B, D) of length 1. A prompt beyond the network's length is cut, as everywhere."""
        assert self.model is not None, "load() comes first"
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self.model.length, return_tensors="pt"
        ).to(self.device)
        with torch.inference_mode():
            return self.model.texts(tokens)  # type: ignore[operator]


class _Towers(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.side = model.config.vision_config.image_size
        self.length = model.config.text_config.max_position_embeddings

    def forward(self, images: Tensor) -> Tensor:
        x = resize(images, self.side)
        mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (MEAN, STD))
        pooled = self.model.vision_model(pixel_values=(x / 255 - mean) / std).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=-1)

    def texts(self, tokens: Mapping[str, Tensor]) -> Tensor:
        return F.normalize(self.model.text_projection(self.model.text_model(**tokens).pooler_output), dim=-1)


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; line i belongs to image i. Raises ValueError for a file that cannot be read or is empty."""
    try:
        prompts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"metrics.prompts={path} cannot be read: {error}") from None
    if not any(prompts):
        raise ValueError(f"metrics.prompts={path} holds no prompts")
    return prompts


class ClipScore:
    """Collects each image's score. encoder: loaded. prompts: of image i the i-th."""

    def __init__(self, *, encoder: ClipEncoder, prompts: Sequence[str]) -> None:
        self.encoder, self.prompts = encoder, prompts
        self._scores: list[Tensor] = []

    @property
    def num_samples(self) -> int:
        return sum(map(len, self._scores))

    def update(self, images: Tensor, labels: Tensor | None = None, ids: Sequence[int] | None = None) -> None:
        """images: (B, C, H, H) uint8. ids: their numbers; by default they go on from the last. labels mean nothing.

        Raises ValueError for an image without a prompt.
        """
        ids = range(self.num_samples, self.num_samples + len(images)) if ids is None else ids
        if len(ids) and max(ids) >= len(self.prompts):
            raise ValueError(f"there are {len(self.prompts)} prompts, and none for image {max(ids)}")
        features = self.encoder.images(images) * self.encoder.prompts([self.prompts[i] for i in ids])
        self._scores.append(100 * features.double().sum(dim=1).clamp(min=0).cpu())

    def state(self) -> dict[str, Tensor]:
        return {"scores": torch.cat(self._scores)} if self._scores else {}

    def add_state(self, state: Mapping[str, Tensor]) -> None:
        if state:
            self._scores.append(state["scores"])

    def clear(self) -> None:
        self._scores = []

    def compute(self) -> dict[str, float]:
        # Sorted, so that the sum does not depend on the order of the images.
        return {"clip_score": torch.cat(self._scores).sort().values.mean().item()}

    def record(self) -> dict[str, Any]:
        return {
            "features": self.encoder.name,
            "weights_of_features": self.encoder.fingerprint,
            "preprocessing": self.encoder.preprocessing,
            "prompts": len(self.prompts),
        }
