"""The class-conditional PixelGen against the reference implementation: forward, features, losses, sampling.

The case's encoder and perceptual distance are stand-ins that it defines itself; the losses look through them as
through DINOv2 and LPIPS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pixelflow.backbones import JiT
from pixelflow.conditioning import ClassLabel
from pixelflow.flow import Cascade, IntervalGuidance, LogitNormalTimesteps, XPrediction
from pixelflow.interop import read_lightning_weights
from pixelflow.losses import FlowMatching, Lpips, Objective, PDino, Repa
from pixelflow.nn.patches import patchify
from pixelflow.sampling import Sampler
from pixelflow.solvers import AdamsBashforth, Euler, Heun
from pixelflow.types import Batch, Condition, Predicted
from tests.comparison import assert_all_close, assert_close, with_one_number_changed
from tests.golden_cases import golden_cases

TOLERANCE = 1e-5
LOOSE_TOLERANCE = 1e-4
"""For Heun, Adams-Bashforth and gradients."""

SOLVERS: dict[str, Callable[..., Any]] = {
    "euler": Euler,
    "heun": Heun,
    "adams1": partial(AdamsBashforth, order=1),
    "adams2": partial(AdamsBashforth, order=2),
    "adams3": partial(AdamsBashforth, order=3),
}
"""By the name that the case's tensors bear."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = golden_cases(metafunc.config, "pixelgen_c2i_*")
    metafunc.parametrize("folder", folders, ids=[folder.name for folder in folders])


@dataclass(frozen=True, eq=False)
class Case:
    model: JiT
    config: dict[str, Any]
    golden: dict[str, Tensor]

    @property
    def cascade(self) -> Cascade:
        return Cascade(image_size=self.config["input_size"], num_stages=1, max_timestep=self.model.max_timestep)

    @property
    def layer(self) -> int:
        return int(self.golden["forward.feature_layer"])


@cache
def load(folder: Path) -> Case:
    config = json.loads((folder / "model_config.json").read_text())
    model = JiT(
        image_size=config["input_size"],
        patch_size=config["patch_size"],
        width=config["hidden_size"],
        depth=config["depth"],
        num_heads=config["num_heads"],
        num_classes=config["num_classes"],
        in_channels=config["in_channels"],
        mlp_ratio=config["mlp_ratio"],
        bottleneck_dim=config["bottleneck_dim"] if config["use_bottleneck"] else None,
        in_context_len=config["in_context_len"],
        in_context_start=config["in_context_start"],
    )
    model.load_state_dict(read_lightning_weights(folder / "lightning.ckpt"))
    return Case(model.eval(), config, load_file(folder / "golden.safetensors"))


# --- forward -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def forward_results(case: Case) -> dict[str, Tensor]:
    g = case.golden
    output = case.model(g["forward.x"], g["forward.t"], Condition(g["forward.class_labels"]), features=(case.layer,))
    return {"forward.x_pred": output.output, "forward.features": output.features[case.layer]}


def test_forward(folder: Path) -> None:
    assert_all_close(forward_results(load(folder)), load(folder).golden, TOLERANCE)


def test_the_position_table_is_the_released_one(folder: Path) -> None:
    case = load(folder)
    table = case.model.pos_embed.clone()
    assert_close(fresh_model(case).pos_embed, table, TOLERANCE)


def fresh_model(case: Case) -> JiT:
    """A fresh model of the case's sizes: its table is made, not loaded."""
    c = case.config
    return JiT(
        image_size=c["input_size"], patch_size=c["patch_size"], width=c["hidden_size"], depth=c["depth"],
        num_heads=c["num_heads"], num_classes=c["num_classes"], in_context_len=0,
    )  # fmt: skip


