"""Measurements of time, memory and quality side by side; `job=benchmark` and its relatives run them."""
