"""A sweep: plan, claims, submission, supervision, states, retry, cancel, sync, and its tables."""
