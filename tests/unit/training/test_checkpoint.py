from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pixelflow.errors import WorkFailed
from pixelflow.training import checkpoint as module
from pixelflow.training.checkpoint import (
    CheckpointError,
    CheckpointStore,
    load_checkpoint,
    write_tensors,
)
from pixelflow.training.saver import Saver

STATE = {"config": {"seed": 3, "data": {"sizes": [8, 16], "name": "ü"}}, "loader": {"position": 2**40}}


def tensors(step: int = 0, size: int = 100) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(step)
    model = {"a.weight": torch.randn(size, 10, generator=generator), "b": torch.randn((), generator=generator)}
    return {"model": model, "ema": {name: value + 1 for name, value in model.items()}}


def assert_whole(path: Path, step: int, size: int = 100) -> None:
    loaded = load_checkpoint(path)
    assert loaded.step == step
    for stem, flat in tensors(step, size).items():
        assert set(loaded.tensors[stem]) == set(flat)
        assert all(torch.equal(loaded.tensors[stem][name], value) for name, value in flat.items())


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


# --- round trip and retention -------------------------------------------------------------------------------------


def test_round_trip(store: CheckpointStore) -> None:
    path = store.save(1000, tensors(1000), STATE)
    assert path == store.folder / "step_00001000"
    assert sorted(file.name for file in path.iterdir()) == ["ema.safetensors", "model.safetensors", "state.json"]
    assert_whole(path, 1000)
    assert load_checkpoint(path).state == STATE | {"step": 1000}
    assert load_checkpoint(path).path == path


def test_views_and_dtypes_survive(store: CheckpointStore) -> None:
    flat = {
        "transposed": torch.randn(3, 4).T,
        "bf16": torch.randn(5).bfloat16(),
        "int": torch.tensor([2**40]),
        "grad": torch.randn(2, requires_grad=True),
        "empty": torch.zeros(0, 3),
    }
    loaded = load_checkpoint(store.save(1, {"model": flat}, {})).tensors["model"]
    for name, value in flat.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value)


def test_only_the_asked_for_files_are_read(store: CheckpointStore) -> None:
    path = store.save(1, tensors(1), STATE)
    (path / "ema.safetensors").unlink()
    assert set(load_checkpoint(path, stems=("model",)).tensors) == {"model"}


def test_the_newest_checkpoints_stay(store: CheckpointStore) -> None:
    for step in (5, 10, 1000):
        store.save(step, tensors(step), STATE)
    assert store.steps() == [10, 1000]
    assert [path.name for path in sorted(store.folder.iterdir())] == ["step_00000010", "step_00001000"]
    latest, problems = store.latest()
    assert latest is not None
    assert (latest.step, problems) == (1000, [])


def test_saving_a_step_again_replaces_it(store: CheckpointStore) -> None:
    store.save(5, tensors(4), STATE)
    path = store.save(5, tensors(5), STATE)
    assert_whole(path, 5)


def test_a_damaged_checkpoint_does_not_push_out_a_new_one(tmp_path: Path) -> None:
    """A run whose newest checkpoint is damaged goes on from an older one, and saves steps below the damaged one's."""
    store = CheckpointStore(tmp_path, keep=1)
    damage = store.save(10, tensors(10), STATE) / "model.safetensors"
    damage.write_bytes(damage.read_bytes()[:-1])
    path = store.save(5, tensors(5), STATE)
    assert_whole(path, 5)
    latest, problems = store.latest()
    assert latest is not None
    assert latest.step == 5
    assert len(problems) == 1


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "nowhere").steps() == []
    assert CheckpointStore(tmp_path / "nowhere").latest() == (None, [])


def test_strays_are_ignored_and_swept(store: CheckpointStore) -> None:
    """A folder that a killed process left half written, and things that are no checkpoints at all."""
    store.save(5, tensors(5), STATE)
    stray = store.folder / ".step_00000010.4711"
    stray.mkdir()
    (stray / "model.safetensors").write_bytes(b"half")
    (store.folder / "step_00000020").write_text("a file")
    (store.folder / "step_00000005 (copy)").mkdir()
    assert store.steps() == [5]
    latest, problems = store.latest()
    assert latest is not None
    assert (latest.step, problems) == (5, [])
    (store.folder / "step_00000020").unlink()
    store.save(6, tensors(6), STATE)
    assert not stray.exists()
    assert store.steps() == [5, 6]


