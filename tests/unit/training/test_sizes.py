"""A stored config of any size is refused before memory is taken: by the tensors of its file, or by a limit."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch

import pixelflow
from pixelflow.config.job import Config
from pixelflow.errors import UserError
from pixelflow.model import Model
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.fitting import without_memory
from pixelflow.training.reader import CheckpointError
from pixelflow.training.weights import read_weights

SIZE: dict[str, Any] = {"image_size": 16, "num_classes": 10, "channels": 1}


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {
        "pixelflow": pixelflow.build(**SIZE, num_stages=2, depth=1),
        "jit": pixelflow.build("jit_tiny", **SIZE, depth=3, prediction="x"),
    }


def changed(model: Model, folder: Path, **values: Any) -> Path:
    """A checkpoint whose config has other values; its tensors are the model's."""
    config: Config = {group: dict(node) for group, node in model.recipe.config.items()}
    for key, value in values.items():
        group, name = key.split("__")
        config[group][name] = value
    weights = model.backbone.state_dict()
    return CheckpointStore(folder / "checkpoints").save(3, {"ema": weights, "model": weights}, {"config": config})


HUGE: list[tuple[str, dict[str, Any], str]] = [
    ("pixelflow", {"backbone__depth": 10_000}, r"depth=10000.*larger than the \d+ tensors"),
    ("pixelflow", {"backbone__depth": 100_000}, r"depth=100000 must be at most"),
    ("pixelflow", {"backbone__head_dim": 8192}, r"head_dim=8192.*larger than"),
    ("pixelflow", {"backbone__head_dim": 10**9}, r"head_dim=1000000000 must be at most"),
    ("pixelflow", {"backbone__num_heads": 10**18}, r"cannot be built: \w+Error"),
    ("pixelflow", {"backbone__num_classes": 10**12}, r"num_classes=1000000000000.*larger than"),
    ("pixelflow", {"backbone__num_classes": 2**64 - 1}, r"cannot be built: \w+Error"),
    ("pixelflow", {"backbone__in_channels": 10**9}, r"in_channels=1000000000.*larger than"),
    ("pixelflow", {"backbone__in_channels": 10**6, "data__channels": 10**6}, r"of another shape|larger than"),
    ("pixelflow", {"backbone__patch_size": 10**6}, r"patch_size=1000000 must be at most"),
    ("pixelflow", {"backbone__depth": 2}, r"missing: transformer_blocks\.1\..* and \d+ more"),
    ("pixelflow", {"backbone__depth": 0}, r"depth=0 must be at least 1"),
    ("pixelflow", {"backbone__num_classes": 11}, r"embedding_table.weight \(11, 128\) instead of \(12, 128\)"),
    ("pixelflow", {"backbone__depth": "many"}, r"cannot be built|depth"),
    ("pixelflow", {"backbone__depth": -3}, r"left over: transformer_blocks|depth"),
    ("pixelflow", {"backbone__patch_size": 0}, r"patch_size=0 must be at least 1"),
    ("pixelflow", {"cascade__num_stages": 10**9}, r"num_stages=1000000000 needs image_size"),
    ("pixelflow", {"cascade__image_size": 10**9}, r"image_size=1000000000 must be at most 16384"),
    ("pixelflow", {"solver__num_stages": 10**9}, r"num_stages=1000000000 must be at most 64"),
    ("pixelflow", {"guidance__num_stages": 10**9}, r"num_stages=1000000000 must be at most 64"),
    ("pixelflow", {"solver__num_steps": 10**12}, r"num_steps=1000000000000 must be at most 1000000"),
    ("pixelflow", {"solver__num_stages": 3}, r"solver.num_stages=3 .* differs from cascade.num_stages=2"),
    ("pixelflow", {"guidance__num_stages": 3}, r"guidance.num_stages=3 .* differs from cascade.num_stages=2"),
    ("pixelflow", {"conditioning__num_classes": 10**12}, r"differs from conditioning.num_classes=1000000000000"),
    ("pixelflow", {"data__num_classes": 10**12}, r"data.num_classes=1000000000000 .* differs from num_classes=10"),
    ("pixelflow", {"data__image_size": 10**9}, r"data.image_size=1000000000 .* differs from image_size=16"),
    ("pixelflow", {"data__channels": 10**6}, r"in_channels=1 .* differs from channels=1000000"),
    ("pixelflow", {"data__channels": "3"}, r"channels='3' must be a whole number"),
    ("pixelflow", {"data__channels": -1}, r"channels=-1 must be a whole number"),
    ("jit", {"backbone__width": 10**9}, r"width=1000000000.*larger than|cannot be built|width"),
    ("jit", {"backbone__image_size": 10**9}, r"image_size=1000000000 must be at most 16384"),
    ("jit", {"backbone__image_size": 16384}, r"image_size=16384.*larger than"),
    ("jit", {"backbone__in_context_len": 10**9}, r"in_context_len=1000000000 must be at most"),
    ("jit", {"backbone__depth": 4}, r"missing: blocks\.3\..* and \d+ more"),
    ("jit", {"backbone__depth": 10**6}, r"depth=1000000 must be at most"),
    ("jit", {"backbone__mlp_ratio": 1e300}, r"cannot be built"),
    ("jit", {"backbone__image_size": 32}, r"pos_embed \(1, 16, 128\) instead of \(1, 64, 128\)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "message"), HUGE, ids=[str(values) for _, values, _ in HUGE])
def test_a_config_of_another_size_is_refused_at_once(
    models: dict[str, Model], tmp_path: Path, name: str, values: dict[str, Any], message: str
) -> None:
    changed(models[name], tmp_path, **values)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message) as caught:
        pixelflow.load(tmp_path, device="cpu")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 800
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_the_network_without_memory_is_the_network(models: dict[str, Model]) -> None:
    with without_memory():
        bare = pixelflow.build(**SIZE, num_stages=2, depth=1).backbone
    real = models["pixelflow"].backbone.state_dict()
    assert {name: value.shape for name, value in bare.state_dict().items()} == {n: v.shape for n, v in real.items()}
    assert all(value.is_meta for value in bare.state_dict().values())
    torch.nn.init.normal_(torch.empty(3))  # is itself again


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(models: dict[str, Model], tmp_path: Path, value: float) -> None:
    weights = {name: tensor.clone() for name, tensor in models["pixelflow"].backbone.state_dict().items()}
    weights["proj_out_1.bias"][3] = value
    path = CheckpointStore(tmp_path).save(3, {"ema": weights}, {})
    with pytest.raises(CheckpointError, match=r"holds weights that are not finite: proj_out_1.bias; use another"):
        read_weights(path, "ema")
