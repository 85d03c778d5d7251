import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pixelflow.errors import UserError
from pixelflow.reporting.folder_reader import read_recipe_runs, read_run_folders
from pixelflow.reporting.formats import csv_text
from pixelflow.reporting.table import build_table
from pixelflow.runs.flat import flatten
from pixelflow.runs.status import held
from tests.unit.reporting.conftest import RECORD, config


def test_flatten_brings_text_and_values_to_one_form() -> None:
    nested = {"a": {"b": 2.0, "c": None, "empty": {}}, "flag": True, "betas": [0.9, 1.0], "lr": 1e-5, "name": "x-1"}
    as_text = {"a.b": "2.0", "a.c": "None", "flag": "True", "betas": "[0.9, 1.0]", "lr": "1e-05", "name": "x-1"}
    expected = {"a.b": 2, "a.c": None, "flag": True, "betas": [0.9, 1], "lr": 1e-5, "name": "x-1"}
    assert flatten(nested) == expected
    assert flatten(as_text) == expected
    assert flatten({"a": "[null, 0.5]", "b": "true", "c": "['x', None]"}) == {
        "a": [None, 0.5],
        "b": True,
        "c": ["x", None],
    }
    assert flatten({"odd": "{1, 2}", "bytes": "b'x'"}) == {"odd": "{1, 2}", "bytes": "b'x'"}


