from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pixelflow.conditioning import ClassLabel
from pixelflow.data.in_memory import MemoryLoader
from pixelflow.errors import WorkFailed
from pixelflow.flow import Cascade, UniformTimesteps, VelocityPrediction
from pixelflow.losses import FlowMatching, Objective
from pixelflow.training.checkpoint import CheckpointStore, load_checkpoint
from pixelflow.training.distributed import Network
from pixelflow.training.draw import FlowParts
from pixelflow.training.ema import EMA
from pixelflow.training.settings import TrainerSettings
from pixelflow.training.state import TrainingState
from pixelflow.training.trainer import Trainer, TrainerHooks, TrainingDiverged
from pixelflow.types import Batch, FlowSample, Predicted
from tests.tiny import tiny_pixelflow

NUM_CLASSES = 5
LEARNING_RATE = 2e-3


def make_trainer(folder: Path, *, init: int = 0, loss: Any = None, log: Any = None, **settings: Any) -> Trainer:
    """A trainer on 20 random images of 8x8: batches of 8 run over the ends of its epochs."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=generator)
    backbone = tiny_pixelflow(seed=init, depth=1, num_classes=NUM_CLASSES)
    fused = settings.pop("fused", False)
    chosen = {"max_steps": 20, "batch_size": 8, "save_every": 0, "log_every": 1, "device": "cpu"} | settings
    return Trainer(
        state=TrainingState(
            network=Network(backbone),
            optimizer=torch.optim.AdamW(backbone.parameters(), lr=LEARNING_RATE, weight_decay=0.1, fused=fused),
            objective=Objective(terms={"flow_matching": loss or FlowMatching()}),
            ema=EMA(decay=0.9),
        ),
        flow=FlowParts(
            cascade=Cascade(image_size=8, num_stages=2),
            timesteps=UniformTimesteps(),
            prediction=VelocityPrediction(),
            conditioning=ClassLabel(num_classes=NUM_CLASSES, drop_prob=0.4),
        ),
        loader=MemoryLoader(images=images, labels=torch.arange(20) % NUM_CLASSES, batch_size=8, seed=1),
        checkpoints=CheckpointStore(folder, keep=chosen.get("keep_checkpoints", 2)),
        settings=TrainerSettings(**chosen),
        seed=7,
        config={"seed": 7, "backbone": {"depth": 1}},
        hooks=TrainerHooks(log=log or (lambda metrics, step: None)),
    )


def train(folder: Path, **settings: Any) -> int:
    """What a command does: go on from what is there, to the end."""
    trainer = make_trainer(folder, **settings)
    trainer.resume()
    return trainer.fit()


def assert_same_checkpoint(a: Path, b: Path) -> None:
    """Weights, average, optimizer, position in the data: bit for bit."""
    first, second = load_checkpoint(a), load_checkpoint(b)
    assert set(first.tensors) == set(second.tensors) == {"model", "ema", "optimizer"}
    for stem in first.tensors:
        assert set(first.tensors[stem]) == set(second.tensors[stem])
        for name, value in first.tensors[stem].items():
            assert torch.equal(value, second.tensors[stem][name]), f"{stem}: {name}"
    assert first.state == second.state


class Stop(Exception):
    """Stands for a killed process."""


# --- resuming -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of twenty steps in one go, with a warm-up that ends in the second half."""
    folder = tmp_path_factory.mktemp("twenty")
    assert train(folder, warmup_steps=15) == 20
    return folder / "step_00000020"


def test_ten_and_ten_steps_equal_twenty(twenty: Path, tmp_path: Path) -> None:
    assert train(tmp_path, warmup_steps=15, max_steps=10) == 10
    resumed = make_trainer(tmp_path, warmup_steps=15, init=1)
    steps: list[int] = []
    resumed.hooks.log = lambda metrics, step: steps.append(step)
    resumed.resume()
    assert resumed.step == 10
    assert resumed.fit() == 20
    assert steps == list(range(11, 21))
    assert_same_checkpoint(tmp_path / "step_00000020", twenty)


