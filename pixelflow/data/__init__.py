from pixelflow.data.digits import Digits
from pixelflow.data.imagefolder import ImageFolder
from pixelflow.data.loader import Reading
from pixelflow.data.shapes import Shapes
from pixelflow.data.transforms import Preprocess

__all__ = ["Digits", "ImageFolder", "Preprocess", "Reading", "Shapes"]
