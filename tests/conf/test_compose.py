"""Every option of every group composes, passes validation, and instantiates."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

import pixelflow
from pixelflow.cli import prepare_hydra
from pixelflow.config.build import build_model
from pixelflow.config.resolve import resolve
from pixelflow.config.schema import build
from pixelflow.config.validate import GROUPS
from pixelflow.errors import UserError
from pixelflow.jobs import find_job, job_names
from pixelflow.parts import instantiate
from pixelflow.runs.identity import TRAINING_SECTIONS, config_hash, evaluation_hash

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in (ROOT / "conf").glob("*/*.yaml")  # conf/experiments is a link to experiments/
    if path.parent.name not in ("loss", "encoder")
)
JOBS = job_names()


FOUND = ("imagefolder", "webdataset", "huggingface")
"""Data whose sizes are found where they are not given."""
NEEDS = {
    ("data", "image_text"): ["job=data", "data.image_size=64"],  # nothing is trained on captions yet
    **{("data", kind): ["data.image_size=64", "data.num_classes=10"] for kind in FOUND},
    ("backbone", "jit_b"): ["cascade=single", "data.image_size=16"],
    ("backbone", "jit_l"): ["cascade=single"],
    ("backbone", "jit_xl"): ["cascade=single"],
    ("backbone", "jit_tiny"): ["cascade=single"],
    ("objective", "pixelgen"): ["backbone.depth=9"],
    ("experiments", "inference_search"): [f"samples={ROOT}"],  # of a checkpoint, or of samples
    ("experiments", "eval_sweep"): [f"samples={ROOT}"],
    ("experiments", "figure3_stages"): ["job=benchmark"],  # job=sample needs a checkpoint
}
"""What an option needs beside it on the digits."""


def composed(*overrides: str, name: str = "run") -> dict:
    prepare_hydra()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(name, overrides=list(overrides))
    return resolve(config, list(overrides), find_job(config.job.name))


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: value)
def test_option(group: str, option: str) -> None:
    config = composed(f"{group}={option}", *NEEDS.get((group, option), []))
    with torch.device("meta"):
        for name in GROUPS:
            assert build(config, name) is not None


@pytest.mark.parametrize("job", JOBS)
def test_job(job: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("seed: 0\n")
    given = {
        "evaluate": [f"samples={tmp_path}"],
        "prepare": [f"job.output={tmp_path}/shards"],
        "compare": [f"runs=[{tmp_path}/a,{tmp_path}/b]"],
    }.get(job, [])
    if job in ("sample", "quality"):
        with pytest.raises(ValueError, match=f"job={job} needs checkpoint=PATH"):
            composed(f"job={job}")
    else:
        assert composed(f"job={job}", *given)["job"]["name"] == job
    assert (ROOT / "pixelflow" / "jobs" / f"{job}.py").exists()


def test_every_loss_is_an_option_of_the_objective() -> None:
    for path in (ROOT / "conf" / "loss").glob("*.yaml"):
        config = composed(f"+loss@objective.terms.another={path.stem}", *DINO, *SMALL, "objective=flow_matching")
        assert config["objective"]["terms"]["another"]["_target_"].startswith("pixelflow.losses.")


DINO = ["+encoder@objective.encoders.dino=dinov2_b", "backbone.depth=9"]
SMALL = [f"+encoder@objective.encoders.{name}={name}" for name in ("digits", "shapes")]


def test_every_encoder_is_an_option_of_the_objective() -> None:
    for path in (ROOT / "conf" / "encoder").glob("*.yaml"):
        node = composed(f"+encoder@objective.encoders.another={path.stem}")["objective"]["encoders"]["another"]
        encoder = instantiate(node)
        assert encoder.num_features > 0
        assert all(str(ROOT / "nowhere") in line for line in encoder.missing(ROOT / "nowhere"))


ARMS = sorted(
    (path.parent.name, path.stem)
    for path in (ROOT / "experiments").glob("*/*.yaml")
    if path.parent.name != "results" and path.stem != "mini"
)


@pytest.mark.parametrize(("recipe", "arm"), ARMS, ids=lambda value: value)
def test_every_arm_of_a_recipe(recipe: str, arm: str) -> None:
    name = f"{recipe}/mini" if arm.startswith("mini_") else recipe
    arms = [f"experiments={name}", f"experiments/{recipe}@_global_={arm}"]
    config = composed(*arms, *NEEDS.get(("experiments", recipe), []))
    assert config["experiment"] == name.replace("/", "_") and config["arm"]


def test_the_arms_of_pixelgen_losses_add_one_loss_each() -> None:
    """flow matching; + REPA; + LPIPS; + P-DINO; + gate, of which one has no effect. No weight, no term."""
    wanted = [
        ("flow_matching", ["flow_matching"], 0.0), ("repa", ["flow_matching", "repa"], 0.0),
        ("lpips", ["flow_matching", "repa", "lpips"], 0.0),
        ("p_dino", ["flow_matching", "repa", "lpips", "p_dino"], 0.0),
        ("gate", ["flow_matching", "repa", "lpips", "p_dino"], 0.3),
        ("as_released", ["flow_matching", "repa", "lpips", "p_dino"], 0.3),
    ]  # fmt: skip
    for arm, terms, gate in wanted:
        arms = ["experiments=pixelgen_losses", f"experiments/pixelgen_losses@_global_={arm}"]
        objective = build(composed(*arms), "objective")
        assert list(objective.terms) == terms
        assert {loss.min_t for name, loss in objective.terms.items() if name in ("lpips", "p_dino")} <= {gate}
        assert set(objective.encoders) == ({"dino"} if "repa" in terms else set())
        assert (objective.adaptive is None) == ("lpips" not in terms)


def test_the_arms_of_cascade_x_change_what_their_names_say() -> None:
    """Against the arm `x`: the sections that determine the weights, in order."""
    changed = {
        "velocity": ["prediction"], "x": [], "single_x": ["cascade"], "jit_x": ["backbone"],
        "x_noise_clamp": ["cascade"], "x_clean_loss": ["objective"], "x_capped": ["objective"],
        "x_mixture": ["objective"], "x_flow_logit_normal": ["timesteps"], "x_smooth_time": ["backbone"],
        "velocity_smooth_time": ["backbone", "prediction"],
        "velocity_flow_logit_normal": ["prediction", "timesteps"],
    }  # fmt: skip
    assert set(changed) == {arm for recipe, arm in ARMS if recipe == "cascade_x"}
    configs = {arm: composed("experiments=cascade_x", f"experiments/cascade_x@_global_={arm}") for arm in changed}
    assert configs["x"]["prediction"]["_target_"].endswith("XPrediction")
    for arm, config in configs.items():
        assert config["arm"].replace(",", "").replace("-", " ").replace(" ", "_") == arm
        differing = [name for name in TRAINING_SECTIONS if config.get(name) != configs["x"].get(name)]
        assert differing == changed[arm]
        assert config["guidance"]["scale"] == 2.0 and config["guidance"]["_target_"].endswith("ConstantGuidance")


def test_every_arm_of_cascade_x_belongs_to_a_sweep() -> None:
    """The controls are compared with `velocity` and `x`, and measured beside them."""
    key = "experiments/cascade_x@_global_"
    swept = {}
    for name in ("cascade_x", "cascade_x_controls"):
        recipe = yaml.safe_load((ROOT / "experiments" / f"{name}.yaml").read_text())
        swept[name] = set(recipe["hydra"]["sweeper"]["params"][key].split(","))
    assert set.union(*swept.values()) == {arm for recipe, arm in ARMS if recipe == "cascade_x"}
    assert set.intersection(*swept.values()) == {"velocity", "x"}


def test_evaluate_is_run_with_another_job(tmp_path: Path) -> None:
    ours = composed(f"samples={tmp_path}", name="evaluate")
    theirs = composed(f"samples={tmp_path}", "job=evaluate")
    assert {**ours, "overrides": []} == {**theirs, "overrides": []}


def test_sizes_come_from_one_place() -> None:
    config = composed("data.image_size=32", "data.channels=3")
    assert config["cascade"]["image_size"] == 32
    assert config["backbone"]["in_channels"] == 3


def test_kickoff_sets_the_number_of_stages() -> None:
    for kickoff, stages in ((4, 3), (8, 2), (16, 1)):
        config = composed("cascade=kickoff", f"cascade.kickoff={kickoff}", "backbone.patch_size=2",
                          "experiments=digits_kickoff")  # fmt: skip
        assert build(config, "cascade").num_stages == stages


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A checkpoint of a model."""
    model = pixelflow.build(image_size=16, num_classes=10, channels=1, depth=1, num_stages=2)
    return model.save(tmp_path / "step_00000000")


