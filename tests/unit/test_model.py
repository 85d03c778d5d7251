"""The library without Hydra: build, sample, save, load."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import pixelflow
from pixelflow import conf_dir
from pixelflow.errors import UserError
from pixelflow.flow import ConstantGuidance, IntervalGuidance, StageWiseGuidance
from pixelflow.model import Model
from pixelflow.solvers import Heun
from pixelflow.training.checkpoint import CheckpointStore

OUTSIDE = Path(__file__).resolve().parents[1] / "outside"
SIZE: dict[str, Any] = {"image_size": 16, "num_stages": 2, "num_classes": 10, "channels": 1, "depth": 2}


def lively(model: Model) -> Model:
    """Makes all weights random, also those that start at zero, so that images depend on every input."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.backbone.parameters():
        if parameter.eq(0).all():
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def model() -> Model:
    return lively(pixelflow.build(**SIZE))


def test_a_built_model_has_the_sizes_of_the_option_file(model: Model) -> None:
    folder = conf_dir.conf_folder() / "backbone"
    tiny, xl = (yaml.safe_load((folder / f"pixelflow_{name}.yaml").read_text()) for name in ("tiny", "xl"))
    assert model.backbone.width == tiny["num_heads"] * tiny["head_dim"] and model.backbone.depth == SIZE["depth"]
    assert model.backbone.patch_size == xl["patch_size"]
    assert (model.num_stages, model.num_classes, model.image_size, model.channels) == (2, 10, 16, 1)
    assert isinstance(model.guidance, StageWiseGuidance)


