from __future__ import annotations

import torch

from pixelflow.nn.norms import RMSNorm


def test_root_mean_square_in_float32() -> None:
    norm = RMSNorm(4)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 4, dtype=torch.bfloat16)
    expected = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-7)
