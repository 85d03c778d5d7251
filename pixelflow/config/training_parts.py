"""From config to a trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor

from pixelflow.config.build import (
    Config,
    build_model,
    build_objective,
    pick_device,
    sampler_settings,
)
from pixelflow.model import Model
from pixelflow.nn.compile import compile_blocks
from pixelflow.nn.flops import DEFAULT_WIDTH, matrix_rate
from pixelflow.nn.kernel_timing import choose_kernel
from pixelflow.nn.kernels import set_kernel
from pixelflow.nn.pack import Layout
from pixelflow.processes import World
from pixelflow.reporting.figures import image_grid
from pixelflow.runs.context import Run
from pixelflow.sampling.sampler import to_uint8
from pixelflow.signals import stop_signal
from pixelflow.training.activation_checkpointing import checkpoint_blocks
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.costs import step_costs
from pixelflow.training.distributed import Network
from pixelflow.training.meter import Meter
from pixelflow.training.settings import TrainerSettings
from pixelflow.training.trainer import Trainer
from pixelflow.training.weights import init_from
from pixelflow.types import Condition

GRID_COLUMNS = 8
GRID_SCALE = 2


def checkpoint_store(config: Config, path: Path) -> CheckpointStore:
    trainer = config["trainer"]
    return CheckpointStore(path / "checkpoints", keep=trainer["keep_checkpoints"], keep_every=trainer["keep_every"])


def build_trainer(
    config: Config,
    run: Run,
    store: CheckpointStore,
    world: World,
    device: torch.device,
    mark: Callable[[str], None],
) -> Trainer:
    """The run's trainer, with its tracker, its meter and sample grids."""

    def log(metrics: dict[str, float], step: int) -> None:
        run.tracker.log(metrics, step=step)
        run.folder.set_status("running", job="train", step=step, max_steps=config["trainer"]["max_steps"])

    def grid(model: Model, weights: dict[str, Tensor], step: int) -> None:
        with torch.device("meta"):
            backbone = instantiate(config["backbone"])
        backbone.load_state_dict(weights, assign=True)
        drawn = replace(model, backbone=backbone.to(device).eval().requires_grad_(False))
        settings = replace(sampler_settings(config), cache_every=1, compile=False, cuda_graphs=False)
        sampler = drawn.sampler(settings=settings)
        labels = torch.arange(config["data"]["num_classes"]).repeat_interleave(GRID_COLUMNS)
        samples = sampler.sample(Condition(labels), sampler.keyed_noise(range(len(labels)), config["sampler"]["seed"]))
        path = run.path / "figures" / f"samples_{step:08d}.png"
        image_grid(to_uint8(samples.x).cpu(), path, columns=GRID_COLUMNS, scale=GRID_SCALE)
        run.tracker.artifact(path)

    trainer = assemble_trainer(
        config, store, world=world, device=device, report=run.path, log=log, grid=grid, mark=mark
    )
    trainer.meter = build_meter(config, trainer)
    return trainer


def build_meter(config: Config, trainer: Trainer) -> Meter:
    """Counts a step of this process on a copy without memory, and measures what the device could do."""
    with torch.device("meta"):
        bare = instantiate(config["backbone"])
    images = trainer.settings.batch_size // trainer.world.size
    costs = step_costs(bare, trainer.cascade, channels=config["data"]["channels"], images=images)
    dtype = torch.bfloat16 if trainer.settings.precision == "bf16" else torch.float32
    cuda = trainer.device.type == "cuda"
    rate = matrix_rate(
        getattr(trainer.backbone, "width", DEFAULT_WIDTH), dtype=dtype, device=trainer.device,
        tokens=4096 if cuda else 512, repeats=10 if cuda else 3,
    )  # fmt: skip
    return Meter(
        images=costs.images, tokens=costs.tokens, flops=costs.flops, device=trainer.device,
        processes=trainer.world.size, rate=rate,
    )  # fmt: skip


def assemble_trainer(
    config: Config,
    store: CheckpointStore,
    *,
    world: World | None = None,
    device: torch.device | None = None,
    report: Path | None = None,
    log: Callable[[dict[str, float], int], None],
    grid: Callable[[Model, dict[str, Tensor], int], None] | None = None,
    mark: Callable[[str], None] = lambda what: None,
) -> Trainer:
    """A trainer with freshly initialised weights. report: the folder that lists what data had to be skipped."""
    world = world or World()
    device = device or pick_device(config["trainer"]["device"])
    settings = instantiate(config["trainer"])
    torch.manual_seed(config["seed"])  # the initial weights, the same in all processes
    model = build_model(config)
    if config["init_from"] is not None and not store.steps():
        init_from(model.backbone, config["init_from"])
    network = build_network(config, model, settings, world, device)
    objective = build_objective(config, model, device)
    loader = instantiate(config["data"]).loader(
        batch_size=settings.batch_size, seed=config["seed"], rank=world.rank, world_size=world.size, device=device,
        report=report,
    )  # fmt: skip
    return Trainer(
        backbone=network,
        cascade=model.cascade,
        timesteps=instantiate(config["timesteps"]),
        prediction=model.prediction,
        conditioning=model.conditioning,
        objective=objective,
        optimizer=instantiate(config["optimizer"])(params=[*network.parameters, *objective.parameters()]),
        ema=instantiate(config["ema"]),
        loader=loader,
        checkpoints=store,
        settings=settings,
        seed=config["seed"],
        device=device,
        config=config,
        log=log,
        on_grid=None if grid is None else lambda weights, step: grid(model, weights, step),
        stop=lambda: stop_signal() is not None,
        mark=mark,
    )


def build_network(
    config: Config, model: Model, settings: TrainerSettings, world: World, device: torch.device
) -> Network:
    """The backbone on its device, as fast as the settings want it, alone or shared."""
    backbone, cascade = model.backbone.to(device), model.cascade
    resolutions = [cascade.resolution(stage) for stage in range(cascade.num_stages)]
    images = settings.images_per_part(world.size)
    share = -(-images // cascade.num_stages)
    pack = [torch.empty(share, 1, side, side, device="meta") for side in resolutions]
    layout = Layout.of(pack, int(backbone.patch_size))  # type: ignore[arg-type]
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    kernel = choose_kernel(settings.attention, layout, backbone=backbone, dtype=dtype, device=device)
    set_kernel(backbone, world.broadcast(kernel))
    checkpoint_blocks(backbone, settings.activation_checkpointing)
    if settings.compile:
        compile_blocks(backbone, resolutions=resolutions, device=device)
    return Network(backbone, world=world, parallel=settings.parallel, shard_size=settings.shard_size)
