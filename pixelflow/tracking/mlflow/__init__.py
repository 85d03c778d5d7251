"""MLflow as a mirror of metrics.jsonl."""
