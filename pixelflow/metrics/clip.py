"""CLIP score: the similarity of images and their prompts (Hessel et al. 2021, arXiv 2104.08718, section 3).

    CLIP score = mean of 100 max(cos(E_image, E_prompt), 0)

The paper's factor w = 2.5 is replaced by 100, as is common in the evaluation of text-to-image models.

Shape legend: B images, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.errors import UserError
from pixelflow.metrics.dinov2 import resize
from pixelflow.metrics.features import FrozenFeatures

FILES = ("model.safetensors", "config.json", "vocab.json", "merges.txt")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipEncoder(FrozenFeatures):
    """The image encoder and the text encoder of a CLIP model in OpenAI's format, loaded with transformers.

    Args:
        folder: Folder of the model's files in the assets folder.
    """

    preprocessing = "RGB, bicubic with antialiasing to the network's side, rounded to uint8, /255, CLIP mean, deviation"

    def __init__(self, *, folder: str = "clip-vit-large-patch14") -> None:
        self.name = self.folder = folder
        super().__init__(file=f"{folder}/{FILES[0]}")
        self.tokenizer: Any = None

    def needs(self) -> list[str]:
        """Returns the files that it reads from the assets folder."""
        return [f"{self.folder}/{name}" for name in FILES]

    def _build(self, path: Path | None) -> nn.Module:
        from transformers import CLIPModel, CLIPTokenizer  # seconds

        assert path is not None
        try:
            model = CLIPModel.from_pretrained(path.parent, local_files_only=True, use_safetensors=True)
            self.tokenizer = CLIPTokenizer(str(path.parent / "vocab.json"), str(path.parent / "merges.txt"))
        except Exception as error:  # transformers, safetensors and tokenizers raise exceptions of many types.
            raise UserError(f"{path.parent} holds no CLIP: {str(error).strip().splitlines()[0][:160]}") from None
        return _Towers(model.float())

    def images(self, images: Tensor) -> Tensor:
        """Returns the unit vectors (B, D) of images (B, 1 or 3, H, H) uint8."""
        return self._run(images)

    def prompts(self, prompts: Sequence[str]) -> Tensor:
        """Returns the unit vectors (B, D) of prompts, which are truncated at the network's maximum length."""
        assert self.model is not None, "call load() first"
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
    """Returns the lines of a text file; line i is the prompt of image i.

    Raises:
        UserError: The file cannot be read, or it is empty.
    """
    try:
        prompts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not any(prompts):
        raise UserError(f"{path} holds no prompts")
    return prompts


class ClipScore:
    """Computes the CLIP score of a stream of images.

    Args:
        encoder: The encoder, with its weights loaded.
        prompts: The prompt of each image, by the number of the image.
    """

    def __init__(self, *, encoder: ClipEncoder, prompts: Sequence[str]) -> None:
        self.encoder, self.prompts = encoder, prompts
        self._scores: list[Tensor] = []

    @property
    def num_samples(self) -> int:
        """The number of images so far."""
        return sum(map(len, self._scores))

    def update(self, images: Tensor, labels: Tensor | None = None, ids: Sequence[int] | None = None) -> None:
        """Computes and stores the scores of a batch.

        Args:
            images: (B, C, H, H) uint8.
            labels: Not used; the argument makes the signature that of `Evaluator.update`.
            ids: Numbers of the images; by default they continue those of the previous batch.

        Raises:
            ValueError: An image has no prompt.
        """
        ids = range(self.num_samples, self.num_samples + len(images)) if ids is None else ids
        if len(ids) and max(ids) >= len(self.prompts):
            raise ValueError(f"there are {len(self.prompts)} prompts, and none for image {max(ids)}")
        features = self.encoder.images(images) * self.encoder.prompts([self.prompts[i] for i in ids])
        self._scores.append(100 * features.double().sum(dim=1).clamp(min=0).cpu())

    def state(self) -> dict[str, Tensor]:
        """Returns the scores, for `add_state`; empty without images."""
        return {"scores": torch.cat(self._scores)} if self._scores else {}

    def add_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds the scores of another process."""
        if state:
            self._scores.append(state["scores"])

    def clear(self) -> None:
        """Discards all scores."""
        self._scores = []

    def compute(self) -> dict[str, float]:
        """Returns the mean over all images as `clip_score`."""
        # Sorted, so that the sum does not depend on the order of the images.
        return {"clip_score": torch.cat(self._scores).sort().values.mean().item()}

    def record(self) -> dict[str, Any]:
        """Returns the encoder, its weights and preprocessing, and the number of prompts."""
        return {
            "features": self.encoder.name,
            "weights_of_features": self.encoder.fingerprint,
            "preprocessing": self.encoder.preprocessing,
            "prompts": len(self.prompts),
        }
