"""Compares the class-conditional PixelFlow with the reference implementation: forward, training batch, sampling.

The reference packs a training batch from the finest stage to the coarsest, and this package packs the coarsest first,
so the results are reversed by stage before they are compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from pixelflow.backbones import PixelFlow
from pixelflow.conditioning import ClassLabel
from pixelflow.flow import Cascade, StageWiseGuidance, VelocityPrediction
from pixelflow.flow.guidance import PAPER_WEIGHTS
from pixelflow.losses import FlowMatching, Objective
from pixelflow.nn.pack import Layout
from pixelflow.nn.patches import patchify
from pixelflow.sampling import Sampler, Samples, to_uint8
from pixelflow.solvers import AdaptiveRungeKutta, Euler
from pixelflow.types import Batch, Condition, FlowSample, Predicted, Solver
from tests.comparison import assert_all_close, with_one_number_changed
from tests.golden_cases import compare, golden_cases, load_golden, need, stored_cases, tensor_names

PATTERN = "pixelflow_c2i_*"
TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
ADAPTIVE_TOLERANCE = 3e-2
"""Adaptive steps amplify rounding."""
NEGLIGIBLE_GRADIENT = 1e-4
"""Share of the total norm below which a parameter's gradient is a small difference of large terms."""

SAMPLERS = ("euler", "euler_shift3", "dopri5")
"""The samplers that a case is expected to hold; a case may hold others as well."""
TRAINING_INPUTS = ("train.images", "train.labels", "train.stage_index", "train.timestep_index")
TRAINING_RESULTS = (
    "packed_input", "packed_target", "timestep", "packed_labels", "cu_seqlens", "token_grid", "output",
    "loss_per_image", "loss",
)  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "stored" in metafunc.fixturenames:
        cases = stored_cases(PATTERN)
        metafunc.parametrize("stored", cases, ids=[case.name for case in cases])
        return
    cases = golden_cases(metafunc.config, PATTERN)
    parts = {"stage": stages_of, "name": samplers_of}
    if part := next((part for part in parts if part in metafunc.fixturenames), None):
        values = [(case, value) for case in cases for value in parts[part](case)]
        ids = [f"{case.name}-{value}" for case, value in values]
        metafunc.parametrize(("folder", part), values, ids=ids)
    else:
        metafunc.parametrize("folder", cases, ids=[case.name for case in cases])


def stages_of(folder: Path) -> range:
    return range(read_config(folder)["scheduler"]["num_stages"])


def samplers_of(folder: Path) -> list[str]:
    """The expected samplers, and whatever else the case holds."""
    held = {name.split(".")[0] for name in tensor_names(folder)} - {"forward", "train"}
    return [*SAMPLERS, *sorted(held.difference(SAMPLERS))]


