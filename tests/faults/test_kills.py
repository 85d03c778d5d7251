"""Commands that are killed (kill -9) at random moments and then repeated end with the results of an undisturbed one.

PIXELFLOW_KILLS sets how often the training is killed (20 by default); the other commands are killed a quarter as often.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.commands import KILLS, Command, killed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 60 * KILLS)]

TRAIN = (
    *("job=train", "tracking=none", "trainer.max_steps=60", "trainer.batch_size=8", "trainer.save_every=1"),
    *("trainer.log_every=1", "trainer.grid_every=0", "trainer.warmup_steps=0", "backbone.depth=1"),
    *("ema.power=[0.1]", "ema.snapshot_every=20"),
)


def records(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of metrics.jsonl that hold metrics."""
    found = []
    for file in folder.glob("runs/*/*/metrics.jsonl"):
        lines = file.read_text().split("\n")[:-1]
        found += [json.loads(line) for line in lines if '"metrics"' in line]
    return found


def logged(folder: Path) -> int:
    """The number of steps that are logged so far."""
    return sum(file.read_bytes().count(b'"loss": ') for file in folder.glob("runs/*/*/metrics.jsonl"))


def anywhere(folder: Path) -> bool:
    return True


def aside(folder: Path) -> list[Path]:
    return list(folder.glob("runs/*/*/checkpoints/.step_*"))


def writing(folder: Path) -> bool:
    """The files of a checkpoint are being written."""
    return any(not (path / "state.json").exists() for path in aside(folder))


def renaming(folder: Path) -> bool:
    """All files of a checkpoint are there, and it does not have its name yet."""
    return any((path / "state.json").exists() for path in aside(folder))


def checkpoints(folder: Path) -> dict[str, bytes]:
    """The content of all files of the checkpoints and snapshots, also of those that should not be there."""
    (run,) = folder.glob("runs/*/*")
    files = [path for name in ("checkpoints", "snapshots") for path in (run / name).rglob("*") if path.is_file()]
    assert {"checkpoints", "snapshots"} == {path.relative_to(run).parts[0] for path in files}
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def losses(folder: Path) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for record in records(folder):
        if "loss" in record["metrics"]:
            found.setdefault(record["step"], []).append(record["metrics"]["loss"])
    return found


def test_a_training_that_is_killed_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    straight = Command(TRAIN, tmp_path / "straight")
    straight.finish()
    times = [record["time"] for record in records(straight.cwd)]
    longest = 4 * (times[-1] - times[0]) / len(times)  # four steps
    wanted: list[Callable[[Path], bool]] = [anywhere, writing, anywhere, anywhere, renaming, anywhere]
    moments, fell, attempts = random.Random(0), Counter[str](), 0
    while sum(fell.values()) < KILLS:  # a run that ends before it was killed often enough is followed by another
        command = Command(TRAIN, tmp_path / f"killed_{attempts}")
        attempts += 1
        process = command.start()
        while sum(fell.values()) < KILLS:
            before = logged(command.cwd)
            inside = wanted[sum(fell.values()) % len(wanted)]
            if not killed(
                process,
                lambda: logged(command.cwd) > before,  # noqa: B023 - called before the next turn
                lambda: inside(command.cwd),  # noqa: B023
                moments,
                longest,
            ):
                break
            names = {writing: "writing", renaming: "renaming"}
            fell[next((name for look, name in names.items() if look(command.cwd)), "elsewhere")] += 1
            process = command.start()
        assert process.wait() == 0, process.err
        assert checkpoints(command.cwd) == checkpoints(straight.cwd)
        assert losses(command.cwd) == losses(straight.cwd)
        once = Counter((record["step"], name) for record in records(command.cwd) for name in record["metrics"])
        assert set(once.values()) == {1}
    print(f"{KILLS} kills: {dict(fell)}")
    assert fell["writing"] + fell["renaming"] >= KILLS / 4 and fell["renaming"] >= 1, fell


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    command = Command((*TRAIN, "trainer.max_steps=2"), tmp_path_factory.mktemp("trained"))
    command.finish()
    (found,) = command.cwd.glob("runs/*/*/checkpoints/step_00000002")
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """All files of the output, with names that begin with a dot as well, but no records of costs."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("record.json", ".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def metrics(folder: Path) -> dict[str, Any]:
    """The metrics of the one evaluation, and what else is there."""
    (path,) = folder.glob("*.json")
    found = json.loads(path.read_text())["metrics"]
    found.pop("seconds_per_image", None)
    there = sorted(other.name for other in folder.iterdir())
    return {"there": there, **{name: pytest.approx(value, rel=1e-9) for name, value in found.items()}}


SET = ("tracking=none", "solver.num_steps=2", "sampler.num_samples=96", "sampler.fixed_batch=8")
CASES = {
    "npz": (("job=sample", "sampler.format=npz", *SET), "samples/*", "images/*.png", ".*.tmp", contents),
    "png": (("job=sample", "sampler.format=png", *SET), "samples/*", "images/*.png", "images/.*.tmp", contents),
    "shards": (
        ("job=sample", "sampler.format=shards", "sampler.per_shard=4", *SET),
        *("samples/*", "images/*.png", "shard_*.tar", contents),
    ),
    "evaluation": (("job=evaluate", *SET), "evaluation", ".*.state/part_*", ".*.state/.part_*", metrics),
    "preparation": (
        ("job=prepare", "data=digits", "job.output=shards", "job.samples_per_shard=32", "job.workers=1"),
        *("shards", "done/*.json", ".*.tmp", contents),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_other_work_that_is_killed_ends_as_undisturbed_one(name: str, checkpoint: Path, tmp_path: Path) -> None:
    arguments, place, begun, unfinished, result = CASES[name]

    def command(folder: str) -> Command:
        if place == "shards":
            return Command(arguments, tmp_path / folder)
        copied = tmp_path / folder / "checkpoints" / checkpoint.name
        copied.mkdir(parents=True)
        for file in checkpoint.iterdir():
            (copied / file.name).write_bytes(file.read_bytes())
        (tmp_path / folder / "config.yaml").write_bytes((checkpoint.parents[1] / "config.yaml").read_bytes())
        return Command((*arguments, f"checkpoint={copied}", f"runs_dir={tmp_path}"), tmp_path / folder)

    def found(command: Command) -> Path:
        (folder,) = command.cwd.glob(place)
        return folder

    straight = command("straight")
    straight.finish()
    expected = result(found(straight))
    moments, kills, late, attempts = random.Random(0), 0, 0, 0
    while kills < max(1, KILLS // 4):
        mine = command(f"killed_{attempts}")
        attempts += 1
        assert attempts < 5 * KILLS, "it ends before it can be killed"
        process = mine.start()
        while kills < max(1, KILLS // 4) and killed(
            process, lambda: any(mine.cwd.glob(f"{place}/{begun}")), lambda: True, moments, 0.2  # noqa: B023
        ):  # fmt: skip
            kills += 1
            late += any(mine.cwd.glob(f"{place}/{unfinished}"))
            process = mine.start()
        assert process.wait() == 0, process.err
        assert result(found(mine)) == expected
    print(f"{name}: {kills} kills, {late} of them with an unfinished file")
