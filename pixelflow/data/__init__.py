"""Data sources: images with classes or captions as endless, seeded sequences of batches."""

from pixelflow.data.digits import Digits
from pixelflow.data.huggingface import HuggingFace
from pixelflow.data.image_text import ImageText
from pixelflow.data.imagefolder import ImageFolder
from pixelflow.data.images import DataSource, ImageData
from pixelflow.data.in_memory import MemorySource
from pixelflow.data.shapes import Shapes
from pixelflow.data.spec import ImageOptions, ImageSpec, Reading
from pixelflow.data.transforms import Preprocess
from pixelflow.data.webdataset import WebDataset

__all__ = [
    "DataSource",
    "Digits",
    "HuggingFace",
    "ImageData",
    "ImageFolder",
    "ImageOptions",
    "ImageSpec",
    "ImageText",
    "MemorySource",
    "Preprocess",
    "Reading",
    "Shapes",
    "WebDataset",
]
