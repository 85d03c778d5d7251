"""Runs as they lie on disk and as they are in memory."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure

from pixelflow.reporting import figures, metric_chart
from pixelflow.reporting.runs import Run

HOSTILE = [
    "$\\frac{",
    "$x$",
    "_hidden",
    "a\nb",
    "\x1b[2J",
    "\\input{canary}",
    "x" * 100_000,
    "\udcff",
    "%",
    "",
    "-",
]
"""Names that matplotlib or LaTeX would read as formulas or commands, leave out, or draw endlessly."""

needs_latex = pytest.mark.skipif(
    shutil.which("pdflatex") is None and "PIXELFLOW_TEST_LATEX" not in os.environ,
    reason="pdflatex is not installed (Debian: texlive-latex-recommended texlive-science lmodern)",
)
"""Skips a test where LaTeX is missing, except in CI, where it must not be missing."""


def compile_latex(folder: Path, *options: str) -> str:
    """Compiles page.tex in a folder and returns what pdflatex prints."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", *options, "page.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=100)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


RECORD = {"num_samples": 50000, "reference": "held-out", "features": "inception", "nfe": 20}
CONFIG = {
    "experiment": "sweep",
    "cascade": {"_target_": "pixelflow.flow.Cascade", "kickoff": 8, "gamma": -0.25},
    "optimizer": {"lr": 1e-4, "betas": [0.9, 0.999]},
    "guidance": {"weights": None, "scale": 2.0},
    "ema": {},
}


def config(kickoff: int, seed: int) -> dict[str, Any]:
    return {**CONFIG, "seed": seed, "cascade": {**CONFIG["cascade"], "kickoff": kickoff}}


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder below tmp_path/runs; evaluation=None leaves it out."""

    def write(
        name: str,
        config: dict[str, Any],
        metrics: dict[str, float] | None = None,
        *,
        state: str = "finished",
        message: str = "",
        record: dict[str, Any] = RECORD,
    ) -> Path:
        folder = tmp_path / "runs" / "sweep" / name
        (folder / "evaluation").mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        status = {"state": state, "step": 7, "max_steps": 10, "message": message, "updated": 1.0}
        (folder / "status.json").write_text(json.dumps(status))
        if metrics is not None:
            (folder / "evaluation" / "held-out.json").write_text(json.dumps({"metrics": metrics, "record": record}))
        return folder

    return write


@pytest.fixture
def make_run() -> Callable[..., Run]:
    """A run in memory: finished, evaluated, named by its config and seed."""

    def make(config: dict[str, Any], seed: int, metrics: dict[str, float], **changes: Any) -> Run:
        name = "-".join(map(str, [*config.values(), seed]))
        fields = {"record": RECORD, "state": "finished", "folder": None, "name": name} | changes
        return Run(config={"seed": seed, **config}, seed=seed, metrics=metrics, **fields)

    return make


@pytest.fixture
def write_evaluated_run(write_run: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a run folder that the pipeline evaluated with several guidance scales: FID is 10 * scale + seed.

    config.yaml holds a scale of 1 and `guidance.low`, which the schedule of the evaluations does not have.
    """

    def write(seed: int, scales: tuple[float, ...], **status: Any) -> Path:
        folder = write_run(f"run-{seed}", {"seed": seed, "guidance": {"scale": 1.0, "low": 0.1}, "depth": 2})
        names = []
        for scale in scales:
            record = {"num_samples": 50, "settings": {"guidance": {"scale": scale}}}
            names.append(f"evaluation/step_00000007-{scale}.json")
            content = {"metrics": {"fid": 10 * scale + seed}, "record": record}
            (folder / names[-1]).write_text(json.dumps(content))
        there = json.loads((folder / "status.json").read_text())
        (folder / "status.json").write_text(json.dumps(there | {"evaluations": names} | status))
        return folder

    return write


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, for a look at what is in them."""
    seen: list[Figure] = []
    save = figures.save_figure
    for module in (figures, metric_chart):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: (seen.append(figure), save(figure, path))[1])
    return seen
