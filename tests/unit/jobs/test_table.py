"""job=table: several experiments in one table, the files that it writes, and its messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig

from pixelflow.errors import UserError
from pixelflow.jobs.table import JOB, TableOptions
from pixelflow.runs.identity import config_hash, evaluation_config, own_evaluation
from pixelflow.sweeps.live_table import recipe_presentation
from pixelflow.sweeps.manifest import Submission, Sweep, SweepJob
from tests.conf.test_compose import composed

RECORD = {"num_samples": 1000, "reference": "digits train", "features": "digits-cnn", "other_load": 0.0}


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a finished run folder of an experiment; the recall is that of the guidance scale."""

    def write(experiment: str, name: str, recall: float, seed: int = 0, **record: Any) -> Path:
        folder = tmp_path / "runs" / experiment / name
        (folder / "evaluation").mkdir(parents=True)
        config = {"seed": seed, "experiment": experiment, "guidance": {"scale": recall}, "trainer": {"max_steps": 5}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "status.json").write_text(json.dumps({"state": "finished", "step": 5, "max_steps": 5}))
        content = {"metrics": {"recall": recall}, "record": RECORD | record}
        (folder / "evaluation" / "step.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs job=table with overrides in tmp_path and returns the Markdown that it writes."""

    def make(*overrides: str) -> str:
        monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(sweeper={"params": None}))
        config = composed("job=table", f"runs_dir={tmp_path / 'runs'}", f"job.output={tmp_path / 'out'}", *overrides)
        JOB.start(config, ["job=table", *overrides])
        (path,) = (path for path in (tmp_path / "out").glob("*.md") if not path.name.endswith(".readme.md"))
        return path.read_text()

    return make


def measured(text: str) -> list[str]:
    return [line for line in lines_of(text)[2:] if "*paper" not in line]


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ")]


def test_several_experiments_in_one_table(write_run: Any, table: Callable[..., str], tmp_path: Path) -> None:
    for experiment, scales in (("b", (0.25, 0.5)), ("a", (0.5,))):
        for scale in scales:
            for seed in (0, 1):
                write_run(experiment, f"run-{scale}-{seed}", scale, seed)
    text = table("job.experiments=[b,a]")
    assert lines_of(text) == [
        "| experiment | scale | seeds | recall ↑ |",
        "| :-- | :-- | --: | --: |",
        "| a | 0.5 | 2 | **0.500 ± 0.000** |",
        "| b | 0.25 | 2 | 0.250 ± 0.000 |",
        "| b | 0.5 | 2 | **0.500 ± 0.000** |",
    ]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["b+a.csv", "b+a.md", "b+a.png", "b+a.tex"]


def test_a_sweep_is_an_experiment_of_its_own(write_run: Any, table: Callable[..., str], tmp_path: Path) -> None:
    """Of the runs of the experiment it has only its own."""
    folders = [write_run("a", name, recall) for name, recall in (("one", 0.25), ("two", 0.5))]
    write_run("b", "three", 0.75)
    sweep = Sweep(tmp_path / "runs" / "a" / "sweep-1", "a", "d")
    job = SweepJob("two", str(folders[1]), "pipeline", [], "2", 5)
    sweep.add(Submission("t", 1.0, "me", "here", "python run.py", "local", "", "", False), [job])
    text = table(f"job.experiments=[{sweep.folder},b]", "job.file=both")
    assert [line.split(" | ")[0] for line in lines_of(text)[2:]] == ["| a/sweep-1", "| b"]
    assert (tmp_path / "out" / "both.md").exists()
    named = table("job.experiments=[a/sweep-1,b]", "job.file=both")
    assert lines_of(named) == lines_of(text)


def test_an_unknown_experiment_is_an_error_that_lists_what_is_there(
    write_run: Any, table: Callable[..., str], tmp_path: Path
) -> None:
    write_run("digits_kickoff", "one", 0.5)
    write_run("other", "one", 0.5)
    (tmp_path / "runs" / "mlartifacts" / "1").mkdir(parents=True)
    for name in ("digits_kikoff", "..", "../runs", "a/b", "mlartifacts"):
        with pytest.raises(UserError, match=r"job.experiments: .* is neither .* there are digits_kickoff, other$"):
            table(f"job.experiments=[{name}]")


def test_the_files_for_a_paper(write_run: Any, table: Callable[..., str], tmp_path: Path) -> None:
    write_run("quickstart", "one", 0.5, arm="jit x")
    text = table("job.paper=true", "job.file=v1", "question='Which part helps? All do.'")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "v1.csv", "v1.md", "v1.paper.tex", "v1.png", "v1.readme.md", "v1.tex",
    ]  # fmt: skip
    assert text.startswith("Which part helps? All do.\n\n") and "| jit x | 1 |" in text
    assert "\\caption{Which part helps?}" in (tmp_path / "out" / "v1.paper.tex").read_text()
    assert "![Which part helps? All do.](v1.png)" in (tmp_path / "out" / "v1.readme.md").read_text()


