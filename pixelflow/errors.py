"""The three errors that a command reports in a line or two. Any other exception is a bug and shows its traceback."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in a command, a config or a file. The message names what is wrong and the remedy; exit status 2.

    Library code raises it for files that it cannot use; the framework raises it for configs and adds the config key.
    """


class WorkFailed(RuntimeError):
    """The work could not be done: training diverged, the disk is full, another process was lost; exit status 1."""


class Interrupted(Exception):
    """The work stopped on request and everything is saved: the same command continues it; exit status 75."""
