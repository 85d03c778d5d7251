"""CLIP score with a tiny CLIP of seeded random weights, in the files of the released one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelflow.metrics.clip import ClipEncoder, ClipScore, read_prompts

transformers = pytest.importorskip("transformers")
PROMPTS = ["a red circle", "a blue square", "two cats", "a"]


def save_tiny_clip(folder: Path) -> None:
    """Byte-level tokens without merges, and towers of one layer."""
    folder.mkdir(parents=True)
    characters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = [*characters, *(f"{c}</w>" for c in characters), "tw", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt w\n")
    end = len(vocabulary) - 1
    text = {"vocab_size": len(vocabulary), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": 12, "eos_token_id": end, "bos_token_id": end - 1,
            "pad_token_id": end}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    root = tmp_path_factory.mktemp("assets")
    save_tiny_clip(root / "tiny-clip")
    made = ClipEncoder(folder="tiny-clip")
    made.load(root, "cpu")
    return made


def images(count: int = 4, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_the_score_is_that_of_the_model_itself(encoder: ClipEncoder) -> None:
    """Against transformers' own forward, whose logits are cosines times a scale."""
    assert encoder.model is not None
    model, pictures = encoder.model.model, images(side=28)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    tokens = encoder.tokenizer(PROMPTS, padding=True, return_tensors="pt", truncation=True, max_length=12)
    with torch.no_grad():
        found = model(pixel_values=(pictures / 255 - mean) / std, **tokens)  # type: ignore[union-attr, operator]
        cosines = found.logits_per_image.diag() / model.logit_scale.exp()  # type: ignore[union-attr, operator]
    score = ClipScore(encoder=encoder, prompts=PROMPTS)
    score.update(pictures)
    assert score.compute()["clip_score"] == pytest.approx(100 * cosines.clamp(min=0).mean().item(), abs=1e-3)
    assert (cosines > 0).any()


def test_order_batches_and_parts_change_nothing(encoder: ClipEncoder) -> None:
    expected = ClipScore(encoder=encoder, prompts=PROMPTS)
    expected.update(images())
    first, second = (ClipScore(encoder=encoder, prompts=PROMPTS) for _ in range(2))
    first.update(images()[[3, 1]], ids=[3, 1])
    second.update(images()[[2]], ids=[2])
    second.update(images()[[0]], ids=[0])
    first.add_state(second.state())
    assert first.compute()["clip_score"] == pytest.approx(expected.compute()["clip_score"], rel=1e-5)
    with pytest.raises(ValueError, match="there are 4 prompts, and none for image 4"):
        first.update(images()[:1], ids=[4])


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    save_tiny_clip(tmp_path / "tiny-clip")
    (tmp_path / "tiny-clip" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"tiny-clip holds no CLIP") as caught:
        ClipEncoder(folder="tiny-clip").load(tmp_path, "cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(
        ValueError, match=r"clip-vit-large-patch14/model.safetensors is missing \(CLIP ViT-L/14, 1.7 GB"
    ):
        ClipEncoder().load(tmp_path, "cpu")
    (tmp_path / "empty.txt").write_text("")
    for path in (tmp_path / "empty.txt", tmp_path / "absent.txt"):
        with pytest.raises(ValueError, match=r"cannot be read|holds no prompts"):
            read_prompts(path)