def test_the_average_is_chosen_not_the_network(folder: Path) -> None:
    case = load(folder)
    plain = read_lightning_weights(folder / "lightning.ckpt", "model")
    average = read_lightning_weights(folder / "lightning.ckpt")
    assert set(plain) == set(average)
    case.model.load_state_dict(plain)
    try:
        with pytest.raises(AssertionError):
            assert_all_close(forward_results(case), case.golden, LOOSE_TOLERANCE)
    finally:
        case.model.load_state_dict(average)


# --- losses ------------------------------------------------------------------------------------------------------


class ProjectedPatches:
    """The case's stand-in for DINOv2: tanh(patches @ projection), of images in [0, 1]."""

    def __init__(self, case: Case) -> None:
        self.projection, self.patch_size = case.golden["loss.encoder_projection"], case.model.patch_size
        self.num_features, self.calls = self.projection.shape[1], 0

    def missing(self, folder: Path) -> list[str]:
        return []

    def load(self, folder: Path, device: Any, *, bf16: bool = False) -> None: ...

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(patchify(x / 2 + 0.5, self.patch_size) @ self.projection)


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    """The case's stand-in for LPIPS."""
    return (a - b).square().flatten(1).mean(dim=1)


def objective_of(case: Case, encoder: ProjectedPatches) -> Objective:
    """With the released weights of the terms, gates and projection of the case."""
    projection = {k.removeprefix("loss.repa_proj.0."): v for k, v in case.golden.items() if "repa_proj" in k}
    objective = Objective(
        terms={
            "fm": FlowMatching(),
            "cos": Repa(encoder="stand-in", layer=case.layer, hidden=projection["0.weight"].shape[0], weight=0.5),
            "lpips": Lpips(distance=mean_square, weight=0.1, min_t=0.3),
            "dino_percept": PDino(encoder="stand-in", weight=0.01, min_t=0.3, gating="as_released"),
        },
        encoders={"stand-in": encoder},
    )
    objective.prepare(width=case.model.width, assets=Path(), device="cpu")
    repa = objective.terms["cos"]
    assert isinstance(repa, Repa)
    repa.projection.load_state_dict(projection)
    return objective


