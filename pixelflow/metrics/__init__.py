"""Metrics of generated images: features, distances to a reference, and the catalogue that describes them."""
