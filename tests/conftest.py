from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from pixelflow.terminal import Transcript

# The same draws at every call, so that a change of the code alone changes the result of a test.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-dir", help="folder of golden cases for tests/parity (default: tests/golden)")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it brings
    # A shell starts what runs in the background without SIGINT. Tests send it, also to processes that they start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_transcript() -> Iterator[None]:
    """A command that was called in this process would write the output of later tests to the log of its run."""
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, Transcript)]:
        root.removeHandler(handler)
        handler.end()


MISSING = {
    "gpu": None if torch.cuda.is_available() else "no CUDA device",
    "slurm": None if shutil.which("slurmctld") and shutil.which("munged") else "no SLURM (slurm-wlm and munge)",
    "browser": None if shutil.which("chromium") else "no Chromium",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests that this machine cannot run, with the reason."""
    for item in items:
        for mark, reason in MISSING.items():
            if reason is not None and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))
