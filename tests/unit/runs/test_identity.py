from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelflow.runs.identity import (
    file_name,
    CALL_SECTIONS,
    EVALUATION_SECTIONS,
    TRAINING_SECTIONS,
    config_hash,
    evaluation_config,
    evaluation_hash,
    own_evaluation,
    sampled_step,
    sampling_hash,
    slug,
    training_config,
    training_overrides,
)
from pixelflow.training.checkpoint import CheckpointStore
from tests.conf.test_compose import composed

CONFIG = {
    "experiment": "a",
    "seed": 0,
    "runs_dir": "runs",
    "data": {"image_size": 16, "root": "/here", "reference_images": 100},
    "trainer": {"max_steps": 10, "device": "cpu", "log_every": 5, "precision": "fp32"},
    "solver": {"num_steps": 10},
    "guidance": {"scale": 2.0},
    "sampler": {"num_samples": 100, "weights": "ema", "batch_size": 10, "format": "npz"},
    "metrics": {"also": []},
    "tracking": {"uri": None},
}


def changed(**sections: object) -> dict:
    """CONFIG with other values in its sections."""
    merged = dict(CONFIG)
    for name, value in sections.items():
        old = merged.get(name)
        merged[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


HASHES = {"weights": config_hash, "evaluation": evaluation_hash}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"experiment": "b"}, set()),
        ({"runs_of": "b"}, set()),
        ({"sampler": {"step": 5}}, set()),  # the name of the file holds it
        ({"runs_dir": "/x"}, set()),
        ({"tracking": {"uri": "http://x"}}, set()),
        ({"trainer": {"log_every": 1, "device": "cuda"}}, set()),
        ({"data": {"root": "/there"}}, set()),
        ({"sampler": {"batch_size": 1, "format": "png"}}, set()),
        ({"seed": 1}, {"weights"}),
        ({"trainer": {"max_steps": 11}}, {"weights"}),
        ({"data": {"image_size": 32}}, {"weights"}),
        ({"a_section_of_a_users_package": {"depth": 1}}, {"weights"}),
        ({"init_from": "checkpoint"}, {"weights"}),
        ({"solver": {"num_steps": 11}}, {"evaluation"}),
        ({"guidance": {"scale": 3.0}}, {"evaluation"}),
        ({"sampler": {"num_samples": 50}}, {"evaluation"}),
        ({"sampler": {"weights": "model"}}, {"evaluation"}),
        ({"metrics": {"also": ["kid"]}}, {"evaluation"}),
        ({"data": {"reference_images": 50}}, {"evaluation"}),
        ({"trainer": {"precision": "bf16"}}, {"weights", "evaluation"}),
    ],
)
def test_a_change_belongs_to_the_weights_to_an_evaluation_to_both_or_to_neither(change: dict, what: set[str]) -> None:
    found = {name for name, digest in HASHES.items() if digest(changed(**change)) != digest(CONFIG)}
    assert found == what


def test_the_order_of_keys_is_no_difference() -> None:
    reverse = dict(reversed(list(CONFIG.items())))
    assert config_hash(reverse) == config_hash(CONFIG) and evaluation_hash(reverse) == evaluation_hash(CONFIG)


def test_the_two_parts_of_a_config() -> None:
    assert training_config(CONFIG) == {
        "seed": 0, "data": {"image_size": 16}, "trainer": {"max_steps": 10, "precision": "fp32"},
    }  # fmt: skip
    assert evaluation_config(CONFIG) == {
        "solver": {"num_steps": 10}, "guidance": {"scale": 2.0}, "sampler": {"num_samples": 100, "weights": "ema"},
        "metrics": {"also": []}, "data": {"reference_images": 100}, "trainer": {"precision": "fp32"},
    }  # fmt: skip


def test_images_are_the_same_whatever_is_measured_on_them_but_lie_apart_for_each_format() -> None:
    assert sampling_hash(changed(metrics={"also": ["kid"]})) == sampling_hash(CONFIG)
    assert sampling_hash(changed(sampler={"format": "png"})) != sampling_hash(CONFIG)
    assert sampling_hash(changed(guidance={"scale": 3.0})) != sampling_hash(CONFIG)


