"""The class-conditional PixelFlow against the reference implementation: forward, training batch, sampling.

The reference packs a training batch from the finest stage to the coarsest, we pack the coarsest first, so results
are reversed by stage before they are compared.
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
from safetensors.torch import load_file
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
from tests.golden_cases import golden_cases

TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
ADAPTIVE_TOLERANCE = 3e-2
"""Adaptive steps amplify rounding."""
NEGLIGIBLE_GRADIENT = 1e-4
"""Share of the total norm below which a parameter's gradient is a small difference of large terms."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folders = golden_cases(metafunc.config, "pixelflow_c2i_*")
    metafunc.parametrize("folder", folders, ids=[folder.name for folder in folders])


@dataclass(frozen=True, eq=False)
class Case:
    model: PixelFlow
    cascade: Cascade
    golden: dict[str, Tensor]

    def part(self, *prefixes: str) -> dict[str, Tensor]:
        return {name: value for name, value in self.golden.items() if name.startswith(prefixes)}


@cache
def load(folder: Path) -> Case:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    golden = load_file(folder / "golden.safetensors")
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
        image_size=golden["train.images"].shape[-1],
        num_stages=scheduler["num_stages"],
        num_train_timesteps=scheduler["num_train_timesteps"],
    )
    return Case(model, cascade, golden)


