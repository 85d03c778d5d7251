"""Every command of the README runs, with less work; every command of the other pages composes to a config."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from pixelflow.cli import prepare_hydra
from pixelflow.config.scale import at_scale
from tests import forked
from tests.docs.commands import PAGES, ROOT, Command, commands

README = [command for command in commands(ROOT / "README.md") if command.words[0] == "python"]
COMPOSED = [command for page in PAGES for command in commands(page) if command.overrides]
MAKE = [command for page in PAGES for command in commands(page) if command.words[0] == "make"]
LESS_WORK = [
    "trainer.max_steps=2", "trainer.batch_size=8", "trainer.grid_every=0", "trainer.device=cpu", "tracking=none",
    "sampler.num_samples=20", "solver.num_steps=2",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", README, ids=str)
def test_a_command_of_the_readme_runs(command: Command, tmp_path: Path) -> None:
    assert command.words[1] == "run.py"
    arguments = [*command.words[2:], *LESS_WORK, f"runs_dir={tmp_path}"]
    done = forked.call("run.py", *arguments, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*/*/checkpoints/step_00000002"))


@pytest.mark.parametrize("command", COMPOSED, ids=str)
def test_a_command_composes(command: Command) -> None:
    name = "evaluate" if "evaluate.py" in command.words else "run"
    prepare_hydra()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose(name, [first_choice(override) for override in at_scale(command.overrides, [ROOT])])


def first_choice(override: str) -> str:
    """The first value of a sweep such as `seed=1,2`; placeholders stand for names that exist."""
    override = {"site=mine": "site=gpu_cluster", "experiments=NAME": "experiments=quickstart"}.get(override, override)
    parsed = OverridesParser.create().parse_override(override)
    if parsed.is_sweep_override():
        key, _, values = override.partition("=")
        return f"{key}={values.split(',')[0]}"
    return override


@pytest.mark.parametrize("command", MAKE, ids=str)
def test_a_make_command_is_a_target(command: Command) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert command.words[1] in targets


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900