def test_a_killed_run_goes_on_from_its_last_checkpoint(twenty: Path, tmp_path: Path) -> None:
    def stop(metrics: dict[str, float], step: int) -> None:
        if step == 13:
            raise Stop

    with pytest.raises(Stop):
        train(tmp_path, warmup_steps=15, save_every=5, log=stop)
    assert CheckpointStore(tmp_path).steps() == [5, 10]
    train(tmp_path, warmup_steps=15, save_every=5, init=1)
    assert_same_checkpoint(tmp_path / "step_00000020", twenty)


def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    twenty: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, warmup_steps=15, save_every=5, max_steps=10)
    (tmp_path / "step_00000010" / "ema.safetensors").write_bytes(b"")
    train(tmp_path, warmup_steps=15, init=1)
    assert [record.levelname for record in caplog.records if "ema.safetensors has 0 bytes" in record.message] == [
        "WARNING"
    ]
    assert_same_checkpoint(tmp_path / "step_00000020", twenty)


def test_a_checkpoint_of_before_the_number_of_samples_was_saved_is_resumed(twenty: Path, tmp_path: Path) -> None:
    train(tmp_path, max_steps=10)
    resumed = make_trainer(tmp_path)
    position = resumed.loader.state_dict
    resumed.loader.state_dict = lambda: position() | {"samples": 20}  # type: ignore[method-assign]
    resumed.resume()
    assert resumed.fit() == 20 and resumed.step == 20


def test_another_seed_of_the_weights_would_show(twenty: Path, tmp_path: Path) -> None:
    train(tmp_path, warmup_steps=15, init=1)
    with pytest.raises(AssertionError):
        assert_same_checkpoint(tmp_path / "step_00000020", twenty)


def test_a_finished_run_does_nothing(twenty: Path) -> None:
    before = (twenty / "state.json").stat().st_mtime_ns
    assert train(twenty.parent, log=lambda metrics, step: pytest.fail("trained on")) == 20
    assert (twenty / "state.json").stat().st_mtime_ns == before


def test_checkpoints_hold_the_config_and_only_the_newest_stay(tmp_path: Path) -> None:
    train(tmp_path, save_every=2, max_steps=7, keep_checkpoints=3)
    assert CheckpointStore(tmp_path).steps() == [4, 6, 7]
    assert load_checkpoint(tmp_path / "step_00000007").state["config"] == {"seed": 7, "backbone": {"depth": 1}}
    assert load_checkpoint(tmp_path / "step_00000007").state["loader"] == {"position": 56}


# --- a step -------------------------------------------------------------------------------------------------------


def test_accumulation_changes_nothing_but_rounding(tmp_path: Path) -> None:
    losses: dict[int, list[dict[str, float]]] = {1: [], 4: []}
    weights = {}
    for parts, log in losses.items():
        trainer = make_trainer(
            tmp_path / str(parts),
            accumulate=parts,
            max_steps=5,
            log=lambda metrics, step, log=log: log.append(metrics),
        )
        trainer.fit()
        weights[parts] = nn.utils.parameters_to_vector(trainer.state.backbone.parameters())
    for whole, split in zip(*losses.values(), strict=True):
        for name in ("loss", "loss/flow_matching", "grad_norm"):
            assert split[name] == pytest.approx(whole[name], rel=1e-5)
    # Adam divides by the gradient's size, so where that is rounding alone the step may differ by far more.
    torch.testing.assert_close(weights[1], weights[4], atol=1e-5, rtol=0)


def test_stage_losses_do_not_depend_on_accumulation(tmp_path: Path) -> None:
    logged = []
    for parts in (1, 4):
        trainer = make_trainer(tmp_path / str(parts), accumulate=parts, max_steps=1)
        value = trainer.train_step(next(iter(trainer.loader)))
        logged.append({stage: loss.item() for stage, loss in value.stages.items()})
    assert logged[1] == pytest.approx(logged[0], rel=1e-5)


def test_the_loss_falls(tmp_path: Path) -> None:
    losses = []
    train(tmp_path, max_steps=120, log=lambda metrics, step: losses.append(metrics["loss"]))
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_condition_is_dropped_for_the_stated_share(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=100)
    seen = []
    trainer.state.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2].class_label))
    trainer.fit()
    labels = torch.cat(seen)
    assert labels.eq(NUM_CLASSES).double().mean().item() == pytest.approx(0.4, abs=0.07)
    assert labels.ne(NUM_CLASSES).any()


