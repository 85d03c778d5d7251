"""A model: backbone, cascade, prediction and conditioning."""
