"""job=sample in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import pixelflow
from pixelflow.config.build import build_model
from pixelflow.errors import UserError
from pixelflow.runs.places import FOREIGN
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.workflows.make_samples import sample
from tests.conf.test_compose import composed

TINY = ["backbone.depth=2", "backbone.num_heads=2", "solver.num_steps=2"]


def checkpoint_of(folder: Path) -> Path:
    """A network of random weights that do something, in the place of a run's."""
    config = composed(*TINY)
    network = build_model(config).backbone
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.eq(0).all():
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    weights = network.state_dict()
    return CheckpointStore(folder / "checkpoints").save(3, {"ema": weights, "model": weights}, {"config": config})


def test_the_job_and_the_library_give_the_same_images_bit_for_bit(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    for solver in ([], ["solver=heun", "solver.num_steps=3", "guidance.scale=4", "sampler.seed=5"]):
        arguments = [
            "job=sample",
            f"runs_dir={tmp_path}",
            f"checkpoint={checkpoint}",
            "sampler.num_samples=23",
            "sampler.batch_size=10",
            *solver,
        ]
        config = composed(*arguments)
        folder = sample(config, str(checkpoint))
        assert folder.parents[2] == tmp_path / FOREIGN  # the checkpoint lies in no run
        with np.load(folder / "images.npz") as archive:
            expected, labels = archive["arr_0"], archive["arr_1"]
        model = pixelflow.load(tmp_path, device="cpu")
        if solver:
            images = model.sample(num_images=23, seed=5, batch_size=10, solver="heun", num_steps=3, guidance=4)
        else:
            images = model.sample(num_images=23, batch_size=10)
        assert images.std() > 1 and images.shape == (23, 16, 16, 1)
        assert np.array_equal(images.repeat(3, axis=-1), expected)
        assert labels.tolist() == [i % 10 for i in range(23)]


def test_a_saved_model_that_was_never_trained(tmp_path: Path) -> None:
    """Its config has no trainer, no metrics and no source of data; the job takes those of the command."""
    model = pixelflow.build(image_size=16, num_stages=2, num_classes=10, channels=1, depth=2)
    checkpoint = model.save(tmp_path / "checkpoints" / "mine")
    config = composed(
        "job=sample", f"runs_dir={tmp_path}", f"checkpoint={checkpoint}", "sampler.num_samples=12", "solver.num_steps=2"
    )
    assert config["backbone"] == model.recipe.config["backbone"] and config["cascade"]["num_stages"] == 2
    with np.load(sample(config, str(checkpoint)) / "images.npz") as archive:
        images = archive["arr_0"]
    assert np.array_equal(images, model.sample(num_images=12, num_steps=2).repeat(3, axis=-1))


def test_sizes_of_a_saved_model_that_the_data_do_not_have(tmp_path: Path) -> None:
    model = pixelflow.build(image_size=32, num_stages=2, num_classes=100, depth=2)
    call = ["job=sample", f"checkpoint={model.save(tmp_path / 'mine')}"]
    folder = ["data=imagefolder", f"data.root={tmp_path}"]
    with pytest.raises(UserError, match=r"data\.num_classes=100 must be 10 .* data=NAME"):
        composed(*call)
    with pytest.raises(UserError, match=r"data\.num_classes=10: data is fixed by the checkpoint"):
        composed(*call, *folder, "data.num_classes=10")
    config = composed(*call, *folder)
    assert (config["data"]["image_size"], config["data"]["num_classes"]) == (32, 100)


def test_a_recipe_of_samples_sets_the_sampler_and_the_checkpoint_the_rest(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(tmp_path)
    config = composed("experiments=figure3_stages/mini", f"checkpoint={checkpoint}", "sampler.seed=5")
    assert (config["sampler"]["trajectories"], config["sampler"]["num_samples"]) == (10, 10)
    assert config["sampler"]["seed"] == 5 and config["backbone"]["depth"] == 2
    assert config["guidance"]["num_stages"] == config["cascade"]["num_stages"] == 2
