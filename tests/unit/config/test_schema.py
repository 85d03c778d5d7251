from __future__ import annotations

from typing import Literal

import pytest

from pixelflow.config.schema import check_group, check_type


class Part:
    def __init__(self, *, size: int, rate: float = 0.1, kind: Literal["a", "b"] = "a", sizes: list[int] | None = None):
        pass


TARGET = f"{__name__}.Part"


def test_fits() -> None:
    check_group({"_target_": TARGET, "size": 3, "rate": 1, "kind": "b", "sizes": [1, 2]}, "part", trust=[__name__])
    check_group({"_target_": TARGET}, "part", given=("size",), trust=[__name__])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"size": 3, "sise": 4}, r"part.sise is not an option of .*Part; did you mean size\?"),
        ({"size": 3, "zzz": 4}, r"part.zzz is not an option of .*accepted: size, rate, kind, sizes"),
        ({}, r"part.size is missing"),
        ({"size": "3"}, r"part.size='3': must be a valid integer"),
        ({"size": True}, r"part.size=True: must be a valid integer"),
        ({"size": 3, "rate": "x"}, r"part.rate='x': must be a valid number"),
        ({"size": 3, "kind": "c"}, r"part.kind='c': must be 'a' or 'b'"),
        ({"size": 3, "sizes": [1, "2"]}, r"part.sizes=\[1, '2'\]: must be a valid list"),
    ],
)
def test_does_not_fit(node: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_group({"_target_": TARGET, **node}, "part", trust=[__name__])


def test_a_target_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"part._target_=csv.Here cannot be imported: .* no attribute 'Here'"):
        check_group({"_target_": "csv.Here"}, "part", trust=["csv"])


def test_nested_parts_are_checked() -> None:
    node = {
        "_target_": "pixelflow.losses.Objective",
        "terms": {"a": {"_target_": "pixelflow.losses.FlowMatching", "x": 1}},
    }
    with pytest.raises(ValueError, match=r"objective.terms.a.x is not an option of pixelflow.losses.FlowMatching"):
        check_group(node, "objective")


def test_lists_serve_for_tuples() -> None:
    check_type([0.9, 0.999], tuple[float, float], "betas")
    with pytest.raises(ValueError, match="betas"):
        check_type([0.9], tuple[float, float], "betas")
