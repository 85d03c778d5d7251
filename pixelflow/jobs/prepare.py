"""job=prepare: writes any data as tar shards, cropped and encoded, with an index; run again, it continues."""

from __future__ import annotations

import time
from pathlib import Path

from hydra.utils import instantiate

from pixelflow.config.build import Config, prepare_settings
from pixelflow.data.preparation import prepare
from pixelflow.progress import Progress


def run(config: Config, overrides: list[str]) -> None:
    """Write the shards, and print the options with which to train from them."""
    job, data = config["job"], instantiate(config["data"])
    settings = prepare_settings(config)
    encoder = instantiate(job["text_encoder"]) if job["text_encoder"] else None
    output = Path(job["output"]).expanduser()
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
        data, split=job["split"], output=output, settings=settings, workers=job["workers"],
        max_bad_share=job["max_bad_share"], text_encoder=encoder,
        encoder_name=None if encoder is None else str(job["text_encoder"]), progress=show,
    )  # fmt: skip
    if progress is not None:
        progress.close()
    print(f"{index['samples']} samples in {len(index['shards'])} shards, {time.perf_counter() - start:.0f} s: {output}")
    if index["bad"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in index["bad"].items())
        print(f"left out: {reasons}; listed in {output / 'bad_samples.jsonl'}")
    option = f"webdataset data.num_classes={data.spec.num_classes}" if data.labelled else "image_text"
    image_size = data.spec.image_size
    sizes = f"data.image_size={image_size} data.preprocess.crop={'random' if settings.size > image_size else 'center'}"
    print(f"train with: data={option} data.root={output} {sizes}")
