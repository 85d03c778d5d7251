"""Every job is declared once; its declaration is what dispatch, validation and help read."""

from __future__ import annotations

import pytest

from pixelflow.jobs import find_job, job_names
from tests.conf.test_compose import ROOT


def test_every_module_of_the_folder_is_a_job() -> None:
    modules = {path.stem for path in (ROOT / "pixelflow" / "jobs").glob("*.py")} - {"__init__"}
    assert set(job_names()) == modules and len(modules) == 18


@pytest.mark.parametrize("name", job_names())
def test_declaration(name: str) -> None:
    job = find_job(name)
    assert job.name == name and job.help and "\n" not in job.help
    assert job.options.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert job.read(job.defaults()) == job.options()
    for key in job.defaults():
        if key != "name":
            with pytest.raises(ValueError, match=rf"^job\.{key}="):
                job.read({key: object()})
    with pytest.raises(ValueError, match=f"job.nonsense is not an option of job={name}"):
        job.read({"nonsense": 1})


def test_values_out_of_range_are_named_with_their_key() -> None:
    with pytest.raises(ValueError, match=r"^job\.tflops=0\.0 must be above 0"):
        find_job("benchmark").read({"tflops": 0.0})
    with pytest.raises(ValueError, match=r"^job\.workers=-1 must be at least 0"):
        find_job("prepare").read({"workers": -1})


def test_an_unknown_job() -> None:
    with pytest.raises(ValueError, match="job=trian does not exist; one of: benchmark, "):
        find_job("trian")