def rewrite(folder: Path, change: Callable[[dict], None]) -> str:
    """Changes the config stored in a checkpoint, as its author could, and returns the override that names it."""
    content = json.loads((folder / "state.json").read_text())
    del content["checksum"]
    change(content["config"])
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    (folder / "state.json").write_text(
        json.dumps(content | {"checksum": hashlib.sha256(text.encode()).hexdigest()}, indent=1)
    )
    return f"checkpoint={folder}"


@pytest.mark.parametrize("key", ["backbone", "solver", "guidance", "conditioning", "cascade", "prediction"])
@pytest.mark.parametrize("target", ["evil.go", "pixelflow.files.write_text", "pixelflow.data.webdataset.os.system"])
def test_the_config_of_a_checkpoint_builds_known_parts_only(key: str, target: str, stored: Path) -> None:
    typed = rewrite(stored, lambda config: config[key].update(_target_=target))
    with pytest.raises(UserError, match=rf"{key}._target_={target} is not one of the package's own parts"):
        composed("job=sample", typed)


@pytest.mark.parametrize(
    ("key", "default"), [("cascade.clamp", "quotient"), ("backbone.max_timestep", 1000.0)], ids=lambda value: str(value)
)
def test_a_checkpoint_that_is_older_than_a_key(key: str, default: Any, stored: Path) -> None:
    """The part has the value that was built in before, and the images stay as they are."""
    section, name = key.split(".")
    images = pixelflow.load(stored, device="cpu").sample([3], num_steps=2)
    typed = rewrite(stored, lambda config: config[section].pop(name))
    model = pixelflow.load(stored, device="cpu")
    assert name not in model.recipe.config[section]
    part = getattr(model, section)
    assert getattr(part.stages[-1].path if name == "clamp" else part, name) == default
    assert np.array_equal(model.sample([3], num_steps=2), images)
    config = composed("job=sample", typed)
    assert name not in config[section]
    assert build_model(config).cascade.max_timestep == 1000.0


