"""The one entrypoint: train, sample, evaluate and the other jobs. `python run.py --help` lists them."""

import hydra
from omegaconf import DictConfig

from pixelflow.cli import dispatch, main


@hydra.main(config_path="conf", config_name="run", version_base="1.3")
def run(config: DictConfig) -> object:
    return dispatch(config)


if __name__ == "__main__":
    main(run)
