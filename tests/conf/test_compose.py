"""Every option of every group composes, passes validation, and instantiates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from pixelflow.jobs.resolve import resolve
from pixelflow.jobs.validate import GROUPS

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in (ROOT / "conf").glob("*/*.yaml")  # conf/experiments is a link to experiments/
    if path.parent.name not in ("job", "loss")
)
JOBS = sorted(path.stem for path in (ROOT / "conf" / "job").glob("*.yaml"))


def composed(*overrides: str, name: str = "run") -> dict:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return resolve(compose(name, overrides=list(overrides)), list(overrides))


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: value)
def test_option(group: str, option: str) -> None:
    config = composed(f"{group}={option}")
    with torch.device("meta"):
        for name in GROUPS:
            assert instantiate(config[name]) is not None


@pytest.mark.parametrize("job", JOBS)
def test_job(job: str, tmp_path: Path) -> None:
    given = {"evaluate": [f"samples={tmp_path}"], "prepare": [f"job.output={tmp_path}/shards"]}.get(job, [])
    if job == "sample":
        with pytest.raises(ValueError, match="job=sample needs checkpoint=PATH"):
            composed(f"job={job}")
    else:
        assert composed(f"job={job}", *given)["job"]["name"] == job
    assert (ROOT / "pixelflow" / "jobs" / f"{job}.py").exists()


def test_every_loss_is_an_option_of_the_objective() -> None:
    for path in (ROOT / "conf" / "loss").glob("*.yaml"):
        config = composed(f"+loss@objective.terms.another={path.stem}")
        assert config["objective"]["terms"]["another"]["_target_"].startswith("pixelflow.losses.")


def test_evaluate_is_run_with_another_job(tmp_path: Path) -> None:
    ours = composed(f"samples={tmp_path}", name="evaluate")
    theirs = composed(f"samples={tmp_path}", "job=evaluate")
    assert ours == theirs


def test_sizes_come_from_one_place() -> None:
    config = composed("data.image_size=32", "data.channels=3")
    assert config["cascade"]["image_size"] == 32
    assert config["backbone"]["in_channels"] == 3


def test_kickoff_sets_the_number_of_stages() -> None:
    for kickoff, stages in ((4, 3), (8, 2), (16, 1)):
        config = composed("cascade=kickoff", f"cascade.kickoff={kickoff}", "backbone.patch_size=2",
                          "experiments=digits_kickoff")  # fmt: skip
        assert instantiate(config["cascade"]).num_stages == stages
