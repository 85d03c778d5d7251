"""Configs: composing by Hydra, validation against signatures, cross-checks, and building parts from them."""
