"""The frozen networks with seeded random weights: what they compute, and what they say when a file is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelflow.losses import DinoV2, VGGDistance

pytest.importorskip("timm")
pytest.importorskip("lpips")

TINY = {"file": None, "name": "vit_tiny_patch16_224", "image_size": 32, "num_features": 192}


@pytest.fixture(scope="module")
def encoder() -> DinoV2:
    made = DinoV2(**TINY)  # type: ignore[arg-type]
    made.load(Path("nowhere"), "cpu")
    return made


@pytest.fixture(scope="module")
def distance() -> VGGDistance:
    made = VGGDistance(file=None, image_size=16)
    made.load(Path("nowhere"), "cpu")
    return made


def images(n: int = 2, side: int = 32, channels: int = 3) -> Tensor:
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_encoder_gives_one_feature_per_patch(encoder: DinoV2) -> None:
    assert encoder(images()).shape == (2, 4, 192)
    assert encoder(images(side=8)).shape == encoder(images(channels=1)).shape == (2, 4, 192)
    torch.testing.assert_close(encoder(images())[:1], encoder(images()[:1]), atol=1e-4, rtol=0)


def test_the_encoder_receives_images_normalised_from_0_to_1(encoder: DinoV2) -> None:
    """Against timm's own forward on images prepared by hand."""
    assert encoder.model is not None
    x = images() / 2 + 0.5
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean[:, None, None]) / std[:, None, None]
    expected = encoder.model.model.forward_features(x)[:, 1:]  # type: ignore[union-attr, operator]
    torch.testing.assert_close(encoder(images()), expected, atol=1e-4, rtol=0)


def test_random_weights_are_seeded_and_leave_the_generator_alone(encoder: DinoV2) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = DinoV2(**TINY)  # type: ignore[arg-type]
    again.load(Path("nowhere"), "cpu")
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(again(images()), encoder(images()))


def test_the_distance_is_that_of_the_package(distance: VGGDistance) -> None:
    a, b = images(side=16), images(side=16).flip(0)
    assert distance.model is not None
    torch.testing.assert_close(distance(a, b), distance.model(a, b).flatten())
    assert distance(a, a).abs().max() < 1e-6
    assert (distance(a, b) > 0).all()
    assert distance(images(side=8, channels=1), images(side=8, channels=1).flip(0)).shape == (2,)


@pytest.mark.parametrize("network", ["encoder", "distance"])
def test_gradients_reach_the_images_and_not_the_weights(network: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(network)
    x = images(side=16).requires_grad_()
    value = made(x) if network == "encoder" else made(x, images(side=16).flip(0))
    value.square().sum().backward()
    assert x.grad is not None and (x.grad.flatten(1).norm(dim=1) > 0).all()
    assert not made.model.training
    assert not any(p.requires_grad for p in made.model.parameters())


def test_a_missing_file_is_named_with_its_place_and_source(tmp_path: Path) -> None:
    for made, file, source in (
        (DinoV2(), "vit_base_patch14_dinov2.safetensors", "huggingface.co/timm/vit_base_patch14_dinov2.lvd142m"),
        (VGGDistance(), "vgg16-397923af.pth", "download.pytorch.org/models/vgg16-397923af.pth"),
    ):
        (line,) = made.missing(tmp_path)
        assert str(tmp_path / file) in line and source in line
        with pytest.raises(ValueError, match=f"{file} is missing"):
            made.load(tmp_path, "cpu")


def test_weights_come_from_the_assets_folder(tmp_path: Path, distance: VGGDistance) -> None:
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(1)
    state = {f"features.{key}": value for key, value in make_layers(cfgs["D"]).state_dict().items()}
    torch.save(state, tmp_path / "vgg16-397923af.pth")
    loaded = VGGDistance(image_size=16)
    loaded.load(tmp_path, "cpu")
    a, b = images(side=16), images(side=16).flip(0)
    assert not torch.allclose(loaded(a, b), distance(a, b))
    conv = loaded.model.net.slice2[1] if loaded.model is not None else None  # type: ignore
    assert torch.equal(conv.weight, state["features.5.weight"])
    torch.save({"x": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth holds no weights of torchvision's VGG-16"):
        VGGDistance(file="other.pth").load(tmp_path, "cpu")


def test_dinov2_weights_come_from_the_assets_folder(tmp_path: Path) -> None:
    """A file of another image size: timm resamples its position table."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    other = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64)
    save_file(other.state_dict(), tmp_path / "a.safetensors")
    made = DinoV2(**(TINY | {"file": "a.safetensors"}))  # type: ignore[arg-type]
    made.load(tmp_path, "cpu")
    assert made.model is not None
    weights = made.model.model.state_dict()  # type: ignore[union-attr, operator]
    assert weights["pos_embed"].shape == (1, 5, 192)
    assert torch.equal(weights["blocks.3.mlp.fc1.weight"], other.state_dict()["blocks.3.mlp.fc1.weight"])


def test_a_width_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="num_features=100, but vit_tiny_patch16_224 has 192"):
        DinoV2(**(TINY | {"num_features": 100})).load(Path(), "cpu")  # type: ignore[arg-type]


def test_the_smallest_images_of_vgg() -> None:
    unresized = VGGDistance(file=None)
    unresized.load(Path("nowhere"), "cpu")
    assert unresized(images(side=unresized.smallest), images(side=unresized.smallest)).shape == (2,)
    with pytest.raises(RuntimeError, match="size"):
        unresized(images(side=unresized.smallest - 1), images(side=unresized.smallest - 1))


def test_the_patch_size_divides_the_images_of_the_encoder() -> None:
    with pytest.raises(ValueError, match="image_size=225 must be a multiple of 14, the patch size of vit_base_patch14"):
        DinoV2(image_size=225)