def loss_results(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The values of the losses; the norm of the backbone's gradient."""
    g = case.golden
    uniform = torch.special.ndtr(g["loss.z_t"].double())
    tau = LogitNormalTimesteps()(uniform)
    images, labels = g["loss.images"], Condition(g["loss.class_labels"])
    index = torch.arange(len(images))
    sample = case.cascade.flow_sample(images, stage=0, tau=tau, noise=g["loss.noise"], index=index)
    output = case.model(sample.x_t, sample.timestep, labels, features=(case.layer,))
    predicted = Predicted(output.output, sample, XPrediction(), output.features)
    encoder = ProjectedPatches(case)
    value = objective_of(case, encoder)([predicted], Batch(images, labels, index))
    # Once on the clean images, and once on the predicted ones unless the gate lets none through.
    assert encoder.calls == 1 + bool((tau >= 0.3).any())
    case.model.zero_grad()
    value.loss.backward()
    norm = torch.stack([p.grad.norm() for p in case.model.parameters() if p.grad is not None]).norm()
    zero = torch.zeros(())  # a term without an image is left out; the reference has 0
    values = {f"loss.value.{name}_loss": value.terms.get(name, zero) for name in value.weights}
    return values | {"loss.value.loss": value.loss.detach(), "loss.t": tau.float()}, {"loss.grad_norm_total": norm}


def test_losses(folder: Path) -> None:
    values, _ = loss_results(load(folder))
    assert_all_close(values, load(folder).golden, TOLERANCE)


def test_gradient_norm(folder: Path) -> None:
    _, gradient = loss_results(load(folder))
    assert_all_close(gradient, load(folder).golden, LOOSE_TOLERANCE)


def test_the_paper_s_gate_gives_another_value(folder: Path) -> None:
    """So that the agreement above says something about `as_released`."""
    case = load(folder)
    objective = objective_of(case, ProjectedPatches(case))
    g = case.golden
    if (g["loss.t"] >= 0.3).all() or not (g["loss.t"] >= 0.3).any():
        pytest.skip("the case has no images on both sides of the gate")
    gate = PDino(encoder="stand-in", min_t=0.3).gate(g["loss.t"], g["loss.t"])
    released = objective.terms["dino_percept"].gate(g["loss.t"], g["loss.t"])
    assert torch.equal(gate, g["loss.t"] >= 0.3) and released.all()


# --- sampling ----------------------------------------------------------------------------------------------------


class Recorder:
    """A backbone that remembers the state at the last evaluation of each time: where a step began."""

    def __init__(self, model: JiT, batch: int) -> None:
        self.model, self.batch, self.states = model, batch, {}

    def __call__(self, x_t: Tensor, timestep: Tensor, condition: Condition) -> Any:
        self.states[timestep[0].item()] = x_t[: self.batch]
        return self.model(x_t, timestep, condition)


@cache
def sampling_results(folder: Path, name: str) -> dict[str, Tensor]:
    """The solver's final state and the states at all times of its grid."""
    case, g = load(folder), load(folder).golden
    shift = g.get(f"{name}.timeshift", g["sample.timeshift"]).item()
    low, high = g["sample.guidance_interval"].tolist()
    recorder = Recorder(case.model, len(g["sample.noise"]))
    steps = int(g["sample.num_steps"])
    sampler = Sampler(
        backbone=recorder,  # type: ignore[arg-type]
        cascade=case.cascade,
        prediction=XPrediction(),
        solver=SOLVERS[name](num_steps=steps, num_stages=1, grid="uniform", shift=shift),
        guidance=IntervalGuidance(scale=g["sample.guidance"].item(), low=low, high=high),
        conditioning=ClassLabel(num_classes=case.model.num_classes),
        channels=case.model.in_channels,
    )
    samples = sampler.sample(Condition(g["sample.class_labels"]), lambda stage: g["sample.noise"])
    states = [state for _, state in sorted(recorder.states.items())]
    return {f"{name}.final": samples.x, f"{name}.trajectory": torch.stack([*states, samples.x])}


def tolerance(name: str) -> float:
    return TOLERANCE if name == "euler" else LOOSE_TOLERANCE


@pytest.mark.parametrize("name", SOLVERS)
def test_sampling(folder: Path, name: str) -> None:
    assert_all_close(sampling_results(folder, name), load(folder).golden, tolerance(name))


# --- the tests themselves ----------------------------------------------------------------------------------------


def test_one_changed_number_fails(folder: Path) -> None:
    golden = load(folder).golden
    values, gradient = loss_results(load(folder))
    exact = forward_results(load(folder)) | values | gradient
    for name in SOLVERS:
        exact |= sampling_results(folder, name)
    for position, name in enumerate(exact):
        changed = golden | {name: with_one_number_changed(golden[name], position=position)}
        with pytest.raises(AssertionError, match=re.escape(name)):
            assert_all_close(exact, changed, LOOSE_TOLERANCE)


def test_one_changed_input_fails(folder: Path) -> None:
    case = load(folder)
    changed = replace(case, golden=case.golden | {"loss.noise": with_one_number_changed(case.golden["loss.noise"])})
    with pytest.raises(AssertionError, match=r"loss\.value"):
        assert_all_close(loss_results(changed)[0], case.golden, 1e-7)


def test_every_tensor_of_the_case_is_used(folder: Path) -> None:
    case = load(folder)
    inputs = re.compile(
        r"forward\.(x|t|class_labels|feature_layer)|loss\.(images|class_labels|z_t|noise|encoder_projection|repa_proj.*)"
        r"|sample\..*|adams\d\.timeshift"
    )
    values, gradient = loss_results(case)
    solved = {f"{name}.{part}" for name in SOLVERS for part in ("final", "trajectory")}
    compared = {*forward_results(case), *values, *gradient, *solved}
    assert {name for name in case.golden if not inputs.fullmatch(name)} <= compared
