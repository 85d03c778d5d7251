"""job=prepare: any data to tar shards, cropped and encoded, with an index.

A command that was stopped continues when it is run again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pixelflow.config.job import Config, Job, at_least
from pixelflow.config.schema import build, check_group, trusted, with_key
from pixelflow.errors import UserError
from pixelflow.terminal import say


@dataclass(frozen=True)
class PrepareOptions:
    """Options of job=prepare.

    Args:
        output: an empty folder, or one where the same command was stopped.
        split: the part of the data.
        size: pixels of the stored images; None for what data.preprocess.crop needs: 1.125 image_size (random) or
            image_size.
        format: of the stored images.
        quality: of jpg and webp.
        samples_per_shard: images in a tar file.
        workers: processes; 0 for none.
        max_bad_share: the largest accepted share of damaged samples.
        text_encoder: a node with `_target_`, called with a list of captions; its tokens (B, L, D) are stored.
    """

    output: str | None = None
    split: Literal["train", "held_out"] = "train"
    size: int | None = None
    format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = 95
    samples_per_shard: int = 1000
    workers: int = 4
    max_bad_share: float = 0.01
    text_encoder: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        at_least(0, self, "workers")
        at_least(1, self, "size")
        if not 0 <= self.max_bad_share <= 1:
            raise ValueError(f"max_bad_share={self.max_bad_share} must be in [0, 1]")


def check(config: Config, options: PrepareOptions) -> None:
    """Raises ValueError without an output folder, or for sizes and an encoder that do not fit."""
    if not options.output:
        raise UserError("job=prepare needs job.output=FOLDER, where the shards go")
    if options.text_encoder:
        check_group(options.text_encoder, "job.text_encoder", trust=trusted(config))
    build(config, "data")
    with_key(lambda: settings_of(config, options), config["job"], "job")


def settings_of(config: Config, options: PrepareOptions) -> Any:
    """Returns the PrepareSettings; the size is by default what the training crop needs."""
    from pixelflow.data.encoding import PrepareSettings

    spec = build(config, "data").spec
    size = options.size or spec.preprocess.stored_size(spec.image_size)
    return PrepareSettings(
        size=size, format=options.format, quality=options.quality, samples_per_shard=options.samples_per_shard
    )


def run(config: Config, options: PrepareOptions, overrides: list[str]) -> None:
    """Writes the shards and their index, and prints how to train with them."""
    from pixelflow.data.preparation import prepare  # torch: seconds
    from pixelflow.progress import Progress

    data, settings = build(config, "data"), settings_of(config, options)
    encoder = build(config, "job.text_encoder") if options.text_encoder else None
    output = Path(str(options.output)).expanduser()
    start = time.perf_counter()
    progress: Progress | None = None

    def show(done: int, total: int) -> None:
        nonlocal progress
        if progress is None:
            progress = Progress(total=total, done=done, unit="shard")
        else:
            progress.advance(1, images=settings.samples_per_shard)
            progress.show()

    index = prepare(
        data, split=options.split, output=output, settings=settings, workers=options.workers,
        max_bad_share=options.max_bad_share, text_encoder=encoder,
        encoder_name=None if encoder is None else str(options.text_encoder), progress=show,
    )  # fmt: skip
    if progress is not None:
        progress.close()
    say(f"{index['samples']} samples in {len(index['shards'])} shards, {time.perf_counter() - start:.0f} s: {output}")
    if index["bad"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in index["bad"].items())
        say(f"left out: {reasons}; listed in {output / 'bad_samples.jsonl'}")
    option = f"webdataset data.num_classes={data.spec.num_classes}" if data.labelled else "image_text"
    crop = "random" if settings.size > data.spec.image_size else "center"
    sizes = f"data.image_size={data.spec.image_size} data.preprocess.crop={crop}"
    say(f"train with: data={option} data.root={output} {sizes}")


JOB = Job(
    name="prepare",
    help="any data to tar shards: job=prepare data=imagefolder data.root=FOLDER job.output=SHARDS",
    run=run,
    options=PrepareOptions,
    needs=frozenset({"data"}),
    check=check,
)