def test_several_experiments_have_the_presentation_that_is_typed(
    write_run: Any, table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of quickstart, the default recipe, would be wrong."""
    from pixelflow.jobs import table as job

    config = composed("job=table", "question=typed") | {"chart": {"x": "seed"}, "axes": ["seed"]}
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(sweeper={"params": {"a": "1,2"}}))
    several = TableOptions(experiments=["a", "b"])
    typed = job._presentation(config, several, ["job=table", "question=typed", "job.experiments=[a,b]"])
    assert (typed.question, typed.chart, typed.axes, typed.swept) == ("typed", None, (), ())
    named = job._presentation(config, several, ["experiments=digits_kickoff"])
    assert named.chart is not None and (named.axes, named.swept) == (("seed",), ("a",))


@pytest.mark.parametrize("name", ["../x", "", "a/b", "a b"])
def test_a_file_has_a_plain_name(name: str) -> None:
    with pytest.raises(UserError, match=r"job.file=.* must be 1 to \d+ letters"):
        JOB.read({"name": "table", "file": name})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+chart.y=3"], "chart.y is not an option of a chart"),
        (["chart={x:cascde.kickoff}"], "chart.x=cascde.kickoff is no config key; did you mean cascade"),
        (["chart={x:seed,series:armm}"], "chart.series=armm is no config key; did you mean arm"),
        (["arm=' '"], "arm=' ' must be a name, or null"),
        (["paper=[{label:a}]"], r"paper\[0\] has no `source`"),
        (["chart=kickoff"], "chart"),
    ],
)
def test_a_recipe_is_checked_before_anything_starts(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        composed(*overrides)


def test_what_a_recipe_states_belongs_to_no_hash() -> None:
    from pixelflow.runs.identity import config_hash, evaluation_hash

    plain = composed()
    stated = composed("arm='jit x'", "question='Which?'", "chart={x:arm}")
    assert stated["arm"] == "jit x"
    assert (config_hash(stated), evaluation_hash(stated)) == (config_hash(plain), evaluation_hash(plain))


def test_the_arms_of_a_sweep_have_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option of a recipe's own group names its arm in its file; settings name theirs themselves."""
    group = tmp_path / "experiments" / "mine"
    group.mkdir(parents=True)
    for option, arm in (("b", "jit x"), ("a", "jit"), ("none", None)):
        (group / f"{option}.yaml").write_text("# @package _global_\n" + (f"arm: {arm}\n" if arm else "seed: 1\n"))
    (group / "empty.yaml").write_text("")
    monkeypatch.setattr("pixelflow.conf_dir.conf_folder", lambda: tmp_path)
    params: Any = {"params": {"experiments/mine@_global_": "b, none,empty,unknown,a", "seed": "0,1"}}
    shown = recipe_presentation({"settings": []}, params)
    assert shown.arms == ("jit x", "jit") and shown.swept == ("experiments/mine@_global_", "seed")
    assert recipe_presentation({"settings": [{"k": 1}]}, params, ["a.b", "seed"]).swept == (*shown.swept, "k", "a.b")
    listed: Any = {"params": None}
    assert recipe_presentation({"settings": [{"arm": "z"}, {"k": 1}, {"arm": "a"}]}, listed).arms == ("z", "a")


def recipe_run(folder: Path, overrides: list[str], **evaluated: Any) -> Path:
    """Writes a run of digits_kickoff as its sweep makes it, or with another config."""
    config = composed("experiments=digits_kickoff", *overrides)
    run = folder / "runs" / "digits_kickoff" / f"x-{config_hash(config)}"
    name = own_evaluation(config)
    (run / "evaluation").mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "provenance.json").write_text(json.dumps({"commit": "c0ffee" * 6, "diff": ""}))
    status = {"state": "finished", "job": "pipeline", "evaluations": [name]}
    (run / "status.json").write_text(json.dumps(status))
    record = RECORD | {"settings": evaluation_config(config), "arm": config["arm"]} | evaluated
    (run / name).write_text(json.dumps({"metrics": {"recall": float(config["seed"])}, "record": record}))
    return run


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the recipe's nine settings stand for all of them, since composing takes half a second each."""
    settings = [([f"seed={seed}"], composed("experiments=digits_kickoff", "cascade.kickoff=8", f"seed={seed}"))
                for seed in (0, 1)]  # fmt: skip
    monkeypatch.setattr("pixelflow.config.composing.sweep_settings", lambda *_: settings)


@pytest.mark.usefixtures("recipe")
def test_only_the_runs_of_the_recipe_are_published(table: Callable[..., str], tmp_path: Path) -> None:
    recipe_run(tmp_path, ["cascade.kickoff=8", "seed=0"])
    recipe_run(tmp_path, ["cascade.kickoff=8", "seed=0", "trainer.max_steps=7"])  # somebody played with it
    assert len(measured(table("experiments=digits_kickoff"))) == 2
    text = table("experiments=digits_kickoff", "job.publish=true", "job.file=digits_kickoff")
    assert len(measured(text)) == 1
    assert "- Not measured: seed=1." in text and "- The runs were made with c0ffeec0ffee." in text
    with pytest.raises(UserError, match=r"publishes a recipe as it stands: leave out solver.num_steps"):
        table("experiments=digits_kickoff", "job.publish=true", "solver.num_steps=3")


@pytest.mark.usefixtures("recipe")
def test_without_a_run_of_the_recipe_nothing_is_published(table: Callable[..., str], tmp_path: Path) -> None:
    recipe_run(tmp_path, ["cascade.kickoff=8", "seed=0", "trainer.max_steps=7"])
    with pytest.raises(UserError, match=r"none of 1 runs is one of the recipe's 2 settings"):
        table("experiments=digits_kickoff", "job.publish=true")
    assert not (tmp_path / "out").exists()


def test_a_table_is_written_to_the_folder_of_its_experiment(
    write_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And published results are those that somebody publishes."""
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(sweeper={"params": None}))
    monkeypatch.chdir(tmp_path)
    write_run("quickstart", "one", 0.5)
    JOB.start(composed("job=table"), ["job=table"])
    assert (tmp_path / "runs" / "quickstart" / "table.md").exists()
    JOB.start(composed("job=table", "job.experiments=[quickstart]"), ["job=table"])
    assert (tmp_path / "runs" / "tables" / "quickstart.md").exists()
    assert not (tmp_path / "experiments").exists()
    with pytest.raises(UserError, match=r"publish=true writes the results of one recipe"):
        JOB.read({"name": "table", "publish": True, "experiments": ["a"]})
