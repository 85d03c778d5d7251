"""DINOv2 with seeded random weights in the form of Meta's file, at a small size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pixelflow.metrics.dinov2 import DinoV2Features, resample_positions, resize

timm = pytest.importorskip("timm")
NAME = "vit_tiny_patch16_224"
"""Its patch is 16, so its table has another size than that of a patch of 14."""


def images(side: int = 40) -> Tensor:
    return torch.randint(0, 256, (2, 3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize("side", [16, 64, 300])
def test_the_resize_is_pillows_bicubic(side: int) -> None:
    ours = resize(images(side))
    for picture, got in zip(images(side), ours, strict=True):
        expected = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC)
        difference = np.abs(got.permute(1, 2, 0).numpy() - np.asarray(expected).astype(float))
        # Pillow computes in whole numbers of fixed point.
        assert difference.max() <= 2 and difference.mean() < 0.05


def test_positions_are_resampled_as_the_release_does() -> None:
    """A linear ramp stays one inside; the class token's row and a table of the right size stay as they are."""
    ramp = torch.arange(37.0)[:, None].expand(37, 37).reshape(1, -1, 1)
    table = torch.cat([torch.full((1, 1, 1), 5.0), ramp], dim=1)
    found = resample_positions(table, 16)
    assert found.shape == (1, 257, 1) and found[0, 0] == 5
    # Centre of patch i of 16, in units of the 37, at the ratio (16 + 0.1) / 37.
    expected = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    # torch's bicubic kernel bends a ramp by up to 0.05; without the offset the last would be 0.19 off.
    torch.testing.assert_close(found[0, 1:].view(16, 16)[2:-2, 5], expected[2:-2], atol=0.06, rtol=0)
    assert resample_positions(found, 16) is found


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    model = timm.create_model(NAME, pretrained=False, num_classes=0, img_size=256).eval()
    torch.save(model.state_dict(), tmp_path / "dino.pth")
    extractor = DinoV2Features(file="dino.pth", model_name=NAME, num_features=192)
    with pytest.raises(ValueError, match="holds no weights of vit_tiny"):  # positions for patches of 14
        extractor.load(tmp_path, "cpu")


def test_random_weights_and_what_the_network_sees() -> None:
    extractor = DinoV2Features(file=None, model_name=NAME, num_features=192)
    extractor.load(Path("nowhere"), "cpu")
    features = extractor(images())
    assert features.pool.shape == (2, 192) and features.logits is None and features.spatial is None
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (resize(images()) / 255 - mean[:, None, None]) / std[:, None, None]
    assert extractor.model is not None
    with torch.inference_mode():
        expected = extractor.model.model.forward_features(x)[:, 0]  # type: ignore[union-attr, operator]
    torch.testing.assert_close(features.pool, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="num_features=7, but vit_tiny_patch16_224 has 192"):
        DinoV2Features(file=None, model_name=NAME, num_features=7).load(Path("nowhere"), "cpu")


@pytest.mark.slow
def test_the_large_network_takes_metas_file(tmp_path: Path) -> None:
    """The state dict of the released ViT-L/14: 24 blocks of 1024, layer scale, a table of 37 x 37, a mask token."""
    tensors = {"cls_token": torch.randn(1, 1, 1024), "pos_embed": torch.randn(1, 1370, 1024),
               "mask_token": torch.zeros(1, 1024), "patch_embed.proj.weight": torch.randn(1024, 3, 14, 14) * 0.02,
               "patch_embed.proj.bias": torch.zeros(1024), "norm.weight": torch.ones(1024),
               "norm.bias": torch.zeros(1024)}  # fmt: skip
    for i in range(24):
        for name, shape in {"attn.qkv": (3072, 1024), "attn.proj": (1024, 1024), "mlp.fc1": (4096, 1024),
                            "mlp.fc2": (1024, 4096)}.items():  # fmt: skip
            tensors[f"blocks.{i}.{name}.weight"] = torch.randn(shape) * 0.02
            tensors[f"blocks.{i}.{name}.bias"] = torch.zeros(shape[0])
        for name in ("norm1", "norm2"):
            tensors[f"blocks.{i}.{name}.weight"] = torch.ones(1024)
            tensors[f"blocks.{i}.{name}.bias"] = torch.zeros(1024)
        tensors |= {f"blocks.{i}.{name}.gamma": torch.ones(1024) for name in ("ls1", "ls2")}
    torch.save(tensors, tmp_path / "dinov2_vitl14_pretrain.pth")
    extractor = DinoV2Features()
    extractor.load(tmp_path, "cpu")
    features = extractor(images())
    assert features.pool.shape == (2, 1024) and torch.isfinite(features.pool).all()
