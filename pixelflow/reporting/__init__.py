"""Ablation tables, charts and figures of finished runs."""