def test_milestones_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2, keep_every=20)
    for step in range(10, 80, 10):
        store.save(step, tensors(step), STATE)
    assert store.steps() == [20, 40, 50, 60, 70]  # 60 is a milestone, so the two newest others are 50 and 70


def test_a_death_while_a_step_is_replaced_loses_nothing(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two renames the old checkpoint has another name; the next start gives it back."""
    store.save(5, tensors(5), STATE)
    rename, calls = Path.rename, []

    def dies(path: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        store.save(5, tensors(4), STATE)
    monkeypatch.undo()
    assert store.steps() == []
    again = CheckpointStore(store.folder)
    latest, problems = again.latest()
    assert latest is not None and (latest.step, problems) == (5, [])
    assert_whole(again.path(5), 5)
    again.save(6, tensors(6), STATE)
    assert sorted(p.name for p in store.folder.iterdir()) == ["step_00000005", "step_00000006"]


def test_files_of_several_writers_are_one_checkpoint(store: CheckpointStore) -> None:
    aside = store.aside(3)
    store.begin(aside)
    files = write_tensors(aside, {"model": {"a": torch.ones(2)}, "ema_0.9": {"a": torch.ones(1)}}, part=".0-of-2")
    files |= write_tensors(aside, {"model": {"b": torch.zeros(2)}, "ema_0.9": {}}, part=".1-of-2")
    path = store.commit(3, aside, files, STATE)
    loaded = load_checkpoint(path)
    assert set(loaded.tensors) == {"model", "ema_0.9"} and set(loaded.tensors["model"]) == {"a", "b"}
    (path / "model.1-of-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.1-of-2.safetensors is missing"):
        load_checkpoint(path)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_a_checkpoint_is_as_readable_as_the_umask_says(store: CheckpointStore, mask: int) -> None:
    before = os.umask(mask)
    try:
        path = store.save(5, tensors(5), STATE)
    finally:
        os.umask(before)
    assert {file.name: file.stat().st_mode & 0o777 for file in [path, *path.iterdir()]} == {
        path.name: 0o777 & ~mask,
        **dict.fromkeys(("model.safetensors", "ema.safetensors", "state.json"), 0o666 & ~mask),
    }


# --- beside training ----------------------------------------------------------------------------------------------


def entries(step: int) -> list[tuple[str, str, Tensor]]:
    return [(stem, name, value) for stem, flat in tensors(step).items() for name, value in flat.items()]


def test_saving_beside_training_keeps_the_values_of_the_moment(store: CheckpointStore) -> None:
    saver = Saver(store)
    value = torch.zeros(1_000_000)
    saver.save(1, [("model", "w", value)], STATE)
    value.add_(1)
    saver.save(2, [("model", "w", value)], STATE)  # waits for the first
    saver.wait()
    assert [load_checkpoint(store.path(s)).tensors["model"]["w"].sum().item() for s in (1, 2)] == [0, 1_000_000]


def test_a_failure_beside_training_is_raised_at_the_next_call(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(store)
    saver.save(5, entries(5), STATE)
    saver.wait()
    monkeypatch.setattr(module, "save_tensors", lambda flat, file: (_ for _ in ()).throw(OSError("full")))
    saver.save(10, entries(10), STATE)
    with pytest.raises(WorkFailed, match=r"step 10 could not be written.*the checkpoint of step 5 is whole"):
        for _ in range(1000):
            saver.check()
            time.sleep(0.01)
    saver.check()  # once
    assert_only_step_five(store)


# --- damage -------------------------------------------------------------------------------------------------------


def damage(path: Path, kind: str) -> str:
    """Damages a checkpoint; returns what the message must name."""
    model, state = path / "model.safetensors", path / "state.json"
    if kind == "truncated":
        model.write_bytes(model.read_bytes()[:-7])
        return r"model\.safetensors has \d+ bytes instead of \d+: it is truncated"
    if kind == "flipped":
        content = bytearray(model.read_bytes())
        content[-5] ^= 1
        model.write_bytes(content)
        return r"model\.safetensors is damaged \(checksum differs\)"
    if kind == "missing":
        model.unlink()
        return r"model\.safetensors is missing; use another checkpoint"
    if kind == "no state":
        state.unlink()
        return "is not a checkpoint: it has no state.json"
    if kind == "truncated state":
        state.write_text(state.read_text()[:-20])
        return r"state\.json cannot be read"
    if kind == "not UTF-8":
        state.write_bytes(b"\xff" + state.read_bytes())
        return r"state\.json cannot be read"
    if kind == "changed state":
        state.write_text(state.read_text().replace('"seed": 3', '"seed": 4'))
        return r"state\.json is damaged \(checksum differs\)"
    assert kind == "other key"
    state.write_text(state.read_text().replace('"files"', '"filet"'))
    return r"state\.json"


KINDS = ["truncated", "flipped", "missing", "no state", "truncated state", "not UTF-8", "other key", "changed state"]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named(store: CheckpointStore, kind: str) -> None:
    path = store.save(5, tensors(5), STATE)
    message = damage(path, kind)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("kind", KINDS)
def test_the_newest_whole_checkpoint_is_found(store: CheckpointStore, kind: str) -> None:
    store.save(5, tensors(5), STATE)
    message = damage(store.save(10, tensors(10), STATE), kind)
    latest, problems = store.latest()
    assert latest is not None
    assert latest.step == 5
    assert len(problems) == 1
    with pytest.raises(CheckpointError, match=message):
        raise CheckpointError(problems[0])


@pytest.mark.parametrize("name", ["nowhere", "step_00000005/model.safetensors"])
def test_a_path_that_is_no_checkpoint(store: CheckpointStore, name: str) -> None:
    store.save(5, tensors(5), STATE)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(store.folder / name)


# --- a full disk --------------------------------------------------------------------------------------------------


def assert_only_step_five(store: CheckpointStore) -> None:
    assert [path.name for path in store.folder.iterdir()] == ["step_00000005"]
    assert_whole(store.path(5), 5)


@pytest.mark.parametrize("failing_file", [0, 1])
def test_a_full_disk_keeps_the_earlier_checkpoint(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, failing_file: int
) -> None:
    store.save(5, tensors(5), STATE)
    calls = []

    def save(flat: dict[str, Tensor], file: Path) -> None:
        if len(calls) == failing_file:
            file.write_bytes(b"what still fitted")
            raise OSError(errno.ENOSPC, "No space left on device")
        calls.append(file)
        save_file(flat, file)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_tensors", save)
        with pytest.raises(WorkFailed, match=r"step 10 .*No space left on device; the checkpoint of step 5 is whole"):
            store.save(10, tensors(10), STATE)
    assert_only_step_five(store)
    store.save(10, tensors(10), STATE)
    assert store.steps() == [5, 10]


def test_a_full_disk_at_the_first_checkpoint(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(flat: dict[str, Tensor], file: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_tensors", save)
    with pytest.raises(WorkFailed, match="there is no earlier checkpoint"):
        store.save(10, tensors(10), STATE)
    assert list(store.folder.iterdir()) == []


def test_a_state_that_is_no_json_leaves_nothing(store: CheckpointStore) -> None:
    store.save(5, tensors(5), STATE)
    with pytest.raises(TypeError, match="not JSON serializable"):  # a bug, which no free space would mend
        store.save(10, tensors(10), {"config": object()})
    assert_only_step_five(store)


def test_a_failed_rewrite_of_a_step_keeps_it(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(5, tensors(5), STATE)
    monkeypatch.setattr(module, "save_tensors", lambda flat, file: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(WorkFailed, match="the checkpoint of step 5 is whole"):
        store.save(5, tensors(4), STATE)
    assert_only_step_five(store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    store = CheckpointStore(small_disk / "checkpoints")
    store.save(5, tensors(5), STATE)
    with pytest.raises(WorkFailed, match=r"step 10 could not be written .* the checkpoint of step 5 is whole"):
        store.save(10, tensors(10, size=5000), STATE)  # two files of 200 kB
    assert_only_step_five(store)
    store.save(10, tensors(10), STATE)
    assert_whole(store.path(10), 10)
