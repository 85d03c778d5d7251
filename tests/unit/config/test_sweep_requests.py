from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from pixelflow.cli import prepare_hydra
from pixelflow.conf_dir import conf_folder
from pixelflow.config import sweep_requests, validate
from pixelflow.config.sweep_requests import RunRequests
from pixelflow.errors import UserError
from pixelflow.jobs import find_job


@pytest.fixture(scope="module")
def base() -> DictConfig:
    prepare_hydra()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose("run", ["site=virtual", "tracking=none"])


def request(requests: RunRequests, base: DictConfig, number: int, **values: Any) -> None:
    config = base.copy()
    config.optimizer.lr, config.seed = values.get("lr", 1e-3), values.get("seed", 0)
    config.backbone.depth = values.get("depth", 1)
    requests.make(number, config, [f"{key}={value}" for key, value in values.items()])


def test_what_runs_share_is_checked_once(base: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer of every run is constructed; networks are built once for each backbone, not for each run."""
    monkeypatch.chdir(tmp_path)
    counts: dict[str, int] = {}

    def counted(module: Any, name: str) -> None:
        work = getattr(module, name)

        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return work(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    for name in ("check_optimizer", "check_shapes", "check_terms", "build_on_meta", "check_start"):
        counted(validate, name)
    for name in ("check_data", "require_assets"):
        counted(sweep_requests, name)
    requests = RunRequests("slurm", find_job)
    for number in range(12):
        request(requests, base, number, depth=1 + number // 6, lr=1e-3 * (1 + number // 2), seed=number % 2)
    assert counts == {
        "check_optimizer": 6, "check_shapes": 2, "check_terms": 1, "build_on_meta": 2, "check_start": 2,
        "check_data": 1, "require_assets": 1,
    }  # fmt: skip


def test_a_run_is_refused_although_others_were_accepted(
    base: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    requests = RunRequests("slurm", find_job)
    request(requests, base, 0)
    for values, message in (
        ({"lr": -1.0}, r"optimizer\.lr=-1\.0"),
        ({"depth": 0}, r"backbone\.depth=0"),
        ({"seed": "x"}, "seed='x'|seed=x"),
        ({"seed": True}, "seed=True"),
    ):
        with pytest.raises(UserError, match=rf"^run 1 .*{message}"):
            request(requests, base, 1, **values)
