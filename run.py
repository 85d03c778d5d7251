"""The one entrypoint: train, sample, evaluate and the other jobs. `python run.py --help` lists them."""

from pixelflow.commands import run

if __name__ == "__main__":
    run()
