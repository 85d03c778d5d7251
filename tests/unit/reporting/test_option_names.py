import pytest

from pixelflow.reporting.axes import axis_values
from pixelflow.reporting.option_names import option_name


@pytest.mark.parametrize(
    ("key", "target", "name"),
    [
        ("backbone._target_", "pixelflow.backbones.JiT", "jit"),  # jit_b, jit_l, jit_tiny, jit_xl
        ("backbone._target_", "pixelflow.backbones.PixelFlow", "pixelflow"),
        ("prediction._target_", "pixelflow.flow.VelocityPrediction", "velocity"),
        ("prediction._target_", "pixelflow.flow.XPrediction", "x"),
        ("solver._target_", "pixelflow.solvers.Euler", "euler"),
        ("guidance._target_", "pixelflow.flow.StageWiseGuidance", "stage_wise"),
        ("objective.terms.mine._target_", "pixelflow.losses.Lpips", "lpips"),  # of the only group that has it
        ("cascade._target_", "pixelflow.flow.Cascade", "Cascade"),  # kickoff, single and stages begin differently
        ("solver._target_", "mine.Euler", "Euler"),  # no option
        ("solver._target_", "–", "–"),
    ],
)
def test_a_class_is_named_by_its_options(key: str, target: str, name: str) -> None:
    assert option_name(key, target) == name


def test_a_class_with_a_method_is_named_after_it() -> None:
    adaptive = "pixelflow.solvers.AdaptiveRungeKutta"
    assert option_name("solver._target_", adaptive, "dopri5") == "dopri5"
    assert option_name("solver._target_", adaptive, "rk23") == option_name("solver._target_", adaptive)
    configs = [{"solver._target_": adaptive, "solver.method": name} for name in ("bosh3", "dopri5")]
    configs.append({"solver._target_": "pixelflow.solvers.Euler"})
    assert axis_values(configs, "solver._target_") == ["bosh3", "dopri5", "euler"]
