"""Metrics of a checkpoint or of images: python evaluate.py checkpoint=PATH | samples=FOLDER_OR_NPZ."""

import hydra
from omegaconf import DictConfig

from pixelflow.cli import dispatch, main


@hydra.main(config_path="conf", config_name="evaluate", version_base="1.3")
def run(config: DictConfig) -> object:
    return dispatch(config)


if __name__ == "__main__":
    main(run)
