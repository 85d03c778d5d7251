"""Conditions of the network, and the null condition of guidance."""

from pixelflow.conditioning.class_label import ClassLabel

__all__ = ["ClassLabel"]
