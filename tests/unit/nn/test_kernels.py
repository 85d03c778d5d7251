from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from pixelflow.backbones import JiT
from pixelflow.nn.kernel_timing import choose_kernel, fastest_backends, least_seconds, time_kernels
from pixelflow.nn.kernels import KERNELS, attention_modules, image_ends, set_kernel, unavailable
from pixelflow.nn.pack import Layout
from tests.tiny import tiny_pixelflow

CPU = torch.device("cpu")
PACK = [torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(side)) for side in (4, 8)]


def groups(layout: Layout, heads: int, head_dim: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(g.num_images, g.length, heads, head_dim) for g in layout]
    return [[torch.randn(s, generator=generator, requires_grad=True) for s in shapes] for _ in range(3)]


def test_dense_groups_are_attention_of_each_image_alone() -> None:
    """Compares with the formula, image by image."""
    layout = Layout.of(PACK, 2).with_prefix(3)
    q, k, v = groups(layout, heads=2, head_dim=8)
    expected = []
    for q_g, k_g, v_g in zip(q, k, v, strict=True):
        for image in range(len(q_g)):
            scores = torch.einsum("ihe,jhe->hij", q_g[image], k_g[image]) / 8**0.5
            expected.append(torch.einsum("hij,jhe->ihe", scores.softmax(-1), v_g[image]).flatten(1))
    torch.testing.assert_close(KERNELS["dense_groups"](q, k, v, layout), torch.cat(expected), atol=1e-5, rtol=1e-4)


def test_image_ends() -> None:
    layout = Layout.of(PACK, 2)
    assert image_ends(layout, CPU).tolist() == [0, 4, 8, 24, 40]
    assert image_ends(layout.with_prefix(1), CPU).tolist() == [0, 5, 10, 27, 44]
    assert image_ends(layout, CPU).dtype == torch.int32


def test_what_cannot_be_used_here_is_refused() -> None:
    settings: dict[str, Any] = {"backbone": tiny_pixelflow(), "dtype": torch.float32, "device": CPU}
    assert choose_kernel("auto", Layout.of(PACK, 2), **settings) == "dense_groups"
    for name in ("varlen", "flash_attn"):
        with pytest.raises(ValueError, match=f"attention={name} needs a CUDA device; use auto or dense_groups"):
            choose_kernel(name, Layout.of(PACK, 2), **settings)
    assert unavailable("varlen", dtype=torch.float32, device=torch.device("cuda")) == "needs precision=bf16"


def test_the_kernel_reaches_every_attention() -> None:
    model = tiny_pixelflow(depth=3)
    set_kernel(model, "varlen")
    assert [block.attn1.kernel for block in model.transformer_blocks] == ["varlen"] * 3


def test_heads_are_those_of_the_attention_modules() -> None:
    jit = JiT(image_size=8, patch_size=2, width=24, depth=2, num_heads=3, num_classes=5, in_context_len=0)
    for model, heads, head_dim in ((tiny_pixelflow(num_heads=4, head_dim=8), 4, 8), (jit, 3, 8)):
        modules = attention_modules(model)
        assert len(modules) == 2 and {(m.num_heads, m.head_dim) for m in modules} == {(heads, head_dim)}


def test_a_backbone_without_attention_has_no_kernel_to_choose() -> None:
    model, layout = nn.Conv2d(1, 1, 3), Layout.of(PACK, 2)
    bf16_cuda: dict[str, Any] = {"dtype": torch.bfloat16, "device": torch.device("cuda")}
    assert choose_kernel("auto", layout, backbone=model, **bf16_cuda) == "dense_groups"
    assert choose_kernel("dense_groups", layout, backbone=model, dtype=torch.float32, device=CPU) == "dense_groups"
    with pytest.raises(ValueError, match="attention=varlen needs attention modules with kernel, num_heads"):
        choose_kernel("varlen", layout, backbone=model, **bf16_cuda)
    assert fastest_backends(model, [(2, 4)], dtype=torch.float32, device=CPU) is None
    set_kernel(model, "varlen")
    assert not hasattr(model, "kernel")


def test_a_backend_is_chosen_for_each_shape() -> None:
    chosen = fastest_backends(tiny_pixelflow(), [(2, 4), (1, 16)], dtype=torch.float32, device=CPU)
    assert chosen is not None and len(chosen) == 2
    assert all(isinstance(backend, SDPBackend) for backend in chosen)


def test_the_least_time_of_all_calls_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, 10.0, 12.0, 20.0, 23.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    calls: list[int] = []
    assert least_seconds(lambda: calls.append(1), device=CPU, repeats=3) == 2.0
    assert len(calls) == 3


def test_only_usable_kernels_are_timed() -> None:
    times = time_kernels(Layout.of(PACK, 2), heads=2, head_dim=8, dtype=torch.float32, device=CPU)
    assert list(times) == ["dense_groups"] and times["dense_groups"] > 0
