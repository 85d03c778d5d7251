from __future__ import annotations

import time

import torch.distributed as dist

from pixelflow.training.watchdog import Watchdog


class Words(dist.HashStore):
    """A store of one process, which all watchdogs may share."""

    def clone(self) -> Words:
        return self


def test_who_is_ended_first_leaves_its_reason_to_the_others() -> None:
    """Else they would find no more than a lost connection."""
    words, ended, messages = Words(), [], []
    words.set("at 0", "7|updating, on a")
    dog = Watchdog(rank=1, size=2, store=words, seconds=0.3, on_end=messages.append, end=ended.append)
    with dog:
        dog.mark("waiting for data")
        while not ended:
            time.sleep(0.01)
    assert ended == [1] and "the others wait for process 2 of 2 (waiting for data, on " in messages[0]
    assert words.get("failure").decode() == messages[0]
    assert words.check(["left 1"])
