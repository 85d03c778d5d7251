from pixelflow.data.digits import Digits

__all__ = ["Digits"]
