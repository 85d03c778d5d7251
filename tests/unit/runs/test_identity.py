from __future__ import annotations

from pixelflow.runs.identity import config_hash, scientific, slug

CONFIG = {
    "experiment": "a",
    "seed": 0,
    "runs_dir": "runs",
    "trainer": {"max_steps": 10, "device": "cpu", "log_every": 5},
    "solver": {"num_steps": 10},
    "tracking": {"uri": None},
}


def changed(**sections: object) -> dict:
    return {**CONFIG, **sections}


def test_machine_keys_do_not_change_the_hash() -> None:
    other = changed(
        experiment="b", runs_dir="/x", tracking={"uri": "http://x"},
        trainer={"log_every": 1, "device": "cuda", "max_steps": 10},
    )  # fmt: skip
    assert config_hash(other) == config_hash(CONFIG)
    assert scientific(CONFIG)["trainer"] == {"max_steps": 10}


def test_scientific_keys_do() -> None:
    hashes = {
        config_hash(CONFIG),
        config_hash(changed(seed=1)),
        config_hash(changed(solver={"num_steps": 11})),
        config_hash(changed(trainer={"max_steps": 11})),
    }
    assert len(hashes) == 4


def test_hash_is_stable_across_versions() -> None:
    """A changed rule would make every finished run look unfinished."""
    assert config_hash({"seed": 0, "solver": {"num_steps": 10, "shift": 1.0}}) == "4254c1ca"


def test_slug() -> None:
    assert slug([]) == "default"
    assert slug(["experiments=x", "job=train", "tracking=none", "trainer.device=cpu"]) == "default"
    assert slug(["cascade.num_stages=2", "+seed=1"]) == "num_stages-2_seed-1"
    assert slug(["experiments/digits_pixelgen@_global_=jit_x", "seed=1"]) == "digits_pixelgen-jit_x_seed-1"
    assert slug(["solver.num_steps=[1, 2]", "guidance=none"]) == "num_steps-1-2_guidance-none"
    assert len(slug([f"a.key{i}=value" for i in range(50)])) <= 60
