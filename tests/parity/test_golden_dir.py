"""Tests `pytest --golden-dir` on made-up cases: a missing part is skipped, and a changed number fails.

One run over a folder of changed copies of the stored cases serves all tests of this file.
"""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from pixelflow.types import Condition
from tests.comparison import with_one_number_changed
from tests.forked import call
from tests.golden_cases import DEFAULT
from tests.tiny import tiny_pixelflow

ROOT = Path(__file__).parents[2]
Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def without(pattern: str) -> Change:
    return lambda golden: {name: value for name, value in golden.items() if not re.match(pattern, name)}


def renamed(old: str, new: str) -> Change:
    return lambda golden: {re.sub(rf"^{old}\.", f"{new}.", name): value for name, value in golden.items()}


def only(pattern: str) -> Change:
    return lambda golden: {name: value for name, value in golden.items() if re.match(pattern, name)}


def changed(*names: str) -> Change:
    return lambda golden: golden | {name: with_one_number_changed(golden[name]) for name in names}


def all_below_the_gate(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gate excludes all images; the case holds no losses, because they would be different."""
    held = without(r"loss\.(value|grad_norm|z_t)")(golden)
    return held | {"loss.t": torch.full_like(golden["loss.t"], 0.1)}


NO_DOPRI5 = without("dopri5")
CHANGES: dict[str, Change] = {
    "pixelflow_c2i_without_euler": lambda golden: NO_DOPRI5(without("euler")(golden)),
    "pixelflow_c2i_other_solver": lambda golden: NO_DOPRI5(renamed("euler", "leapfrog")(golden)),
    "pixelflow_c2i_without_training": lambda golden: NO_DOPRI5(without("train|forward.1")(golden)),
    "pixelflow_c2i_wrong": lambda golden: NO_DOPRI5(
        changed("forward.0.output", "train.loss", "train.grad_norm.proj_out_2.weight", "euler.final_state")(golden)
    ),
    "pixelgen_c2i_without_adams": without(r"adams|heun\.trajectory"),
    "pixelgen_c2i_other_solver": renamed("adams2", "leapfrog"),
    "pixelgen_c2i_without_repa": without(r"loss\.repa_proj|loss\.value\.cos|forward\.feature"),
    "pixelgen_c2i_without_the_value_of_a_term": without(r"loss\.value\.lpips"),
    "pixelgen_c2i_without_both_sides_of_the_gate": all_below_the_gate,
    "pixelgen_c2i_only_forward": only("forward"),
    "pixelgen_c2i_wrong": changed("forward.features", "loss.value.cos_loss", "loss.grad_norm_total", "heun.final"),
}


def copy_changed(folder: Path, name: str, change: Change) -> None:
    source = next(DEFAULT.glob(f"{name[:13] if name.startswith('pixelflow') else name[:12]}_*"))
    shutil.copytree(source, folder / name)
    save_file(change(load_file(source / "golden.safetensors")), folder / name / "golden.safetensors")


def other_sizes(folder: Path) -> None:
    """A case of two stages of another patch size, number of heads and channels, without biases: forward passes."""
    sizes = {"patch_size": 2, "depth": 1, "num_heads": 3, "head_dim": 8, "num_classes": 7, "in_channels": 2}
    model = tiny_pixelflow(attention_bias=False, **sizes)
    generator, golden = torch.Generator().manual_seed(0), {}
    for stage, side in enumerate((4, 8)):
        x = torch.randn(2, 2, side, side, generator=generator)
        timestep, labels = torch.tensor([10.0, 300.0]), torch.tensor([1, 7])
        with torch.no_grad():
            output = model(x, timestep, Condition(labels)).output
        parts = {"x": x, "timestep": timestep, "class_labels": labels, "output": output}
        golden |= {f"forward.{stage}.{name}": value for name, value in parts.items()}
    case = folder / "pixelflow_c2i_other_sizes"
    case.mkdir()
    params = {
        "patch_size": 2, "depth": 1, "num_attention_heads": 3, "attention_head_dim": 8, "num_classes": 7,
        "in_channels": 2, "attention_bias": False,
    }  # fmt: skip
    config = {"model": {"params": params}, "scheduler": {"num_stages": 2, "num_train_timesteps": 1000}}
    (case / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(model.state_dict(), case / "model.pt")
    save_file(golden, case / "golden.safetensors")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """For each test of one run over all changed cases: passed, skipped or failed, and the message."""
    folder = tmp_path_factory.mktemp("golden")
    for name, change in CHANGES.items():
        copy_changed(folder, name, change)
    other_sizes(folder)
    schedule = json.loads((DEFAULT / "pixelflow_schedule.json").read_text())
    partial = {"2": {name: value for name, value in schedule["2"].items() if name != "inference"}}
    (folder / "pixelflow_schedule.json").write_text(json.dumps(partial))
    shutil.copy(DEFAULT / "adm_metrics.safetensors", folder)
    numbers = json.loads((DEFAULT / "adm_metrics.json").read_text())
    numbers = {name: value for name, value in numbers.items() if name != "recall"} | {"sfid": numbers["sfid"] * 1.01}
    (folder / "adm_metrics.json").write_text(json.dumps(numbers))
    (folder / "pixelflow_t2i_s3").mkdir()
    (folder / "pixelgen_t2i").mkdir()
    (folder / "geneval_scoring.json").write_text("[]")
    report = folder / "report.xml"
    arguments = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/parity"]
    arguments += ["--golden-dir", str(folder), "--deselect", "tests/parity/test_golden_dir.py"]
    arguments += ["-k", "not one_changed and not stored", "--junitxml", str(report)]
    done = call("pytest", *arguments, cwd=ROOT)
    assert done.returncode == 1, done.stdout + done.stderr
    results = {}
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next((child for child in case if child.tag in ("skipped", "failure", "error")), None)
        outcome = "passed" if problem is None else problem.tag
        message = "" if problem is None else problem.get("message", "")
        results[case.get("name", "")] = (outcome, message)
    return results


@pytest.mark.parametrize(
    ("test", "part"),
    [
        ("test_sampling[pixelflow_c2i_without_euler-euler]", "the sampler euler"),
        ("test_sampling[pixelflow_c2i_without_euler-dopri5]", "the sampler dopri5"),
        ("test_uint8_images[pixelflow_c2i_without_euler-euler]", "the images of the sampler euler"),
        ("test_sampling[pixelflow_c2i_other_solver-leapfrog]", "the sampler leapfrog, which this package does not"),
        ("test_what_the_case_holds_beyond_the_comparison[pixelflow_c2i_other_solver]", r"leapfrog\.cfg"),
        ("test_training_batch[pixelflow_c2i_without_training-loss]", "a training batch"),
        ("test_gradients[pixelflow_c2i_without_training]", "a training batch"),
        ("test_forward[pixelflow_c2i_without_training-1]", "a forward pass of stage 1"),
        ("test_training_batch[pixelflow_c2i_other_sizes-output]", "a training batch"),
        ("test_sampling[pixelgen_c2i_without_adams-adams2-final]", "the final of the solver adams2"),
        ("test_sampling[pixelgen_c2i_without_adams-heun-trajectory]", "the trajectory of the solver heun"),
        ("test_sampling[pixelgen_c2i_other_solver-leapfrog-final]", "the solver leapfrog, which this package does not"),
        ("test_features[pixelgen_c2i_without_repa]", "features"),
        ("test_losses[pixelgen_c2i_without_repa-value.cos_loss]", "cos_loss"),
        ("test_losses[pixelgen_c2i_without_repa-value.loss]", "the inputs of the loss term cos"),
        ("test_gradient_norm[pixelgen_c2i_without_repa]", "the inputs of the loss term cos"),
        ("test_losses[pixelgen_c2i_without_the_value_of_a_term-value.lpips_loss]", "lpips_loss"),
        ("test_the_paper_s_gate_gives_another_value[pixelgen_c2i_without_both_sides_of_the_gate]", "a gate with"),
        ("test_sampling[pixelgen_c2i_only_forward-euler-final]", "the final of the solver euler"),
        ("test_losses[pixelgen_c2i_only_forward-value.fm_loss]", "fm_loss"),
        ("test_schedule[pixelflow_schedule-S2-inference]", "inference of 2 stages"),
        ("test_precision_and_recall[adm_metrics-recall-256]", "recall"),
        ("test_parity[pixelflow_t2i_s3]", "not implemented"),
        ("test_parity[pixelgen_t2i]", "not implemented"),
        ("test_parity[geneval_scoring]", "not implemented"),
    ],
)
def test_a_missing_part_is_skipped_by_name(outcomes: dict[str, tuple[str, str]], test: str, part: str) -> None:
    outcome, message = outcomes[test]
    assert outcome == "skipped" and re.search(part, message)
    case = next((name for name in CHANGES if name in test), "")
    assert case in message


def test_changed_numbers_fail_and_nothing_else_does(outcomes: dict[str, tuple[str, str]]) -> None:
    failed = {name for name, (outcome, _) in outcomes.items() if outcome in ("failure", "error")}
    assert failed == {
        "test_forward[pixelflow_c2i_wrong-0]",
        "test_forward_of_all_stages_in_one_pack[pixelflow_c2i_wrong]",
        "test_training_batch[pixelflow_c2i_wrong-loss]",
        "test_gradients[pixelflow_c2i_wrong]",
        "test_sampling[pixelflow_c2i_wrong-euler]",
        "test_features[pixelgen_c2i_wrong]",
        "test_losses[pixelgen_c2i_wrong-value.cos_loss]",
        "test_gradient_norm[pixelgen_c2i_wrong]",
        "test_sampling[pixelgen_c2i_wrong-heun-final]",
        "test_sfid[adm_metrics]",
    }


@pytest.mark.parametrize(
    "test",
    [
        "test_forward[pixelflow_c2i_without_euler-3]",
        "test_sampling[pixelflow_c2i_other_solver-euler_shift3]",
        "test_sampling[pixelflow_c2i_without_training-euler]",
        "test_forward[pixelflow_c2i_other_sizes-1]",
        "test_forward_of_all_stages_in_one_pack[pixelflow_c2i_other_sizes]",
        "test_sampling[pixelgen_c2i_without_adams-heun-final]",
        "test_losses[pixelgen_c2i_without_repa-value.dino_percept_loss]",
        "test_losses[pixelgen_c2i_without_the_value_of_a_term-value.loss]",
        "test_gradient_norm[pixelgen_c2i_without_the_value_of_a_term]",
        "test_forward[pixelgen_c2i_only_forward]",
        "test_schedule[pixelflow_schedule-S2-start_t]",
        "test_fid[adm_metrics]",
    ],
)
def test_what_a_case_holds_is_compared(outcomes: dict[str, tuple[str, str]], test: str) -> None:
    assert outcomes[test][0] == "passed"
