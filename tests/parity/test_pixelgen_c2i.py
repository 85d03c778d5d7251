"""Compares the class-conditional PixelGen with the reference implementation: forward, features, losses, sampling.

The case defines its own stand-ins for the encoder (DINOv2) and the perceptual distance (LPIPS).
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
from tests.golden_cases import compare, golden_cases, load_golden, need, stored_cases, tensor_names

PATTERN = "pixelgen_c2i_*"
TOLERANCE = 1e-5
LOOSE_TOLERANCE = 1e-4
"""For Heun, Adams-Bashforth and gradients."""

SOLVERS: dict[str, Callable[..., Any]] = {
    "euler": Euler,
    "heun": Heun,
    **{f"adams{order}": partial(AdamsBashforth, order=order) for order in range(1, 5)},
}
"""The solvers of this package by the name that the tensors of a case bear."""
EXPECTED_SOLVERS = ("euler", "heun", "adams1", "adams2", "adams3")
"""The solvers that a case is expected to hold; a case may hold others as well."""
TERMS = {"fm": 1.0, "cos": 0.5, "lpips": 0.1, "dino_percept": 0.01}
"""The released weights of the loss terms, by the name that the tensors of a case bear."""
LOSS_INPUTS = tuple(f"loss.{name}" for name in ("images", "class_labels", "z_t", "noise"))
PROJECTION = tuple(f"loss.repa_proj.0.{layer}.{part}" for layer in (0, 2, 4) for part in ("weight", "bias"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "stored" in metafunc.fixturenames:
        cases = stored_cases(PATTERN)
        metafunc.parametrize("stored", cases, ids=[case.name for case in cases])
        return
    cases = golden_cases(metafunc.config, PATTERN)
    if "name" in metafunc.fixturenames:
        values = [(case, name) for case in cases for name in solvers_of(case)]
        metafunc.parametrize(("folder", "name"), values, ids=[f"{case.name}-{name}" for case, name in values])
    else:
        metafunc.parametrize("folder", cases, ids=[case.name for case in cases])


def solvers_of(folder: Path) -> list[str]:
    """The expected solvers, and whatever else the case holds."""
    held = {name.split(".")[0] for name in tensor_names(folder)} - {"forward", "loss", "sample"}
    return [*EXPECTED_SOLVERS, *sorted(held.difference(EXPECTED_SOLVERS))]


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    model: JiT
    config: dict[str, Any]
    golden: dict[str, Tensor]

    @property
    def cascade(self) -> Cascade:
        return Cascade(image_size=self.config["input_size"], num_stages=1, max_timestep=self.model.max_timestep)

    @property
    def layers(self) -> tuple[int, ...]:
        """The block whose input tokens the case holds or aligns, if it names one."""
        layer = self.golden.get("forward.feature_layer")
        return () if layer is None else (int(layer),)

    @property
    def terms(self) -> list[str]:
        """The loss terms whose inputs the case holds."""
        encoder = "loss.encoder_projection" in self.golden
        projection = encoder and bool(self.layers) and all(name in self.golden for name in PROJECTION)
        held = {"fm": True, "cos": projection, "lpips": True, "dino_percept": encoder}
        return [name for name in TERMS if held[name]]


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
    return Case(folder.name, model.eval(), config, load_golden(folder))


# --- forward -----------------------------------------------------------------------------------------------------


FORWARD_INPUTS = ("forward.x", "forward.t", "forward.class_labels")


@torch.no_grad()
def forward_results(case: Case) -> dict[str, Tensor]:
    x, t, labels = (case.golden[name] for name in FORWARD_INPUTS)
    output = case.model(x, t, Condition(labels), features=case.layers)
    results = {"forward.x_pred": output.output}
    if case.layers:
        results["forward.features"] = output.features[case.layers[0]]
    return results


def test_forward(folder: Path) -> None:
    case, part = load(folder), "a forward pass"
    need(case.name, case.golden, FORWARD_INPUTS, part)
    actual = {"forward.x_pred": forward_results(case)["forward.x_pred"]}
    compare(case.name, actual, case.golden, TOLERANCE, part)


def test_features(folder: Path) -> None:
    case, part = load(folder), "features of a forward pass"
    need(case.name, case.golden, [*FORWARD_INPUTS, "forward.feature_layer"], part)
    actual = {"forward.features": forward_results(case)["forward.features"]}
    compare(case.name, actual, case.golden, TOLERANCE, part)


def test_the_position_table_is_the_released_one(folder: Path) -> None:
    case = load(folder)
    table = case.model.pos_embed.clone()
    assert_close(fresh_model(case).pos_embed, table, TOLERANCE)


def fresh_model(case: Case) -> JiT:
    """Returns a fresh model of the case's sizes, whose table is computed and not loaded."""
    c = case.config
    return JiT(
        image_size=c["input_size"], patch_size=c["patch_size"], width=c["hidden_size"], depth=c["depth"],
        num_heads=c["num_heads"], num_classes=c["num_classes"], in_context_len=0,
        in_channels=c["in_channels"],
    )  # fmt: skip