def test_warmup_rises_linearly(tmp_path: Path) -> None:
    rates = []
    train(tmp_path, max_steps=6, warmup_steps=4, log=lambda metrics, step: rates.append(metrics["lr"]))
    assert rates == pytest.approx([LEARNING_RATE * share for share in (0.25, 0.5, 0.75, 1, 1, 1)])


@pytest.mark.parametrize("clip", [None, 0.01])
def test_gradients_are_clipped_and_their_norm_is_that_before(tmp_path: Path, clip: float | None) -> None:
    trainer = make_trainer(tmp_path, grad_clip=clip)
    norms = []

    def stepping(*_: Any) -> None:
        norms.append(
            torch.stack([p.grad.norm() for p in trainer.state.backbone.parameters() if p.grad is not None]).norm()
        )

    trainer.state.optimizer.register_step_pre_hook(stepping)
    trainer.train_step(next(iter(trainer.loader)))
    trainer.guard.settle()
    _, reported = trainer.guard.last
    assert reported > 0.02
    assert norms[0].item() == pytest.approx(reported if clip is None else clip, rel=1e-3)


def test_bf16_keeps_float32_weights(tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = make_trainer(tmp_path, precision=precision)
        value = trainer.train_step(next(iter(trainer.loader)))
        losses[precision] = value.loss.item()
        assert all(p.dtype == torch.float32 for p in trainer.state.backbone.parameters())
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    expected = [p.detach().clone() for p in trainer.state.backbone.parameters()]
    for step, batch in enumerate(itertools.islice(trainer.loader, 3), start=1):
        trainer.train_step(batch)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = [
            decay * e + (1 - decay) * p.detach()
            for e, p in zip(expected, trainer.state.backbone.parameters(), strict=True)
        ]
    trainer.save()  # the average follows a step when its verdict is asked for
    for got, value in zip(trainer.state.ema.averages["ema"], expected, strict=True):
        torch.testing.assert_close(got, value, atol=1e-6, rtol=0)


# --- the loop -----------------------------------------------------------------------------------------------------


def test_what_is_logged_and_when(tmp_path: Path) -> None:
    logged: dict[int, dict[str, float]] = {}
    train(tmp_path, max_steps=7, log_every=3, log=lambda metrics, step: logged.update({step: metrics}))
    assert list(logged) == [3, 6, 7]
    for metrics in logged.values():
        assert set(metrics) == {
            "loss",
            "grad_norm",
            "lr",
            "images_per_second",
            "skipped_steps",
            "loss/flow_matching",
            "loss/stage_0",
            "loss/stage_1",
        }
        assert metrics["loss"] == pytest.approx((metrics["loss/stage_0"] + metrics["loss/stage_1"]) / 2)
        assert metrics["images_per_second"] > 0


def test_grids_are_drawn_with_the_average(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=7, grid_every=3)
    grids = []
    last = {}
    trainer.hooks.on_grid = lambda weights, step: (grids.append(step), last.update(weights))
    trainer.fit()
    assert grids == [3, 6]
    averaged = dict(zip(trainer.state.network.names, trainer.state.ema.averages["ema"], strict=True))
    assert set(last) == set(trainer.state.backbone.state_dict())
    assert not all(torch.equal(last[name], p) for name, p in trainer.state.backbone.named_parameters())
    assert all(last[name].shape == value.shape for name, value in averaged.items())


def test_the_progress_line_is_plain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, max_steps=3)
    output = capsys.readouterr().err
    assert "\r" not in output
    assert re.search(r"step 3/3  loss \d\.\d{4} \(stages \d\.\d{4} \d\.\d{4}\)  \d+ images/s  0:00 left\n$", output)


# --- faults -------------------------------------------------------------------------------------------------------


class BadCalls(FlowMatching):
    """Its value becomes `value` in the given calls; there are two stages, so two calls a step."""

    def __init__(self, *calls: int, value: float = float("nan")) -> None:
        super().__init__()
        self.count, self.calls, self.value = 0, calls, value

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        self.count += 1
        loss = super().__call__(sample, predicted, batch)
        return loss * self.value if self.count in self.calls else loss


