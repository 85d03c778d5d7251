"""One rule for the paths that `checkpoint=`, `init_from=` and `pixelflow.load` take."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import pixelflow
from pixelflow.errors import UserError
from pixelflow.model import Model
from pixelflow.runs.identity import config_hash
from pixelflow.training.locate import checkpoints_at, find_checkpoint
from pixelflow.training.reader import CheckpointError
from tests.conf.test_compose import composed

SMALL = {"depth": 1, "num_heads": 1, "head_dim": 8}


@pytest.fixture(scope="module")
def model() -> Model:
    return pixelflow.build(image_size=16, num_stages=2, num_classes=10, channels=1, **SMALL)


@pytest.fixture
def run(model: Model, tmp_path: Path) -> Path:
    for step in (2, 10):
        model.save(tmp_path / "run" / "checkpoints" / f"step_{step:08d}")
    return tmp_path / "run"


def test_all_forms_of_a_path(run: Path) -> None:
    newest, older = (run / "checkpoints" / f"step_{step:08d}" for step in (10, 2))
    for path in (run, f"{run}/", run / "checkpoints"):
        assert checkpoints_at(path) == [newest, older]
    for path in (newest, newest / "state.json", newest / "ema.safetensors", f"{newest}/"):
        assert checkpoints_at(path) == [newest]


def test_the_newest_that_can_be_read(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = run / "checkpoints" / "step_00000010"
    assert find_checkpoint(run).path == newest
    (newest / "state.json").write_text("{")
    assert find_checkpoint(run).path.name == "step_00000002"
    assert "skipped a checkpoint" in caplog.text
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read"):
        find_checkpoint(newest)


def test_a_path_without_a_checkpoint_says_what_lies_there(run: Path) -> None:
    looked = "looked for a run folder, a checkpoint folder such as RUN/checkpoints/step_00002000, or a file in one"
    (run / "log.txt").touch()
    for path, message in {
        run / "x" / "y": f"{run / 'x' / 'y'} does not exist; {looked}; {run} holds checkpoints, log.txt",
        run / "log.txt": f"{run / 'log.txt'} is not a checkpoint: it has no state.json beside it; {looked}",
        run.parent: f"{run.parent} is not a checkpoint: it has no state.json, and no checkpoints/ as a run has; "
        f"{run.parent} holds run",
        "hf://a/b": f"hf://a/b is an address, and checkpoints cannot be loaded from addresses yet; {looked}",
    }.items():
        with pytest.raises(UserError) as caught:
            find_checkpoint(path)
        assert str(caught.value) == message


def test_a_command_takes_the_same_forms(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    newest = run / "checkpoints" / "step_00000010"
    for path in (run, newest / "state.json", newest):
        for name in ("run", "evaluate"):
            config = composed(*(["job=sample"] if name == "run" else []), f"checkpoint={path}", name=name)
            assert config["checkpoint"] == str(newest)
    assert f"checkpoint={newest}: step 0" in caplog.text, "as the state says; this model was never trained"
    with pytest.raises(UserError, match=r"^checkpoint=nowhere does not exist; looked for a run folder"):
        composed("job=sample", "checkpoint=nowhere")


def test_a_run_starts_from_the_newest_checkpoint_of_another(run: Path) -> None:
    """The record names the checkpoint, so that it is part of the identity."""
    small = [f"backbone.{key}={value}" for key, value in SMALL.items()]
    newest = run / "checkpoints" / "step_00000010"
    configs = [composed(*small, f"init_from={path}") for path in (run, newest, newest / "ema.safetensors")]
    assert {config["init_from"] for config in configs} == {str(newest)}
    assert len({config_hash(config) for config in configs}) == 1
    with pytest.raises(UserError, match=rf"^init_from={run.parent} is not a checkpoint: .* holds run"):
        composed(*small, f"init_from={run.parent}")


def test_load_says_what_it_found(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pixelflow.load(run / "checkpoints" / "step_00000002" / "state.json", device="cpu")
    assert f"loaded {run / 'checkpoints' / 'step_00000002'}, step 0" in caplog.text