def test_run_folder(write_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_run("kick-8", config(8, 3), {"fid": 3, "precision": 0.5})
    (run,) = read_run_folders(tmp_path / "runs")
    assert (run.name, run.seed, run.state, run.folder, run.reason) == ("kick-8", 3, "finished", folder, "")
    assert run.metrics == {"fid": 3.0, "precision": 0.5}
    assert run.record["num_samples"] == 50000
    assert run.config["cascade.kickoff"] == 8
    assert run.config["guidance.scale"] == 2
    assert run.complete
    assert read_run_folders(folder) == [run]


def test_folders_inside_a_run_and_hidden_ones_are_no_runs(write_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_run("a", config(8, 0), {"fid": 3.0})
    for other in (folder / "checkpoints" / "step_00000001", tmp_path / "runs" / ".hydra"):
        other.mkdir(parents=True)
        (other / "config.yaml").write_text("seed: 0")
    assert [run.name for run in read_run_folders(tmp_path / "runs")] == ["a"]


def test_newest_evaluation_by_its_record_and_not_by_the_file(write_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_run("a", config(8, 0)) / "evaluation"
    times = {"b": "2026-01-02T10:00:00+0000", "a": "2026-01-02T12:00:01+0200", "c": "2026-01-01T23:00:00+0000"}
    for fid, (name, written) in enumerate(times.items()):
        metrics = {"fid": fid} | ({"sfid": 9.0} if name == "b" else {})
        (folder / f"{name}.json").write_text(json.dumps({"metrics": metrics, "record": {"time": written}}))
    (folder / ".d.json").write_text("half a fi")
    (run,) = read_run_folders(tmp_path)
    assert run.metrics == {"fid": 1.0}  # and no sfid of an older one
    (folder / "unix.json").write_text(json.dumps({"metrics": {"fid": 5}, "record": {"time": time.time() + 1e9}}))
    (folder / "file.json").write_text(json.dumps({"metrics": {"fid": 6}}))  # known by the file's own time
    (run,) = read_run_folders(tmp_path)
    assert run.metrics == {"fid": 5.0}
    (folder / "unix.json").unlink()
    (run,) = read_run_folders(tmp_path)
    assert run.metrics == {"fid": 6.0}


def test_evaluations_of_one_run_with_other_settings_are_rows_of_one_table(
    write_evaluated_run: Callable[..., Path], tmp_path: Path
) -> None:
    """Runs that differ only in their guidance share a folder, whose config.yaml has the first one's."""
    for seed in (0, 1):
        folder = write_evaluated_run(seed, (1.0, 2.0))
        # An evaluation that does not state its experiment is no row.
        by_hand = {"metrics": {"fid": 1.0}, "record": {"settings": {"guidance": {"scale": 3.0}}}}
        (folder / "evaluation" / "by-hand.json").write_text(json.dumps(by_hand))
    runs = read_run_folders(tmp_path)
    assert [(run.seed, run.config["guidance.scale"], run.metrics["fid"]) for run in runs] == [
        (0, 1, 10.0), (0, 2, 20.0), (1, 1, 11.0), (1, 2, 21.0),
    ]  # fmt: skip
    assert all("guidance.low" not in run.config and run.config["depth"] == 2 for run in runs)
    table = build_table(runs)
    assert table.axes == ("guidance.scale",)
    assert [row.cells["fid"].mean for row in table.rows] == [10.5, 20.5]
    # A sweep lists the folder once for each setting that it evaluates there.
    assert build_table([*runs, *runs], date=table.date) == table


def test_an_evaluation_by_hand_is_a_row_of_its_experiment_and_of_no_sweep(
    write_evaluated_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_evaluated_run(0, (1.0,))
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"experiment": "mine"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name, experiment in (("by-hand", "mine"), ("trial", "inference_search")):
        record = {"settings": {"guidance": {"scale": 3.0}}, "experiment": experiment, "overrides": ["guidance.scale=3"]}
        text = json.dumps({"metrics": {"fid": 1.0}, "record": record})
        (folder / "evaluation" / f"{name}.json").write_text(text)
    (folder / "evaluation" / "damaged.json").write_text("{")
    runs = read_run_folders(tmp_path)
    assert [run.metrics.get("fid") for run in runs] == [10.0, 1.0, None]
    assert runs[1].evaluation == "evaluation/by-hand.json" and runs[1].state == "finished"
    assert build_table(runs).axes == ("guidance.scale",)
    assert len(read_recipe_runs(tmp_path, [folder], borrows=False)) == 1


def test_records_name_the_evaluations_of_another_experiments_run(
    write_evaluated_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = write_evaluated_run(0, (1.0, 2.0, 3.0))
    names = [f"evaluation/step_00000007-{scale}.json" for scale in (1.0, 2.0, 3.0)]
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "failed", "borrowed": names[1:]}))
    shared = tmp_path / "other" / "shared"
    shared.mkdir(parents=True)
    for name in (*names[1:], "evaluation/later.json"):
        content = {"run": f"../{run.relative_to(tmp_path)}", "evaluation": name}
        (shared / f"{Path(name).stem}.json").write_text(json.dumps(content))
    *own, failed = read_run_folders(run)
    assert [entry.config["guidance.scale"] for entry in own] == [1] and failed.state == "failed"
    *borrowed, left = read_run_folders(tmp_path / "other")
    assert [entry.config["guidance.scale"] for entry in borrowed] == [2, 3] and left.state == "failed"
    (shared / "later.json").unlink()
    assert all(entry.complete for entry in read_run_folders(tmp_path / "other"))  # it failed for the other


def test_steps_are_rows_only_where_one_was_evaluated_before_the_last(
    write_evaluated_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_evaluated_run(0, (1.0, 2.0))
    for scale, step in ((1.0, 4), (2.0, 7)):
        path = folder / "evaluation" / f"step_00000007-{scale}.json"
        content = json.loads(path.read_text())
        content["record"] |= {"step": step, "settings": {"guidance": {"scale": 1.0}}}
        path.write_text(json.dumps(content))
    runs = [replace(run, config=run.config | {"trainer.max_steps": 7, "sampler.step": None}) for run in
            read_run_folders(tmp_path)]  # fmt: skip
    table = build_table(runs)
    assert table.axes == ("sampler.step",) and [row.values for row in table.rows] == [("4",), ("7",)]
    assert build_table(runs[1:]).axes == ()
    assert "sampler.step" not in build_table(runs[1:]).rows[0].setting.config


def test_one_evaluation_with_settings_gives_the_table_of_one_without(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    """The settings of a run that was evaluated once are those of its config.yaml, so its table does not change."""
    settings = {"guidance": config(8, 0)["guidance"], "solver": {"num_steps": 4}}
    tables = []
    for record in ({}, {"settings": settings}):
        for kickoff in (8, 16):
            write_run(f"kick-{kickoff}", config(kickoff, 0) | settings, {"fid": kickoff / 3}, record=RECORD | record)
        tables.append(csv_text(build_table(read_run_folders(tmp_path))))
        shutil.rmtree(tmp_path / "runs")
    assert tables[0] == tables[1]


def test_a_damaged_evaluation_leaves_the_others_in_the_table(
    write_evaluated_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_evaluated_run(0, (1.0, 2.0, 3.0))
    (folder / "evaluation" / "step_00000007-1.0.json").unlink()
    (folder / "evaluation" / "step_00000007-3.0.json").write_text("{")
    whole, missing, damaged = read_run_folders(tmp_path)
    assert (whole.complete, whole.metrics, whole.config["guidance.scale"]) == (True, {"fid": 20.0}, 2)
    assert (missing.state, damaged.state) == ("broken", "broken")
    assert missing.reason == "evaluation/step_00000007-1.0.json cannot be read: No such file or directory"
    assert damaged.reason.startswith("evaluation/step_00000007-3.0.json is not JSON: ")


def test_a_later_evaluation_that_fails_leaves_the_earlier_ones_in_the_table(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_run("a", config(8, 0), {"fid": 3.0})
    status = {"state": "failed", "message": "the disk is full", "evaluations": ["evaluation/held-out.json"]}
    (folder / "status.json").write_text(json.dumps(status))
    first, second = read_run_folders(tmp_path)
    assert (first.complete, first.metrics) == (True, {"fid": 3.0})
    assert (second.complete, second.state, second.reason) == (False, "failed", "the disk is full")


def test_unfinished_failed_and_unevaluated_runs_are_kept(write_run: Callable[..., Path], tmp_path: Path) -> None:
    write_run("failed", config(8, 0), state="failed", message="the loss is nan at step 7")
    running = write_run("running", config(8, 1), {"fid": 1.0}, state="running")
    write_run("killed", config(8, 3), state="running")  # no process holds its lock
    write_run("unevaluated", config(8, 2))
    (write_run("without", config(8, 4), {"fid": 1.0}) / "status.json").unlink()
    with held(running):
        runs = {run.name: run for run in read_run_folders(tmp_path)}
    assert not any(run.complete for run in runs.values())
    assert {name: (run.state, run.reason) for name, run in runs.items()} == {
        "failed": ("failed", "the loss is nan at step 7"),
        "running": ("running", "step 7 of 10"),
        "killed": ("stopped", "its process was killed, step 7 of 10"),
        "unevaluated": ("finished", ""),
        "without": ("unknown", "no status.json"),
    }


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("evaluation/held-out.json", '{"metrics": {"fid": 3.', "evaluation/held-out.json is not JSON: "),
        ("evaluation/held-out.json", "[]", "evaluation/held-out.json is not a mapping"),
        ("evaluation/held-out.json", '{"record": {}}', "evaluation/held-out.json has no `metrics`"),
        ("evaluation/held-out.json", '{"metrics": {"fid": "3"}}', "metrics.fid='3' is not a number"),
        ("evaluation/held-out.json", '{"metrics": {"fid": true}}', "metrics.fid=True is not a number"),
        ("evaluation/held-out.json", '{"metrics": {"fid": 3}, "record": 1}', "`record` is not a mapping"),
        ("status.json", "", "status.json is not JSON: "),
        ("config.yaml", "a: [1", "config.yaml is not YAML: "),
        ("config.yaml", "a: 1", "the config has no integer `seed`"),
        ("config.yaml", "\xff", "config.yaml is not"),
    ],
)
def test_broken_files_are_reported_with_their_run(
    write_run: Callable[..., Path], tmp_path: Path, file: str, text: str, reason: str
) -> None:
    write_run("whole", config(8, 0), {"fid": 3.0})
    (write_run("broken", config(8, 1), {"fid": 3.0}) / file).write_bytes(text.encode("latin-1"))
    broken, whole = read_run_folders(tmp_path)
    assert broken.state == "broken"
    assert reason in broken.reason
    assert "\n" not in broken.reason
    assert whole.complete
    table = build_table([broken, whole])
    assert [len(row.runs) for row in table.rows] == [1]
    assert any(note.startswith("Left out: broken: broken, ") and reason in note for note in table.notes)


def test_no_runs_names_the_folder_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path} holds no runs .*; train first"):
        read_run_folders(tmp_path)
    with pytest.raises(UserError, match=r"nowhere is not a folder; train first"):
        read_run_folders(tmp_path / "nowhere")