def test_the_initial_weights_follow_the_seed_and_leave_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (pixelflow.build(**SIZE, seed=seed).backbone.state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_other_backbones_and_predictions() -> None:
    jit = pixelflow.build("jit_tiny", image_size=16, num_classes=4, channels=1, depth=3, prediction="x")
    assert jit.sample([1, 2, 3], num_steps=1).shape == (3, 16, 16, 1)
    backbone = pixelflow.PixelFlow(patch_size=2, depth=1, num_heads=2, head_dim=8, num_classes=4, in_channels=1)
    own = pixelflow.build(backbone, image_size=8, num_classes=4, channels=1, solver="heun")
    assert own.backbone is backbone and isinstance(own.solver, Heun)
    assert own.sample(2, num_steps=1).shape == (1, 8, 8, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "nope"}, "backbone='nope' must be one of jit_b"),
        ({"num_stages": 4}, "patch_size=4 does not divide the kickoff resolution 2"),
        ({"num_stages": 6}, "num_stages=6 needs image_size divisible by 32"),
        ({"backbone": "jit_tiny", "depth": 3}, "num_stages=2 needs a backbone for several resolutions"),
        ({"prediction": "noise"}, "prediction='noise' must be one of velocity, x"),
        ({"layers": 3}, "its arguments are patch_size"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixelflow.build(**{**SIZE, **settings})


def test_an_image_depends_on_seed_number_and_label_alone(model: Model) -> None:
    images = model.sample([3, 7, 3], seed=1, num_steps=2)
    assert images.shape == (3, 16, 16, 1) and images.dtype == np.uint8
    assert images.std() > 1 and not np.array_equal(images[0], images[2])
    alone = model.sample([3, 7, 3], seed=1, num_steps=2, batch_size=1)
    assert np.abs(images.astype(int) - alone).max() <= 1
    assert np.array_equal(model.sample(3, seed=1, num_steps=2, batch_size=1)[0], alone[0])
    assert not np.array_equal(model.sample([3, 7, 3], seed=2, num_steps=2), images)
    assert len(model.sample(num_steps=1)) == 10 and len(model.sample(num_steps=1, num_images=12)) == 12
    assert np.array_equal(model.sample([4, 5], num_images=3, num_steps=1), model.sample([4, 5, 4], num_steps=1))
    assert model.sample(num_images=0).shape == (0, 16, 16, 1)


def test_solver_and_guidance_by_name_by_number_and_as_objects(model: Model) -> None:
    images = model.sample([1, 2], num_steps=3)
    assert np.array_equal(model.sample([1, 2], solver="euler", num_steps=3, guidance="stage_wise"), images)
    by_name = model.sample([1, 2], solver="heun", num_steps=3)
    assert not np.array_equal(by_name, images)
    assert np.array_equal(model.sample([1, 2], solver=Heun(num_steps=3, num_stages=2)), by_name)
    stronger = model.sample([1, 2], num_steps=3, guidance=4)
    schedule = StageWiseGuidance(scale=4, num_stages=2)
    assert np.array_equal(model.sample([1, 2], num_steps=3, guidance=schedule), stronger)
    assert not np.array_equal(stronger, images)
    unguided = lively(pixelflow.build(**SIZE, guidance="none"))
    constant = model.sample(1, num_steps=2, guidance=ConstantGuidance(scale=3.0))
    assert np.array_equal(unguided.sample(1, num_steps=2, guidance=3.0), constant)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [10]}, "must be classes in 0..9"),
        ({"labels": []}, "must be classes in 0..9"),
        ({"labels": -1}, "must be classes in 0..9"),
        ({"prompts": ["a cat"]}, "text conditioning does not exist yet"),
        ({"solver": "nope"}, "solver='nope' must be one of adams_bashforth"),
        ({"solver": "dopri5", "num_steps": 3}, "num_steps=3 is not an argument of"),
        ({"solver": Heun(num_steps=3, num_stages=2), "num_steps": 3}, "num_steps=3 needs the name of a solver"),
        ({"num_steps": [1, 2, 3]}, "has 3 entries, but the cascade has 2 stages"),
        ({"guidance": "nope"}, "guidance='nope' must be one of constant"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ],
)
def test_arguments_of_sample_that_do_not_fit(model: Model, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.sample(**{"labels": 1, **arguments})


def test_the_velocity_is_what_an_euler_step_adds(model: Model) -> None:
    sampler = model.sampler(num_steps=1, guidance="none")
    x = sampler.keyed_noise([0, 1], 5)(0)
    ends: list[torch.Tensor] = []
    condition = pixelflow.Condition(torch.tensor([3, 4]))
    sampler.sample(condition, sampler.keyed_noise([0, 1], 5), lambda stage, tau, state: ends.append(state))
    with torch.no_grad():
        v = model.velocity(x, 0.0, stage=0, labels=[3, 4])
        assert torch.equal(v, model.velocity(x, torch.zeros(2), stage=0, labels=[3, 4]))
        assert not torch.equal(v, model.velocity(x, 0.0, stage=0))
    step = sampler.solver.time_grid(0).diff().item()
    assert torch.equal(x + step * v, ends[1])


def test_saved_and_loaded_bit_for_bit(model: Model, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "a" / "saved")
    loaded = pixelflow.load(folder, device="cpu")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["saved"]
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(loaded.backbone.state_dict()[name], value)
    images = model.sample([3, 7], num_steps=2)
    assert np.array_equal(loaded.sample([3, 7], num_steps=2), images)
    again = pixelflow.load(loaded.save(tmp_path / "b"), num_steps=2, device="cpu")
    assert np.array_equal(again.sample([3, 7]), images)
    with pytest.raises(ValueError, match="exists already"):
        model.save(folder)
    other = pixelflow.load(folder, device="cpu", solver="heun", guidance=IntervalGuidance(scale=2, low=0.1, high=0.5))
    assert isinstance(other.solver, Heun) and isinstance(other.guidance, IntervalGuidance)


def test_the_largest_timestep_is_stored_with_the_model(tmp_path: Path) -> None:
    """The backbone's embedding, the timesteps of sampling and the stored config agree, also after loading."""
    model = lively(pixelflow.build(**SIZE, max_timestep=20.0))
    loaded = pixelflow.load(model.save(tmp_path / "saved"), device="cpu")
    for each in (model, loaded):
        assert each.backbone.max_timestep == each.cascade.max_timestep == 20.0
        assert each.recipe.config["backbone"]["max_timestep"] == 20.0
        tau = torch.linspace(0, 0.999, 5, dtype=torch.float64)
        timestep = torch.cat([each.cascade.timestep(stage, tau) for stage in range(2)])
        assert timestep.diff().gt(0).all() and 19 < timestep[-1] < 20
    images = model.sample([3, 7], num_steps=2)
    assert np.array_equal(loaded.sample([3, 7], num_steps=2), images)
    other = lively(pixelflow.build(**SIZE))
    assert not np.array_equal(other.sample([3, 7], num_steps=2), images)


def test_a_model_of_objects_cannot_be_saved(tmp_path: Path) -> None:
    backbone = pixelflow.PixelFlow(patch_size=2, depth=1, num_heads=2, head_dim=8, num_classes=4, in_channels=1)
    with pytest.raises(ValueError, match="has objects as backbone"):
        pixelflow.build(backbone, image_size=8, num_classes=4, channels=1).save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def stored(model: Model, folder: Path, step: int, **changes: Any) -> Path:
    config = {**model.recipe.config, **changes}
    weights = model.backbone.state_dict()
    return CheckpointStore(folder / "checkpoints").save(step, {"model": weights, "ema": weights}, {"config": config})


def test_a_run_gives_its_newest_undamaged_checkpoint(model: Model, tmp_path: Path) -> None:
    stored(model, tmp_path, 5)
    newest = stored(model, tmp_path, 9)
    assert pixelflow.load(tmp_path).recipe.step == 9
    weights = newest / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    assert pixelflow.load(str(tmp_path)).recipe.step == 5
    assert pixelflow.load(tmp_path, weights="model").recipe.step == 9
    with pytest.raises(UserError, match="truncated"):
        pixelflow.load(newest)
    with pytest.raises(UserError, match=r"has no weights called ema_0\.5"):
        pixelflow.load(tmp_path, weights="ema_0.5")


def test_paths_that_are_neither_run_nor_checkpoint(model: Model, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "bare").mkdir()
    stored(model, tmp_path / "no_config", 1, backbone=None)
    for path, message in {
        tmp_path / "run": "a run without a finished checkpoint",
        tmp_path / "bare": "no state.json, and no checkpoints/ as a run has; .*bare holds nothing",
        tmp_path / "nothing": "does not exist",
        tmp_path / "no_config": "holds no config of a model",
    }.items():
        with pytest.raises(UserError, match=message):
            pixelflow.load(path)
    with pytest.raises(UserError, match="hf://"):
        pixelflow.load("hf://owner/name")


def test_a_config_with_foreign_code_is_refused(model: Model, tmp_path: Path) -> None:
    stored(model, tmp_path, 1, guidance={"_target_": "os.system", "command": f"touch {tmp_path / 'mark'}"})
    with pytest.raises(UserError, match=r"os.system is not one of .* trust=\['os'\]"):
        pixelflow.load(tmp_path)
    assert not (tmp_path / "mark").exists()


def test_a_users_own_parts_need_trust(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it nothing of the user's package is imported; with it sampling uses its schedule and its backbone."""
    package, mark = tmp_path / "mylib", tmp_path / "imported"
    shutil.copytree(OUTSIDE / "mylib", package, ignore=shutil.ignore_patterns("__pycache__"))
    with open(package / "__init__.py", "a", encoding="utf-8") as file:
        file.write(f"\nopen({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylib"]:
        monkeypatch.delitem(sys.modules, name)
    stored(model, tmp_path / "run", 1, guidance={"_target_": "mylib.RisingGuidance", "most": 3.0})
    for trust in ([], ["mylib2"], ["my"]):
        with pytest.raises(UserError, match=r"mylib.RisingGuidance is not one of .* trust=\['mylib'\]"):
            pixelflow.load(tmp_path / "run", trust=trust)
    assert not mark.exists() and "mylib" not in sys.modules
    loaded = pixelflow.load(tmp_path / "run", trust=["mylib"], device="cpu")
    assert mark.exists() and loaded.guidance.scale(0, 0.5) == 2.0
    images = loaded.sample([3, 7], num_steps=2)
    assert np.array_equal(images, model.sample([3, 7], num_steps=2, guidance=loaded.guidance))
    assert not np.array_equal(images, model.sample([3, 7], num_steps=2))

    from mylib import ConvNet

    own = model.recipe.config | {"backbone": {"_target_": "mylib.ConvNet", "in_channels": 1, "num_classes": 10}}
    weights = {"ema": ConvNet(in_channels=1, num_classes=10).state_dict()}
    CheckpointStore(tmp_path / "own" / "checkpoints").save(1, weights, {"config": own})
    network = pixelflow.load(tmp_path / "own", trust=["mylib"], device="cpu")
    assert isinstance(network.backbone, ConvNet) and network.sample([3, 7], num_steps=2).shape == (2, 16, 16, 1)


@pytest.mark.parametrize(
    "settings",
    [SIZE, {"backbone": "jit_tiny", "image_size": 16, "num_classes": 10, "channels": 1, "depth": 3, "prediction": "x"}],
    ids=["pixelflow", "jit"],
)
def test_gradients_after_sampling_are_those_before(settings: dict[str, Any]) -> None:
    """Sampling runs in inference mode; tensors that a network keeps from it must not reach autograd."""

    def gradients(sampled: bool) -> list[torch.Tensor]:
        model = lively(pixelflow.build(**settings))
        if sampled:
            model.sample([1, 2], num_steps=1)
        x = torch.linspace(-1, 1, 512).view(2, 1, 16, 16)
        model.velocity(x, 0.3, stage=model.num_stages - 1, labels=[1, 2]).square().mean().backward()
        return [parameter.grad for parameter in model.backbone.parameters() if parameter.grad is not None]

    before, after = gradients(False), gradients(True)
    assert len(before) == len(after) > 10 and all(map(torch.equal, before, after))


def test_the_public_names() -> None:
    assert pixelflow.__all__ == sorted(pixelflow.__all__)
    for name in pixelflow.__all__:
        assert getattr(pixelflow, name) is not None
    listed = {name for names in pixelflow._MODULES.values() for name in names}
    assert {*pixelflow.__all__} == {*listed, "__version__"}
    assert {*pixelflow.__all__} <= {*dir(pixelflow)}
    with pytest.raises(AttributeError, match="nope"):
        pixelflow.nope  # noqa: B018
    assert (Path(inspect.getfile(pixelflow)).parent / "py.typed").exists()


def test_what_is_imported(tmp_path: Path) -> None:
    """`import pixelflow` needs no torch, and a model needs neither Hydra nor MLflow."""
    code = (
        "import sys, json, pixelflow\n"
        "torch_is_there = 'torch' in sys.modules\n"
        "model = pixelflow.build(image_size=8, num_classes=2, channels=1, depth=1)\n"
        f"pixelflow.load(model.save({str(tmp_path / 'm')!r})).sample(num_steps=1)\n"
        "others = [m for m in ('hydra', 'omegaconf', 'mlflow', 'submitit') if m in sys.modules]\n"
        "print(json.dumps([torch_is_there, others]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == [False, []]
