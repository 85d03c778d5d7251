from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pixelflow.benchmarks import sampler_quality
from pixelflow.config.build import build_model
from pixelflow.jobs import quality
from pixelflow.training.checkpoint import CheckpointStore
from tests.conf.test_compose import composed

TINY = [
    "backbone.depth=4",
    "backbone.num_heads=2",
    "sampler.num_samples=20",
    "solver.num_steps=2",
    "guidance.scale=1.5",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights that do something."""
    config = composed(*TINY)
    model = build_model(config).backbone
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.eq(0).all():
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    store = CheckpointStore(tmp_path_factory.mktemp("run") / "checkpoints")
    return store.save(1, {"ema": model.state_dict(), "model": model.state_dict()}, {"config": config})


def test_settings_side_by_side(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_quality, "FINE_STEPS", 40)
    settings = (
        "[{solver: euler, num_steps: 3}, {solver: euler, num_steps: 12}, {solver: faster}, "
        "{solver: euler, num_steps: 12, cache_every: 2}]"
    )
    arguments = ["job=quality", f"checkpoint={checkpoint}", f"job.output={tmp_path}", f"job.settings={settings}"]
    quality.JOB.start(composed(*arguments), arguments)
    rows = json.loads((tmp_path / "quality.json").read_text())["settings"]
    by_label = {row["label"]: row for row in rows}
    coarse, fine = by_label["euler num_steps=3"], by_label["euler num_steps=12"]
    assert coarse["error"] > 2 * fine["error"] > 0
    assert coarse["forward_passes"] == 9 and fine["forward_passes"] == 36
    assert by_label["euler num_steps=12 cache_every=2"]["error"] != fine["error"]
    assert by_label["faster"]["forward_passes"] == 6 + 2 * 4
    assert all(row["fd"] > 0 for row in rows)
    text = (tmp_path / "quality.md").read_text()
    assert str(tmp_path) not in text and str(checkpoint) not in text
    assert "The distances are of one seed: 20 images do not show which setting has the smaller one." in text
    assert "| faster |" in text and "| faster |" in capsys.readouterr().out
    assert (tmp_path / "quality.png").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("{solver: nope}", "needs a solver, one of adams_bashforth, bosh3"),
        ("{solver: euler, steps: 3}", "solver.steps is not an option"),
        ("{solver: dopri5, cache_every: 2}", "sampler.cache_every=2 needs a solver with fixed steps"),
        ("{solver: dopri5, num_steps: 3}", "solver.num_steps is not an option"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(
    setting: str, message: str, checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ["job=quality", f"checkpoint={checkpoint}", f"job.output={tmp_path}", f"job.settings=[{setting}]"]
    with pytest.raises(ValueError, match=message):
        quality.JOB.start(composed(*arguments), arguments)
    assert not list(tmp_path.iterdir())


def test_the_search_composes(checkpoint: Path) -> None:
    config = composed("experiments=inference_search", f"checkpoint={checkpoint}", "solver=fast", "solver.last_steps=3")
    assert config["job"]["name"] == "evaluate"
    assert config["solver"]["last_steps"] == 3 and config["backbone"]["depth"] == 4
