"""job=data: describes the data (counts, classes, sizes, damage, throughput) and draws a contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from pixelflow.config.build import Config
from pixelflow.data.inspection import describe_samples, measure_loader
from pixelflow.files import write_json
from pixelflow.reporting.contact_sheet import IMAGES, contact_sheet


def run(config: Config, overrides: list[str]) -> None:
    """Print and store the facts about the data."""
    data, job = instantiate(config["data"]), config["job"]
    folder = Path(job["output"]) / data.spec.name
    facts = describe_samples(data, job["samples"])
    measured, first = measure_loader(
        data, seed=config["seed"], batch_size=job["batch_size"], batches=job["batches"], report=folder, kept=IMAGES
    )
    facts |= measured
    sheet = contact_sheet(first, data.class_names(), folder / "contact_sheet.png")
    write_json(folder / "data.json", facts)
    print("\n".join(f"{key:24} {_text(value)}" for key, value in facts.items()))
    print(f"contact sheet: {sheet}\nrecord: {folder / 'data.json'}")


def _text(value: Any) -> str:
    return ", ".join(f"{count} {what}" for what, count in value.items()) if isinstance(value, dict) else str(value)