def read_config(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    model: PixelFlow
    cascade: Cascade
    golden: dict[str, Tensor]

    def part(self, *prefixes: str) -> dict[str, Tensor]:
        return {name: value for name, value in self.golden.items() if name.startswith(prefixes)}


def image_size(config: dict[str, Any], golden: dict[str, Tensor]) -> int:
    """The side of the largest images that the case holds, else the resolution of its config."""
    images = re.compile(rf"train\.images|\w+\.final_state|forward\.{config['scheduler']['num_stages'] - 1}\.x")
    sides = [value.shape[-1] for name, value in golden.items() if images.fullmatch(name)]
    return max(sides) if sides else config["data"]["resolution"]


@cache
def load(folder: Path) -> Case:
    config = read_config(folder)
    golden = load_golden(folder)
    params, scheduler = config["model"]["params"], config["scheduler"]
    model = PixelFlow(
        patch_size=params["patch_size"],
        depth=params["depth"],
        num_heads=params["num_attention_heads"],
        head_dim=params["attention_head_dim"],
        num_classes=params["num_classes"],
        in_channels=params["in_channels"],
        attention_bias=params["attention_bias"],
    )
    model.load_state_dict(torch.load(folder / "model.pt", map_location="cpu", weights_only=True))
    cascade = Cascade(
        image_size=image_size(config, golden),
        num_stages=scheduler["num_stages"],
        num_train_timesteps=scheduler["num_train_timesteps"],
    )
    return Case(folder.name, model, cascade, golden)


# --- forward -----------------------------------------------------------------------------------------------------


def inputs_of(stage: int) -> list[str]:
    return [f"forward.{stage}.{part}" for part in ("x", "timestep", "class_labels")]


def forward_stages(case: Case) -> list[int]:
    """The stages whose inputs the case holds."""
    return [s for s in range(case.cascade.num_stages) if all(name in case.golden for name in inputs_of(s))]


@torch.no_grad()
def forward_results(case: Case, stage: int) -> dict[str, Tensor]:
    x, timestep, labels = (case.golden[name] for name in inputs_of(stage))
    return {f"forward.{stage}.output": case.model(x, timestep, Condition(labels)).output}


def rope_results(case: Case, stage: int) -> dict[str, Tensor]:
    x = case.golden[f"forward.{stage}.x"]
    height, width = (side // case.model.patch_size for side in x.shape[-2:])
    return {f"forward.{stage}.rope_cos_sin": case.model.rope(height, width, x.device)}


def test_rope(folder: Path, stage: int) -> None:
    case, part = load(folder), f"the rotary table of stage {stage}"
    need(case.name, case.golden, inputs_of(stage)[:1], part)
    compare(case.name, rope_results(case, stage), case.golden, TOLERANCE, part)


def test_forward(folder: Path, stage: int) -> None:
    case, part = load(folder), f"a forward pass of stage {stage}"
    need(case.name, case.golden, inputs_of(stage), part)
    compare(case.name, forward_results(case, stage), case.golden, TOLERANCE, part)


@torch.no_grad()
def test_forward_of_all_stages_in_one_pack(folder: Path) -> None:
    case = load(folder)
    stages = forward_stages(case)
    if not stages:
        pytest.skip(f"{case.name} does not hold a forward pass of any stage")
    inputs = [[case.golden[name] for name in inputs_of(stage)] for stage in stages]
    x, timestep, labels = zip(*inputs, strict=True)
    outputs = case.model(list(x), torch.cat(timestep), Condition(torch.cat(labels))).output
    actual = {f"forward.{stage}.output": output for stage, output in zip(stages, outputs, strict=True)}
    compare(case.name, actual, case.golden, TOLERANCE, "the output of a forward pass")


# --- a packed training batch -------------------------------------------------------------------------------------


def need_training(case: Case) -> None:
    """Skips the test if the case does not hold a training batch with its noise."""
    need(case.name, case.golden, TRAINING_INPUTS, "a training batch")
    stages = sorted(set(case.golden["train.stage_index"].tolist()))
    need(case.name, case.golden, [f"train.noise.stage{stage}" for stage in stages], "the noise of a training batch")


def draw(case: Case) -> list[FlowSample]:
    """The golden batch with its golden noise, finest stage first."""
    images, stages = case.golden["train.images"], case.golden["train.stage_index"]
    tau = case.golden["train.timestep_index"].double() / case.cascade.num_train_timesteps
    samples = []
    for stage in reversed(range(case.cascade.num_stages)):
        index = (stages == stage).nonzero()[:, 0]
        if len(index):
            noise = case.golden[f"train.noise.stage{stage}"]
            sample = case.cascade.flow_sample(images[index], stage=stage, tau=tau[index], noise=noise, index=index)
            samples.append(sample)
    return samples


@cache
def training_results(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the contents and the results of the pack, and the norms of the gradients."""
    finest_first = draw(case)
    order = torch.cat([sample.index for sample in finest_first])
    batch = Batch(case.golden["train.images"], Condition(case.golden["train.labels"]), torch.arange(len(order)))

    samples = finest_first[::-1]
    ours = torch.cat([sample.index for sample in samples])
    timestep = torch.cat([sample.timestep for sample in samples])
    raws = case.model([sample.x_t for sample in samples], timestep, batch.condition[ours]).output
    predicted = [Predicted(raw, sample, VelocityPrediction()) for raw, sample in zip(raws, samples, strict=True)]
    loss = Objective(terms={"flow_matching": FlowMatching()})(predicted, batch).loss
    case.model.zero_grad()
    loss.backward()

    def pack(images: list[Tensor]) -> Tensor:
        return torch.cat([patchify(x, case.model.patch_size).flatten(0, 1) for x in images])

    layout = Layout.of([sample.x_t for sample in finest_first], case.model.patch_size)
    lengths = torch.tensor([group.length for group in layout for _ in range(group.num_images)])
    per_image = [FlowMatching()(p.sample, p, batch[p.sample.index]) for p in reversed(predicted)]
    values = {
        "packed_input": pack([sample.x_t for sample in finest_first]),
        "packed_target": pack([sample.velocity for sample in finest_first]),
        "timestep": torch.cat([sample.timestep for sample in finest_first]),
        "packed_labels": batch.condition[order].class_label,
        "cu_seqlens": torch.cat([torch.zeros(1), lengths.cumsum(0)]),
        "token_grid": torch.tensor([group.width for group in layout for _ in range(group.num_images)]),
        "output": pack([p.raw for p in reversed(predicted)]),
        "loss_per_image": torch.cat(per_image),
        "loss": loss,
    }
    norms = {name: p.grad.norm() for name, p in case.model.named_parameters() if p.grad is not None}
    norms["total"] = torch.stack(list(norms.values())).norm()
    gradients = {f"train.grad_norm{'_' if name == 'total' else '.'}{name}": norm for name, norm in norms.items()}
    return {f"train.{name}": value.detach() for name, value in values.items()}, gradients


def assert_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    total = expected["train.grad_norm_total"].item()
    for name, norm in actual.items():
        scale = max(expected[name].item(), NEGLIGIBLE_GRADIENT * total)
        error = abs(norm.item() - expected[name].item()) / scale
        assert error <= GRADIENT_TOLERANCE, f"{name}: error {error:.3g}"


def held_gradients(case: Case) -> dict[str, Tensor]:
    _, gradients = training_results(case)
    return {name: norm for name, norm in gradients.items() if name in case.golden}


@pytest.mark.parametrize("quantity", TRAINING_RESULTS)
def test_training_batch(folder: Path, quantity: str) -> None:
    case, name = load(folder), f"train.{quantity}"
    need_training(case)
    values, _ = training_results(case)
    compare(case.name, {name: values[name]}, case.golden, TOLERANCE, f"{quantity} of a training batch")


def test_gradients(folder: Path) -> None:
    case = load(folder)
    need_training(case)
    _, gradients = training_results(case)
    if not held_gradients(case):
        pytest.skip(f"{case.name} does not hold the gradients of a training batch")
    assert_gradients(held_gradients(case), gradients | case.golden)
    need(case.name, case.golden, gradients, "the gradients of all parameters (those that it holds agree)")


# --- sampling ----------------------------------------------------------------------------------------------------


def noise_names(case: Case, name: str) -> list[str]:
    return [f"{name}.init_noise", *(f"{name}.renoise.stage{stage}" for stage in range(1, case.cascade.num_stages))]


def solver_of(case: Case, name: str) -> Solver | None:
    """The solver by the name that the tensors bear; None for one that this package does not have."""
    if re.fullmatch(r"euler(_\w+)?", name):
        num_stages = case.cascade.num_stages
        steps = case.golden[f"{name}.steps"].expand(num_stages).tolist()
        shift = case.golden.get(f"{name}.shift", torch.ones(())).item()
        return Euler(num_steps=steps, num_stages=num_stages, shift=shift)
    return AdaptiveRungeKutta(method="dopri5") if re.fullmatch(r"dopri5(_\w+)?", name) else None


def draw_samples(case: Case, name: str, solver: Solver) -> Samples:
    num_stages = case.cascade.num_stages
    # The release reads its table of four by stage, whatever the number of stages.
    guidance = StageWiseGuidance(
        scale=case.golden[f"{name}.cfg"].item(), num_stages=num_stages, weights=PAPER_WEIGHTS[:num_stages]
    )
    sampler = Sampler(
        backbone=case.model,
        cascade=case.cascade,
        prediction=VelocityPrediction(),
        solver=solver,
        guidance=guidance,
        conditioning=ClassLabel(num_classes=case.model.num_classes),
        channels=case.model.in_channels,
    )
    noise = [case.golden[key] for key in noise_names(case, name)]
    return sampler.sample(Condition(case.golden[f"{name}.class_labels"]), noise.__getitem__)


@cache
def sampled(folder: Path, name: str) -> Samples:
    """The samples of one sampler; skips the test if the case does not hold its inputs, or its solver is unknown."""
    case, part = load(folder), f"the sampler {name}"
    if not case.part(f"{name}."):
        pytest.skip(f"{case.name} does not hold {part}")
    steps = [f"{name}.steps"] if name.startswith("euler") else []
    need(case.name, case.golden, [*noise_names(case, name), f"{name}.class_labels", f"{name}.cfg", *steps], part)
    if case.cascade.num_stages > len(PAPER_WEIGHTS):
        pytest.skip(f"{case.name} has {case.cascade.num_stages} stages; the release's guidance table has four")
    solver = solver_of(case, name)
    if solver is None:
        pytest.skip(f"{case.name} holds {part}, which this package does not have")
    return draw_samples(case, name, solver)


def sampling_results(folder: Path, name: str) -> dict[str, Tensor]:
    samples = sampled(folder, name)
    images = (samples.x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return {f"{name}.final_state": samples.x, f"{name}.images": images}


def sampling_tolerance(name: str) -> float:
    return ADAPTIVE_TOLERANCE if name.startswith("dopri5") else TOLERANCE


def test_sampling(folder: Path, name: str) -> None:
    case, results = load(folder), sampling_results(folder, name)
    compare(case.name, results, case.golden, sampling_tolerance(name), f"images of the sampler {name}")


def test_number_of_evaluations(folder: Path, name: str) -> None:
    case, samples = load(folder), sampled(folder, name)
    if name.startswith("dopri5"):
        need(case.name, case.golden, [f"{name}.nfe"], f"the number of evaluations of {name}")
        assert samples.nfe == pytest.approx(case.golden[f"{name}.nfe"].item(), rel=0.1)
    else:
        assert samples.nfe == case.golden[f"{name}.steps"].expand(case.cascade.num_stages).sum()


def test_uint8_images(folder: Path, name: str) -> None:
    case = load(folder)
    need(case.name, case.golden, [f"{name}.final_state", f"{name}.images"], f"the images of the sampler {name}")
    images = to_uint8(case.golden[f"{name}.final_state"]).permute(0, 2, 3, 1).float() / 255
    assert (images - case.golden[f"{name}.images"]).abs().max() <= 0.5 / 255 + TOLERANCE


def test_what_the_case_holds_beyond_the_comparison(folder: Path) -> None:
    """Every tensor is compared or is an input; the names of others are reported as skipped."""
    known = re.compile(
        r"forward\.\d+\.(x|timestep|class_labels|rope_cos_sin|output)"
        r"|train\.(images|labels|stage_index|timestep_index|noise\.stage\d+|grad_norm.*)"
        rf"|train\.({'|'.join(TRAINING_RESULTS)})"
        r"|(euler|dopri5)(_\w+)?\.(init_noise|renoise\.stage\d+|class_labels|steps|cfg|shift|nfe|final_state|images)"
    )
    if others := [name for name in load(folder).golden if not known.fullmatch(name)]:
        pytest.skip(f"{folder.name} holds {len(others)} tensors that are not compared: {', '.join(others[:5])}")


# --- the tests themselves ----------------------------------------------------------------------------------------


def test_one_changed_number_fails(stored: Path) -> None:
    case = load(stored)
    values, gradients = training_results(case)
    exact = dict(values)
    for stage in forward_stages(case):
        exact |= forward_results(case, stage) | rope_results(case, stage)
    for name in ("euler", "euler_shift3"):
        exact |= sampling_results(stored, name)
    for position, name in enumerate([*exact, *gradients]):
        changed = case.golden | {name: with_one_number_changed(case.golden[name], position=position)}
        with pytest.raises(AssertionError, match=re.escape(name)):
            assert_all_close(exact, changed, TOLERANCE)
            assert_gradients(gradients, changed)


def test_one_changed_input_fails(stored: Path) -> None:
    case = load(stored)
    changed = case.golden | {"forward.0.x": with_one_number_changed(case.golden["forward.0.x"])}
    with pytest.raises(AssertionError, match=re.escape("forward.0.output")):
        assert_all_close(forward_results(replace(case, golden=changed), 0), case.golden, TOLERANCE)


def test_every_gradient_of_the_stored_case_is_compared(stored: Path) -> None:
    case = load(stored)
    assert set(held_gradients(case)) == set(case.part("train.grad_norm")) == set(training_results(case)[1])
