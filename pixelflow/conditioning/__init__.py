from pixelflow.conditioning.class_label import ClassLabel

__all__ = ["ClassLabel"]
