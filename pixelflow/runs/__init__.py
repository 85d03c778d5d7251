"""Runs: identity, folder, state and provenance."""
