from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pixelflow.metrics.features import DigitsFeatures


def test_features_do_not_depend_on_the_batch_or_on_autocast(extractor: DigitsFeatures, digits) -> None:
    images = digits[1].images[:65]
    whole = extractor(images)
    assert whole.pool.shape == (65, extractor.num_features) and whole.logits.shape == (65, 10)
    assert whole.pool.dtype == whole.logits.dtype == torch.float32
    for batch_size in (1, 7, 64):
        pool = torch.cat([extractor(batch).pool for batch in images.split(batch_size)])
        torch.testing.assert_close(pool, whole.pool, rtol=1e-6, atol=1e-7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(extractor(images).pool, whole.pool, rtol=1e-6, atol=1e-7)


def test_grey_in_three_channels_is_grey(extractor: DigitsFeatures, digits) -> None:
    images = digits[1].images[:10]
    torch.testing.assert_close(extractor(images.expand(-1, 3, -1, -1)).pool, extractor(images).pool)


def test_it_is_in_eval_mode_without_gradients(extractor: DigitsFeatures, digits) -> None:
    assert not extractor.model.training
    assert not extractor(digits[1].images[:2]).pool.requires_grad


def test_images_on_their_way_to_the_metrics_must_be_uint8(extractor: DigitsFeatures) -> None:
    with pytest.raises(ValueError, match=r"pixelflow\.sampling\.to_uint8 converts"):
        extractor(torch.zeros(2, 1, 16, 16))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_features_are_the_same_on_a_gpu(extractor: DigitsFeatures, digits) -> None:
    images = digits[1].images
    got = DigitsFeatures(device="cuda")(images).pool.cpu()
    torch.testing.assert_close(got, extractor(images).pool, rtol=1e-6, atol=1e-7)


def test_importing_the_metrics_imports_nothing_slow() -> None:
    code = (
        "import sys, pixelflow.metrics.evaluator\n"
        "print(sorted({'torch_fidelity', 'sklearn', 'torchvision'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
