from pixelflow.data.digits import Digits
from pixelflow.data.huggingface import HuggingFace
from pixelflow.data.image_text import ImageText
from pixelflow.data.imagefolder import ImageFolder
from pixelflow.data.loader import Reading
from pixelflow.data.shapes import Shapes
from pixelflow.data.transforms import Preprocess
from pixelflow.data.webdataset import WebDataset

__all__ = ["Digits", "HuggingFace", "ImageFolder", "ImageText", "Preprocess", "Reading", "Shapes", "WebDataset"]