def test_the_average_is_chosen_not_the_network(folder: Path) -> None:
    case = load(folder)
    need(case.name, case.golden, [*FORWARD_INPUTS, "forward.x_pred"], "a forward pass")
    average = read_lightning_weights(folder / "lightning.ckpt")
    try:
        plain = read_lightning_weights(folder / "lightning.ckpt", "model")
    except ValueError as error:
        pytest.skip(f"{case.name} does not hold the weights of the network itself: {error}")
    assert set(plain) == set(average)
    if all(torch.equal(plain[name], average[name]) for name in plain):
        pytest.skip(f"{case.name} holds an average that is equal to the network")
    case.model.load_state_dict(plain)
    try:
        with pytest.raises(AssertionError, match=r"forward\.x_pred"):
            assert_all_close({"forward.x_pred": forward_results(case)["forward.x_pred"]}, case.golden, LOOSE_TOLERANCE)
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


def objective_of(case: Case, encoder: ProjectedPatches | None) -> Objective:
    """The terms whose inputs the case holds, with the released weights and gates and the projection of the case."""
    terms: dict[str, Any] = {"fm": FlowMatching(), "lpips": Lpips(distance=mean_square, weight=0.1, min_t=0.3)}
    if "dino_percept" in case.terms:
        terms["dino_percept"] = PDino(encoder="stand-in", weight=0.01, min_t=0.3, gating="as_released")
    if "cos" in case.terms:
        hidden = case.golden[PROJECTION[0]].shape[0]
        terms["cos"] = Repa(encoder="stand-in", layer=case.layers[0], hidden=hidden, weight=0.5)
    ordered = {name: terms[name] for name in case.terms}
    objective = Objective(terms=ordered, encoders={} if encoder is None else {"stand-in": encoder})
    objective.prepare(width=case.model.width, assets=Path(), device="cpu")
    repa = objective.terms.get("cos")
    if isinstance(repa, Repa):
        prefix = "loss.repa_proj.0."
        weights = {name.removeprefix(prefix): case.golden[name] for name in PROJECTION}
        repa.projection.load_state_dict(weights)
    return objective


