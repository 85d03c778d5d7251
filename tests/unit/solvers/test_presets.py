from __future__ import annotations

from typing import Any

import pytest

from pixelflow.solvers import AdamsBashforth, Euler, Heun, few_steps


@pytest.mark.parametrize(("method", "kind"), [("euler", Euler), ("heun", Heun), ("adams_bashforth", AdamsBashforth)])
@pytest.mark.parametrize(("num_stages", "steps"), [(1, [4]), (2, [9, 4]), (4, [9, 9, 9, 4])])
def test_steps_of_the_last_stage(method: Any, kind: type, num_stages: int, steps: list[int]) -> None:
    solver = few_steps(method=method, coarse_steps=9, last_steps=4, num_stages=num_stages, order=3, shift=2.0)
    assert type(solver) is kind and solver.num_steps == steps and solver.shift == 2.0
    assert [len(solver.time_grid(stage)) - 1 for stage in range(num_stages)] == steps
    if isinstance(solver, AdamsBashforth):
        assert solver.order == 3


@pytest.mark.parametrize("name", ["coarse_steps", "last_steps"])
def test_errors(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        few_steps(**({"coarse_steps": 2, "last_steps": 2, "num_stages": 2} | {name: 0}))  # type: ignore[arg-type]
