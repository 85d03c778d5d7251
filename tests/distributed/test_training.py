"""Compares training in two processes (gloo) with training in one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelflow.training.checkpoint import CheckpointStore, load_checkpoint
from pixelflow.training.ema import posthoc
from tests.forked import Process, ranks

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Ended:
    """statuses, errors: by rank. logged: rank 0's metrics by step."""

    statuses: list[int]
    errors: list[str]
    logged: dict[int, dict[str, float]]


def run(folder: Path, *, processes: int = 1, **options: Any) -> Ended:
    base = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    arguments = ("tests.distributed.worker", str(folder), json.dumps(options))
    started = [Process(*arguments, environment=base | own) for own in (ranks(processes) if processes > 1 else [{}])]
    try:
        outputs = [process.communicate() for process in started]
    finally:
        for process in started:
            process.kill()
    lines = [json.loads(line) for line in outputs[0][0].splitlines()]
    logged = {line.pop("step"): line for line in lines}
    return Ended([process.wait() for process in started], [err for _, err in outputs], logged)


def losses(ended: Ended, *, status: int = 0) -> list[float]:
    assert set(ended.statuses) == {status}, ended.errors
    return [ended.logged[step]["loss"] for step in sorted(ended.logged)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """Six steps of one process."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, run(folder)


def assert_close(a: Path, b: Path) -> None:
    """All tensors of two checkpoints to rounding, and the rest equal."""
    first, second = load_checkpoint(a), load_checkpoint(b)
    assert set(first.tensors) == set(second.tensors)
    for stem, flat in first.tensors.items():
        assert set(flat) == set(second.tensors[stem])
        for name, value in flat.items():
            # Adam divides by the gradient's size, so where that is rounding alone a step may differ by far more.
            torch.testing.assert_close(value, second.tensors[stem][name], atol=2e-4, rtol=1e-3, msg=f"{stem}: {name}")
    for key in ("loader", "guard", "rollbacks", "step"):
        assert first.state[key] == second.state[key]


@pytest.mark.parametrize(
    "options", [{"parallel": "ddp"}, {"parallel": "fsdp"}, {"parallel": "ddp", "accumulate": 2},
                {"parallel": "fsdp", "accumulate": 2}], ids=str,
)  # fmt: skip
def test_two_processes_give_the_losses_of_one(
    options: dict[str, Any], alone: tuple[Path, Ended], tmp_path: Path
) -> None:
    folder, expected = alone
    two = run(tmp_path, processes=2, **options)
    assert losses(two) == pytest.approx(losses(expected), rel=1e-5)
    for step, metrics in expected.logged.items():
        assert two.logged[step].keys() == metrics.keys()
        for name in ("grad_norm", "loss/flow_matching", "loss/stage_0", "loss/stage_1", "lr"):
            assert two.logged[step][name] == pytest.approx(metrics[name], rel=2e-4), name
    checkpoint = tmp_path / "checkpoints" / "step_00000006"
    assert {p.name for p in checkpoint.glob("model*")} == {f"model.{rank}-of-2.safetensors" for rank in range(2)}
    assert_close(checkpoint, folder / "checkpoints" / "step_00000006")
    assert_close_snapshots(tmp_path, folder)


@pytest.mark.parametrize(
    "options",
    [
        {"losses": "adaptive", "parallel": "ddp"},
        {"losses": "adaptive", "parallel": "ddp", "accumulate": 2},
        {"losses": "trained", "parallel": "fsdp"},
        {"losses": "trained", "parallel": "fsdp", "accumulate": 2},
    ],
    ids=str,
)
def test_two_processes_change_every_weight_of_backbone_and_losses_as_one_does(
    options: dict[str, Any], with_losses: dict[str, tuple[Path, Ended]], tmp_path: Path
) -> None:
    """Plain descent: a gradient that is twice too large, or a clip by another norm, moves the weights elsewhere."""
    folder, expected = with_losses[options["losses"]]
    two = run(tmp_path, processes=2, grad_clip=0.5, **options)
    assert losses(two) == pytest.approx(losses(expected), rel=1e-5)
    for step, metrics in expected.logged.items():
        assert two.logged[step]["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-4)
        assert metrics["grad_norm"] > 0.5, "the clip is active"
    first, second = (load_checkpoint(f / "checkpoints" / "step_00000006").tensors for f in (tmp_path, folder))
    start = load_checkpoint(folder / "checkpoints" / "step_00000004").tensors
    assert {name for name in second["objective"] if name.startswith("trained.repa.projection")}
    for stem in ("model", "objective"):
        assert set(first[stem]) == set(second[stem])
        for name, value in second[stem].items():
            torch.testing.assert_close(first[stem][name], value, atol=1e-6, rtol=1e-4, msg=f"{stem}: {name}")
            assert not torch.equal(value, start[stem][name]), f"{stem}: {name} is not trained"


@pytest.fixture(scope="module")
def with_losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Ended]]:
    """Six steps of one process, with REPA and P-DINO, with and without the adaptive weight."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("adaptive", "trained")}
    return {name: (folder, run(folder, grad_clip=0.5, losses=name)) for name, folder in folders.items()}


def assert_close_snapshots(a: Path, b: Path) -> None:
    rebuilt = []
    for folder in (a, b):
        store = CheckpointStore(folder / "snapshots", keep=None)
        found = {(s, "power_0.1"): load_checkpoint(store.path(s)).tensors["power_0.1"] for s in store.steps()}
        assert store.steps() == [2, 4, 6]
        rebuilt.append(posthoc(found, step=6, width=0.12))
    for name, value in rebuilt[0].items():
        torch.testing.assert_close(value, rebuilt[1][name], atol=1e-3, rtol=1e-2)


def test_hybrid_sharding_of_four(alone: tuple[Path, Ended], tmp_path: Path) -> None:
    """Two copies of the weights, each divided among two processes."""
    four = run(tmp_path, processes=4, parallel="fsdp", shard_size=2)
    assert losses(four) == pytest.approx(losses(alone[1]), rel=1e-5)
    assert [m["grad_norm"] for m in four.logged.values()] == pytest.approx(
        [m["grad_norm"] for m in alone[1].logged.values()], rel=2e-4
    )


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_continues_with_another_number_of_processes(
    first: int, then: int, parallel: str, alone: tuple[Path, Ended], tmp_path: Path
) -> None:
    """With the same samples in the same order: the losses of each step are those of the run that never stopped."""
    begun = run(tmp_path, processes=first, parallel=parallel, max_steps=3)
    ended = run(tmp_path, processes=then, parallel=parallel)
    assert sorted(ended.logged) == [4, 5, 6]
    assert losses(begun) + losses(ended) == pytest.approx(losses(alone[1]), rel=1e-5)
    assert_close(tmp_path / "checkpoints" / "step_00000006", alone[0] / "checkpoints" / "step_00000006")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all_with_one_checkpoint(
    rank: int, alone: tuple[Path, Ended], tmp_path: Path
) -> None:
    stopped = run(tmp_path, processes=2, faults={str(rank): {"3": "stop"}})
    assert stopped.statuses == [75, 75], stopped.errors
    assert "saved at step 3 of 6" in stopped.errors[0]
    assert CheckpointStore(tmp_path / "checkpoints").steps() == [2, 3]
    again = run(tmp_path, processes=2)
    assert losses(stopped, status=75) + losses(again) == pytest.approx(losses(alone[1]), rel=1e-5)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_step_that_is_bad_in_one_process_is_skipped_in_all(parallel: str, tmp_path: Path) -> None:
    ended = run(tmp_path, processes=2, parallel=parallel, faults={"1": {"3": "nan"}})
    assert set(ended.statuses) == {0}, ended.errors
    assert [ended.logged[step]["skipped_steps"] for step in range(1, 7)] == [0, 0, 1, 1, 1, 1]
    assert "step 3 is skipped" in ended.errors[1]
    tensors = load_checkpoint(tmp_path / "checkpoints" / "step_00000006").tensors
    assert all(value.isfinite().all() for value in tensors["model"].values())


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_that_fails_ends_all_with_its_message(rank: int, tmp_path: Path) -> None:
    ended = run(tmp_path, processes=2, faults={str(rank): {"3": "fail"}})
    assert ended.statuses == [1, 1]
    assert "error: the data are gone" in ended.errors[rank]
    assert f"process {rank + 1} of 2: the data are gone" in ended.errors[1 - rank]


def test_a_hung_process_is_named(tmp_path: Path) -> None:
    ended = run(tmp_path, processes=2, stall_seconds=15.0, faults={"1": {"3": "hang"}})
    assert ended.statuses == [1, 1]
    assert "the others wait for process 2 of 2 (waiting for data, on " in ended.errors[0]
    assert "(stall_seconds=15)" in ended.errors[0]


def test_a_killed_process_ends_the_others(tmp_path: Path) -> None:
    # Beside training, the checkpoint of step 2 might not be whole yet.
    ended = run(tmp_path, processes=2, async_save=False, faults={"1": {"3": "kill"}})
    assert ended.statuses == [1, -9]
    assert "process 1 of 2 lost the connection to the others" in ended.errors[0]
    assert CheckpointStore(tmp_path / "checkpoints").latest()[0] is not None


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_in_a_save_leaves_the_checkpoint_before_it(
    rank: int, alone: tuple[Path, Ended], tmp_path: Path
) -> None:
    """All files of one process are written, and the checkpoint of step 4 is never renamed."""
    ended = run(tmp_path, processes=2, stall_seconds=15.0, faults={str(rank): {"4": "kill in the next save"}})
    assert ended.statuses[rank] == -9 and ended.statuses[1 - rank] == 1, ended.errors
    assert "Traceback" not in ended.errors[1 - rank], ended.errors
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.steps() == [2] and list(store.folder.glob(".step_00000004.*/*.safetensors"))
    again = run(tmp_path, processes=2)
    expected = losses(alone[1])
    assert losses(again) == pytest.approx(expected[2:], rel=1e-5)
    assert sorted(path.name for path in store.folder.iterdir()) == ["step_00000004", "step_00000006"]
    assert_close(store.path(6), alone[0] / "checkpoints" / "step_00000006")
