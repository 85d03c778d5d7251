"""`--help` and the shell's completion list what the command accepts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pixelflow.cli import prepare_hydra
from pixelflow.conf_dir import conf_folder, option_files
from pixelflow.config.help_text import LAUNCHERS, SWEEPERS, WIDTH
from pixelflow.jobs import find_job, job_names

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def text() -> str:
    prepare_hydra()
    return str(OmegaConf.load(conf_folder() / "run.yaml").hydra.help.template)


def test_every_job_is_listed_by_its_declaration(text: str) -> None:
    for name in job_names():
        assert f"\n  {name:20} {find_job(name).help}\n" in text


@pytest.mark.parametrize("group", ["launcher", "sweeper"])
def test_every_launcher_and_sweeper_is_listed(group: str, text: str) -> None:
    names = {name.removesuffix(".yaml") for name in ConfigStore.instance().list(f"hydra/{group}")}
    names |= set(option_files(f"hydra/{group}"))
    listed = {"launcher": LAUNCHERS, "sweeper": SWEEPERS}[group]
    for name in names - {"sampler"}:  # the samplers of optuna are a group of their own
        assert name in listed or any(line.endswith(f"its short name is {name}") for line in listed.values())
    assert all(f"\n  {name:20} {line}\n" in text for name, line in listed.items())


def test_recipes_and_options_are_listed_in_lines_of_a_terminal(text: str) -> None:
    words = set(text.replace(",", " ").split())
    assert {path.stem for path in (ROOT / "experiments").glob("*.yaml")} | set(option_files("solver")) <= words
    assert max(map(len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("job=sam", ["job=sample"]),
        ("experiments=table3_m", ["experiments=table3_mini"]),
        ("hydra/launcher=submitit_s", ["hydra/launcher=submitit_slurm"]),
        ("trainer.max_s", ["trainer.max_steps="]),
    ],
)
def test_completion(
    typed: str, offered: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"python run.py {typed}"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    prepare_hydra()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        BashCompletion(GlobalHydra.instance().config_loader()).query("run")
    assert capsys.readouterr().out.split() == offered


@pytest.mark.slow
def test_completion_in_bash() -> None:
    """The documented command, and then what Tab calls."""
    script = f"""
    PATH={Path(sys.executable).parent}:$PATH
    eval "$(python run.py -sc install=bash)"
    complete -p python
    COMP_LINE="python run.py job=sam" COMP_POINT=21 COMP_CWORD=2
    hydra_bash_completion
    echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split("\n")[-2] == "job=sample", done.stderr