class RootOfZero(FlowMatching):
    """Zero, with an infinite slope."""

    def __call__(self, sample: FlowSample, predicted: Predicted, batch: Batch) -> Tensor:
        return (0 * super().__call__(sample, predicted, batch)).sqrt()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_steps_that_are_not_finite_are_skipped_and_end_the_run(tmp_path: Path, value: float, fused: bool) -> None:
    bad = BadCalls(*range(11, 100), value=value)  # from step 6 on
    trainer = make_trainer(tmp_path, save_every=2, loss=bad, max_bad_steps=3, fused=fused)
    with pytest.raises(TrainingDiverged) as error:
        trainer.fit()
    message = str(error.value)
    assert "the loss is not finite at step 8" in message
    assert "3 steps in a row were not (max_bad_steps=3)" in message
    assert f"{tmp_path / 'step_00000004'} is kept" in message
    assert "Lower the learning rate" in message
    assert CheckpointStore(tmp_path).steps() == [2, 4]  # none while it goes wrong
    assert all(t.isfinite().all() for t in load_checkpoint(tmp_path / "step_00000004").tensors["model"].values())
    assert all(p.isfinite().all() for p in trainer.state.backbone.parameters())


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_changes_neither_weights_nor_averages_nor_moments(tmp_path: Path, fused: bool) -> None:
    """Step 3 never was: with its data taken away, the run is the same but for the numbers keyed by the step."""
    logged: dict[int, dict[str, float]] = {}
    trainer = make_trainer(tmp_path, loss=BadCalls(5), max_steps=3, fused=fused,
                           log=lambda metrics, step: logged.update({step: metrics}))  # fmt: skip
    states = []
    for batch in itertools.islice(trainer.loader, 3):
        trainer.train_step(batch)
        trainer.optimizer_step.settle()
        slots = [v.clone() for state in trainer.state.optimizer.state.values() for v in state.values()]
        states.append(
            [
                p.detach().clone()
                for p in (*trainer.state.backbone.parameters(), *trainer.state.ema.averages["ema"], *slots)
            ]
        )
    assert all(torch.equal(a, b) for a, b in zip(states[1], states[2], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(states[0], states[1], strict=True))
    assert (trainer.guard.skipped, trainer.guard.in_a_row, trainer.step) == (1, 1, 3)


def test_a_skipped_step_is_counted_and_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logged: dict[int, dict[str, float]] = {}
    train(tmp_path, loss=BadCalls(5, 11), max_steps=7, max_bad_steps=2,
          log=lambda metrics, step: logged.update({step: metrics}))  # fmt: skip
    assert [logged[step]["skipped_steps"] for step in range(1, 8)] == [0, 0, 1, 1, 1, 2, 2]
    assert "loss" not in logged[3] and logged[4]["loss"] > 0  # no NaN in the records
    assert [r.message.split(":")[0] for r in caplog.records if r.levelname == "WARNING"] == [
        "step 3 is skipped",
        "step 6 is skipped",
    ]
    assert load_checkpoint(tmp_path / "step_00000007").state["guard"] == {"in_a_row": 0, "skipped": 2}


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, loss=RootOfZero(), max_bad_steps=1)
    with pytest.raises(TrainingDiverged, match=r"the gradient is not finite at step 1 .*no checkpoint was saved yet"):
        trainer.fit()
    assert all(p.isfinite().all() for p in trainer.state.backbone.parameters())


def test_rolling_back_takes_the_weights_of_the_checkpoint_and_the_data_that_follow(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, loss=BadCalls(*range(13, 17)), save_every=4, max_steps=12, max_bad_steps=2, rollbacks=1
    )
    trainer.fit()  # steps 7 and 8 fail; on from step 4 with the ninth batch
    state = load_checkpoint(tmp_path / "step_00000012").state
    assert (state["rollbacks"], state["guard"]) == (1, {"in_a_row": 0, "skipped": 2})
    assert state["loader"] == {"position": 8 * (12 + 4)}
    with pytest.raises(TrainingDiverged):
        make_trainer(tmp_path / "b", loss=BadCalls(*range(13, 100)), save_every=4, max_bad_steps=2, rollbacks=1).fit()


def test_a_failed_save_ends_the_run_and_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, max_steps=2)

    def save(flat: dict[str, Tensor], file: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("pixelflow.training.checkpoint.save_tensors", save)
    with pytest.raises(WorkFailed, match=r"step 4 could not be written .*the checkpoint of step 2 is whole"):
        train(tmp_path, max_steps=4)
    assert load_checkpoint(tmp_path / "step_00000002").step == 2
