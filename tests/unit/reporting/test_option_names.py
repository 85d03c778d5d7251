import pytest

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
