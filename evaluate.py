"""Metrics of a checkpoint or of images: python evaluate.py checkpoint=PATH | samples=FOLDER_OR_NPZ."""

from pixelflow.commands import evaluate

if __name__ == "__main__":
    evaluate()