def loss_results(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the values of the losses, and the norm of the backbone's gradient."""
    images, class_labels, z_t, noise = (case.golden[name] for name in LOSS_INPUTS)
    tau = LogitNormalTimesteps()(torch.special.ndtr(z_t.double()), torch.zeros(()), torch.ones(()))
    index = torch.arange(len(images))
    sample = case.cascade.flow_sample(images, stage=0, tau=tau, noise=noise, index=index)
    labels = Condition(class_labels)
    output = case.model(sample.x_t, sample.timestep, labels, features=case.layers)
    predicted = Predicted(output.output, sample, XPrediction(), output.features)
    encoder = ProjectedPatches(case) if "loss.encoder_projection" in case.golden else None
    value = objective_of(case, encoder)([predicted], Batch(images, labels, index))
    if encoder is not None:
        # Once on the clean images, and once on the predicted ones unless no image passes the gate.
        passing = bool((tau >= 0.3).any())
        assert encoder.calls == ("cos" in case.terms or passing) + passing
    case.model.zero_grad()
    value.loss.backward()
    norm = torch.stack([p.grad.norm() for p in case.model.parameters() if p.grad is not None]).norm()
    zero = torch.zeros(())  # a term without an image is left out; the reference has 0
    values = {f"loss.value.{name}_loss": value.terms.get(name, zero) for name in value.weights}
    return values | {"loss.value.loss": value.loss.detach(), "loss.t": tau.float()}, {"loss.grad_norm_total": norm}


def need_every_term(case: Case) -> None:
    """Skips the test of a sum over all terms if the inputs of one are missing."""
    if missing := [name for name in TERMS if name not in case.terms]:
        pytest.skip(f"{case.name} does not hold the inputs of the loss term {', '.join(missing)}")


@pytest.mark.parametrize("quantity", ["t", *(f"value.{name}_loss" for name in TERMS), "value.loss"])
def test_losses(folder: Path, quantity: str) -> None:
    case, name, part = load(folder), f"loss.{quantity}", f"the loss quantity {quantity}"
    need(case.name, case.golden, [*LOSS_INPUTS, name], part)
    if quantity == "value.loss":
        need_every_term(case)
    values, _ = loss_results(case)
    need(case.name, values, [name], f"the inputs of {part}")
    assert_close(values[name], case.golden[name], TOLERANCE, name)


def test_gradient_norm(folder: Path) -> None:
    case = load(folder)
    need(case.name, case.golden, [*LOSS_INPUTS, "loss.grad_norm_total"], "the gradient of the losses")
    need_every_term(case)
    _, gradient = loss_results(case)
    assert_all_close(gradient, case.golden, LOOSE_TOLERANCE)


def test_the_paper_s_gate_gives_another_value(folder: Path) -> None:
    """The agreement of the losses says something about `as_released` only where the two gates differ."""
    case, part = load(folder), "a gate with images on both sides"
    need(case.name, case.golden, ["loss.t", "loss.encoder_projection"], part)
    t = case.golden["loss.t"]
    if (t >= 0.3).all() or not (t >= 0.3).any():
        pytest.skip(f"{case.name} does not hold {part}")
    gate = PDino(encoder="stand-in", min_t=0.3).gate(t, t)
    released = objective_of(case, ProjectedPatches(case)).terms["dino_percept"].gate(t, t)
    assert torch.equal(gate, t >= 0.3) and released.all()


# --- sampling ----------------------------------------------------------------------------------------------------


SAMPLE_INPUTS = tuple(
    f"sample.{name}" for name in ("noise", "class_labels", "guidance_interval", "num_steps", "guidance")
)


class Recorder:
    """Records the state at the last evaluation of each time, which is the state where a step begins."""

    def __init__(self, model: JiT, batch: int) -> None:
        self.model, self.batch, self.states = model, batch, {}

    def __call__(self, x_t: Tensor, timestep: Tensor, condition: Condition) -> Any:
        self.states[timestep[0].item()] = x_t[: self.batch]
        return self.model(x_t, timestep, condition)


@cache
def sampling_results(folder: Path, name: str) -> dict[str, Tensor]:
    """Returns the final state of the solver and the states at all times of its grid."""
    case, g = load(folder), load(folder).golden
    shift = g[f"{name}.timeshift" if f"{name}.timeshift" in g else "sample.timeshift"].item()
    low, high = g["sample.guidance_interval"].tolist()
    recorder = Recorder(case.model, len(g["sample.noise"]))
    sampler = Sampler(
        backbone=recorder,  # type: ignore[arg-type]
        cascade=case.cascade,
        prediction=XPrediction(),
        solver=SOLVERS[name](num_steps=int(g["sample.num_steps"]), num_stages=1, grid="uniform", shift=shift),
        # The release leaves the upper end of the interval out with Adams-Bashforth.
        guidance=IntervalGuidance(
            scale=g["sample.guidance"].item(), low=low, high=high, include_high=not name.startswith("adams")
        ),
        conditioning=ClassLabel(num_classes=case.model.num_classes),
        channels=case.model.in_channels,
    )
    samples = sampler.sample(Condition(g["sample.class_labels"]), lambda stage: g["sample.noise"])
    states = [state for _, state in sorted(recorder.states.items())]
    return {f"{name}.final": samples.x, f"{name}.trajectory": torch.stack([*states, samples.x])}


@pytest.mark.parametrize("result", ["final", "trajectory"])
def test_sampling(folder: Path, name: str, result: str) -> None:
    case, part = load(folder), f"the {result} of the solver {name}"
    need(case.name, case.golden, [f"{name}.{result}", *SAMPLE_INPUTS], part)
    if name not in SOLVERS:
        pytest.skip(f"{case.name} holds the solver {name}, which this package does not have")
    if f"{name}.timeshift" not in case.golden:
        need(case.name, case.golden, ["sample.timeshift"], part)
    actual = {f"{name}.{result}": sampling_results(folder, name)[f"{name}.{result}"]}
    assert_all_close(actual, case.golden, TOLERANCE if name == "euler" else LOOSE_TOLERANCE)


def test_what_the_case_holds_beyond_the_comparison(folder: Path) -> None:
    """Every tensor is compared or is an input; the names of others are reported as skipped."""
    known = re.compile(
        r"forward\.(x|t|class_labels|feature_layer|x_pred|features)"
        r"|loss\.(images|class_labels|z_t|t|noise|encoder_projection|repa_proj\.0\.\d\.(weight|bias)|grad_norm_total)"
        rf"|loss\.value\.(({'|'.join(TERMS)})_)?loss"
        rf"|sample\.(noise|class_labels|guidance|guidance_interval|num_steps|timeshift)"
        rf"|({'|'.join(SOLVERS)})\.(timeshift|final|trajectory)"
    )
    if others := [name for name in load(folder).golden if not known.fullmatch(name)]:
        pytest.skip(f"{folder.name} holds {len(others)} tensors that are not compared: {', '.join(others[:5])}")


# --- the tests themselves ----------------------------------------------------------------------------------------


def test_one_changed_number_fails(stored: Path) -> None:
    golden = load(stored).golden
    values, gradient = loss_results(load(stored))
    exact = forward_results(load(stored)) | values | gradient
    for name in EXPECTED_SOLVERS:
        exact |= sampling_results(stored, name)
    for position, name in enumerate(exact):
        changed = golden | {name: with_one_number_changed(golden[name], position=position)}
        with pytest.raises(AssertionError, match=re.escape(name)):
            assert_all_close(exact, changed, LOOSE_TOLERANCE)


def test_one_changed_input_fails(stored: Path) -> None:
    case = load(stored)
    changed = replace(case, golden=case.golden | {"loss.noise": with_one_number_changed(case.golden["loss.noise"])})
    with pytest.raises(AssertionError, match=r"loss\.value"):
        assert_all_close(loss_results(changed)[0], case.golden, 1e-7)
