"""Finds what a config leaves open about its data: `data.image_size`, `data.num_classes` and `data.name`.

All other sections refer to these keys, so the data are looked at once, before anything is validated, and the recorded
config holds what was found. A value that is given and the same value that is found are the same run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pixelflow.config.accepted import Accepted
from pixelflow.config.schema import check_group, option_names, trusted, with_key
from pixelflow.config.values import check_values
from pixelflow.data.images import ImageData
from pixelflow.parts import instantiate

logger = logging.getLogger(__name__)

FINDERS = {
    "num_classes": "find_num_classes",
    "image_size": "find_image_size",
    "name": "own_name",
}
"""The keys of `data` that may be null, and the methods of a data source that find them."""


def find_sizes(config: DictConfig, accepted: Accepted) -> None:
    """Replaces the keys of `data` that are null by what is found in the data.

    Args:
        config: A config as Hydra composed it. Its section `data` is changed.
        accepted: Keeps what was found, for the runs of a sweep.

    Raises:
        UserError: A value cannot be found, or the section is invalid; the message names the key.
    """
    if not OmegaConf.is_dict(config.get("data")):
        return
    node: Any = OmegaConf.to_container(config.data, resolve=True)
    missing = [key for key in FINDERS if key in node and node[key] is None]
    if not missing or "_target_" not in node:
        return
    for key, value in accepted.made("sizes", lambda: _found(node, missing, trusted(config)), node).items():
        OmegaConf.update(config, f"data.{key}", value)


def _found(node: Mapping[str, Any], missing: list[str], trust: tuple[str, ...]) -> dict[str, Any]:
    check_values({"data": node})
    accepted = option_names(node, "data", trust=trust)
    given = {key: value for key, value in node.items() if key not in missing and (key in accepted or key[0] == "_")}
    check_group(given, "data", trust=trust)
    data = with_key(lambda: instantiate(given, trust=trust), given, "data")
    if not isinstance(data, ImageData):  # the check of the whole config says what is missing
        return {}
    found = {key: with_key(getattr(data, FINDERS[key]), node, "data") for key in missing}
    logger.info("found in the data: %s", ", ".join(f"data.{key}={value}" for key, value in found.items()))
    return found