def test_every_section_of_the_config_has_a_declared_role() -> None:
    declared = [*TRAINING_SECTIONS, *EVALUATION_SECTIONS, *CALL_SECTIONS]
    assert len(set(declared)) == len(declared)
    assert set(composed()) <= set(declared)


def test_hashes_are_stable_across_versions() -> None:
    """A changed rule would make every finished run look unfinished."""
    assert config_hash(CONFIG) == "5bc324b8"
    assert evaluation_hash(CONFIG) == "145de2d4"


def test_the_pipelines_evaluation_is_named_after_its_last_checkpoint(tmp_path: Path) -> None:
    checkpoint = CheckpointStore(tmp_path).path(10).name
    assert own_evaluation(CONFIG) == f"evaluation/{checkpoint}-{evaluation_hash(CONFIG)}.json"


def test_the_evaluation_of_an_intermediate_step_is_named_after_its_checkpoint() -> None:
    early = changed(sampler={"step": 5})
    assert (sampled_step(CONFIG), sampled_step(changed(sampler={"step": None})), sampled_step(early)) == (10, 10, 5)
    assert own_evaluation(early) == f"evaluation/step_00000005-{evaluation_hash(CONFIG)}.json"
    assert "step" not in evaluation_config(early)["sampler"]


def test_slug() -> None:
    assert slug([]) == "default"
    assert slug(["experiments=x", "job=train", "tracking=none", "trainer.device=cpu"]) == "default"
    assert slug(["cascade.num_stages=2", "+seed=1"]) == "num_stages-2_seed-1"
    assert slug(["experiments/digits_pixelgen@_global_=jit_x", "seed=1"]) == "digits_pixelgen-jit_x_seed-1"
    assert slug(["solver.num_steps=[1, 2]", "guidance=none"]) == "num_steps-1-2_guidance-none"
    assert slug(["cascade.num_stages=2", "seed=1", "optimizer.lr=1e-4"]) == "num_stages-2_seed-1_lr-1e-4"


def test_the_name_of_a_run_keeps_whole_words_and_the_seed() -> None:
    text = slug([*(f"a.key{i}=value" for i in range(50)), "seed=12"])
    assert len(text) <= 60 and text.endswith("_seed-12")
    assert text.removesuffix("_seed-12").split("_") == [f"key{i}-value" for i in range(4)]
    assert slug([f"a.key={'x' * 100}"]) == "changed" and slug([f"a.key={'x' * 100}", "seed=1"]) == "seed-1"


def test_a_run_folder_is_not_named_after_settings_of_its_evaluations() -> None:
    overrides = ["seed=1", "guidance=none", "+solver.num_steps=3", "metrics=imagenet", "data.reference_images=5"]
    assert training_overrides(overrides) == ["seed=1"]


NAMES = st.text(max_size=300) | st.sampled_from(
    ["..", ".", "", "-rf", "~", "a/b", "a\\b", "CON", "NUL.txt", "a\n", "\x1b[2J", "é", "e\u0301", "Step", "x" * 300, "a.", "\udcff"]
)


@given(first=NAMES, second=NAMES)
def test_any_name_is_a_safe_part_of_a_file_name(first: str, second: str) -> None:
    safe = file_name(first)
    assert safe.isascii() and len(safe) <= 110
    assert all(letter.isalnum() or letter in "._-" for letter in safe)
    assert safe[0] not in "-." and safe[-1] not in "-."
    # Two names remain two, also where a file system ignores their case.
    assert first == second or safe.lower() != file_name(second).lower()


def test_the_names_of_checkpoints_stay_as_they_are() -> None:
    assert file_name("step_00002000") == "step_00002000"


@given(overrides=st.lists(st.text(max_size=80), max_size=4))
def test_any_override_gives_a_safe_slug(overrides: list[str]) -> None:
    name = slug(overrides)
    assert name.isascii() and 0 < len(name) <= 60
    assert all(letter.isalnum() or letter in "._-" for letter in name)
    assert name[0] not in "-."