# --- forward -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def forward_results(case: Case, stage: int) -> dict[str, Tensor]:
    g, name = case.golden, f"forward.{stage}"
    x = g[f"{name}.x"]
    height, width = (side // case.model.patch_size for side in x.shape[-2:])
    return {
        f"{name}.rope_cos_sin": case.model.rope(height, width, x.device),
        f"{name}.output": case.model(x, g[f"{name}.timestep"], Condition(g[f"{name}.class_labels"])).output,
    }


def forward_stages(case: Case) -> list[int]:
    return sorted(int(name.split(".")[1]) for name in case.golden if re.fullmatch(r"forward\.\d+\.x", name))


@cache
def all_forward_results(folder: Path) -> dict[str, Tensor]:
    case = load(folder)
    return {name: value for s in forward_stages(case) for name, value in forward_results(case, s).items()}


def test_forward(folder: Path) -> None:
    assert_all_close(all_forward_results(folder), load(folder).golden, TOLERANCE)


@torch.no_grad()
def test_forward_of_all_stages_in_one_pack(folder: Path) -> None:
    case = load(folder)
    names = [f"forward.{stage}" for stage in forward_stages(case)]
    timestep = torch.cat([case.golden[f"{name}.timestep"] for name in names])
    labels = torch.cat([case.golden[f"{name}.class_labels"] for name in names])
    outputs = case.model([case.golden[f"{name}.x"] for name in names], timestep, Condition(labels)).output
    actual = {f"{name}.output": output for name, output in zip(names, outputs, strict=True)}
    assert_all_close(actual, case.golden, TOLERANCE)


# --- a packed training batch -------------------------------------------------------------------------------------


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
def training_results(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the pack holds and what comes out of it; the norms of the gradients."""
    case = load(folder)
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


def test_training_batch(folder: Path) -> None:
    values, _ = training_results(folder)
    assert_all_close(values, load(folder).golden, TOLERANCE)


def test_gradients(folder: Path) -> None:
    _, gradients = training_results(folder)
    assert set(gradients) == set(load(folder).part("train.grad_norm"))
    assert_gradients(gradients, load(folder).golden)


# --- sampling ----------------------------------------------------------------------------------------------------


def samplers(case: Case, pattern: str = r"euler\w*") -> list[str]:
    return [name.split(".")[0] for name in case.golden if re.fullmatch(rf"{pattern}\.final_state", name)]


def draw_samples(case: Case, name: str, solver: Solver) -> Samples:
    g = {key.removeprefix(f"{name}."): value for key, value in case.part(f"{name}.").items()}
    num_stages = case.cascade.num_stages
    sampler = Sampler(
        backbone=case.model,
        cascade=case.cascade,
        prediction=VelocityPrediction(),
        solver=solver,
        # The release reads its table of four by stage, whatever the number of stages.
        guidance=StageWiseGuidance(scale=g["cfg"].item(), num_stages=num_stages, weights=PAPER_WEIGHTS[:num_stages]),
        conditioning=ClassLabel(num_classes=case.model.num_classes),
        channels=case.model.in_channels,
    )
    noise = [g["init_noise"], *(g[f"renoise.stage{stage}"] for stage in range(1, num_stages))]
    return sampler.sample(Condition(g["class_labels"]), noise.__getitem__)


def as_results(name: str, samples: Samples) -> dict[str, Tensor]:
    images = (samples.x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return {f"{name}.final_state": samples.x, f"{name}.images": images}


@cache
def sampling_results(folder: Path) -> dict[str, Tensor]:
    case, results = load(folder), {}
    for name in samplers(case):
        steps, shift = case.golden[f"{name}.steps"], case.golden[f"{name}.shift"].item()
        solver = Euler(num_steps=steps.tolist(), num_stages=case.cascade.num_stages, shift=shift)
        samples = draw_samples(case, name, solver)
        assert samples.nfe == steps.sum()
        results |= as_results(name, samples)
    return results


@cache
def adaptive_results(folder: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Results, and the number of evaluations of each sampler."""
    case, results, nfe = load(folder), {}, {}
    for name in samplers(case, r"dopri5\w*"):
        samples = draw_samples(case, name, AdaptiveRungeKutta(method="dopri5"))
        results |= as_results(name, samples)
        nfe[name] = samples.nfe
    return results, nfe


def test_euler(folder: Path) -> None:
    assert_all_close(sampling_results(folder), load(folder).golden, TOLERANCE)


def test_dopri5(folder: Path) -> None:
    case = load(folder)
    if not samplers(case, r"dopri5\w*"):
        pytest.skip("the case holds no dopri5")
    results, nfe = adaptive_results(folder)
    assert_all_close(results, case.golden, ADAPTIVE_TOLERANCE)
    for name, evaluations in nfe.items():
        assert evaluations == pytest.approx(case.golden[f"{name}.nfe"].item(), rel=0.1)


def test_uint8_images(folder: Path) -> None:
    case, results = load(folder), sampling_results(folder)
    for name in samplers(case):
        images = to_uint8(results[f"{name}.final_state"]).permute(0, 2, 3, 1).float() / 255
        assert (images - case.golden[f"{name}.images"]).abs().max() <= 0.5 / 255 + TOLERANCE


# --- the tests themselves ----------------------------------------------------------------------------------------


def test_one_changed_number_fails(folder: Path) -> None:
    golden = load(folder).golden
    values, gradients = training_results(folder)
    exact = all_forward_results(folder) | values | sampling_results(folder)
    for position, name in enumerate([*exact, *gradients]):
        changed: dict[str, Any] = golden | {name: with_one_number_changed(golden[name], position=position)}
        with pytest.raises(AssertionError, match=re.escape(name)):
            assert_all_close(exact, changed, TOLERANCE)
            assert_gradients(gradients, changed)


def test_one_changed_input_fails(folder: Path) -> None:
    case = load(folder)
    changed = case.golden | {"forward.0.x": with_one_number_changed(case.golden["forward.0.x"])}
    with pytest.raises(AssertionError, match=re.escape("forward.0.output")):
        assert_all_close(forward_results(replace(case, golden=changed), 0), case.golden, TOLERANCE)


def test_every_tensor_of_the_case_is_used(folder: Path) -> None:
    case = load(folder)
    values, gradients = training_results(folder)
    inputs = re.compile(
        r"forward\.\d+\.(x|timestep|class_labels)|train\.(images|labels|stage_index|timestep_index|noise\.stage\d+)"
        r"|(euler|dopri5)\w*\.(init_noise|renoise\.stage\d+|class_labels|steps|cfg|shift|nfe)"
    )
    adaptive, _ = adaptive_results(folder)
    compared = {*all_forward_results(folder), *values, *gradients, *sampling_results(folder), *adaptive}
    assert {name for name in case.golden if not inputs.fullmatch(name)} == compared