def test_a_run_that_is_older_than_a_key_of_its_objective() -> None:
    """Its stored config builds the loss without the limit."""
    terms = composed()["objective"]["terms"]
    assert terms["flow_matching"].pop("max_weight") is None
    assert instantiate(terms["flow_matching"]).max_weight is None


@pytest.mark.parametrize(
    "override",
    [
        "cascade.clamp=noise", "backbone.max_timestep=20", "objective.terms.flow_matching.max_weight=4",
        "timesteps=logit_normal_flow", "objective=clean_image", "objective=velocity_and_clean",
    ],
)  # fmt: skip
def test_keys_of_learning_x_determine_the_weights(override: str) -> None:
    assert config_hash(composed(override)) != config_hash(composed())


def test_the_name_of_an_arm_determines_nothing() -> None:
    named, plain = composed("arm=x capped"), composed()
    assert named["arm"] == "x capped" and plain["arm"] is None
    assert (config_hash(named), evaluation_hash(named)) == (config_hash(plain), evaluation_hash(plain))


@pytest.mark.parametrize("value", [{"_target_": "evil.go"}, [{"a": {"_target_": "evil.go"}}]])
def test_the_config_of_a_checkpoint_is_checked_at_any_depth(value: Any, stored: Path) -> None:
    typed = rewrite(stored, lambda config: config["solver"].update(grid=value))
    with pytest.raises(UserError, match=r"solver.grid.*_target_=evil.go is not one of"):
        composed("job=sample", typed)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "${data.channels}", "a ${oc.decode:x} b"])
def test_the_config_of_a_checkpoint_refers_to_nothing(text: str, stored: Path) -> None:
    typed = rewrite(stored, lambda config: config["solver"].update(grid=text))
    with pytest.raises(UserError) as caught:
        composed("job=sample", typed)
    assert str(caught.value) == f"{typed}: solver.grid={text} in its config is not plain data"


def test_a_checkpoint_does_not_extend_trust(stored: Path) -> None:
    typed = rewrite(stored, lambda config: config.update(trust=["evil"], backbone={"_target_": "evil.Net"}))
    with pytest.raises(UserError, match=r"backbone._target_=evil.Net is not one of .*trust=\['evil'\]"):
        composed("job=sample", typed)


@pytest.mark.parametrize(
    "value", ["${oc.env:HOME}", "x${oc.env:HOME,y}", "${oc.${data.name}:HOME}", "${hydra:runtime.cwd}"]
)
def test_a_config_reads_itself_alone(value: str) -> None:
    with pytest.raises(UserError, match=r"experiment=.* calls .*: a config may only refer to its own keys"):
        composed(f"experiment='{value}'")


def test_trust_counts_where_it_is_typed() -> None:
    prepare_hydra()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("run", overrides=["trust=[evil]"])
    with pytest.raises(UserError, match=r"trust=\['evil'\] is set in a file"):
        resolve(config, [], find_job("pipeline"))
    for value in ("evil", "[3]", "['a b']", "['']", "null"):
        with pytest.raises(UserError, match=r"trust=.* must be a list of modules"):
            composed(f"trust={value}")
