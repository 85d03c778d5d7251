"""The class-conditional JiT transformer, on which PixelGen is trained (Li & He 2025, arXiv 2511.13720).

Module names are those of PixelGen's released checkpoints, so their state dict loads as it is. A pack of several
resolutions goes through one forward where the fixed position table is left out.
Shape legend: B images, b images of one resolution, L tokens of one image, N tokens of the pack, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.nn.attention import HeadNormAttention
from pixelflow.nn.embeddings import LabelEmbedder, TimeEmbedder, grid_sincos
from pixelflow.nn.norms import RMSNorm
from pixelflow.nn.pack import Layout
from pixelflow.nn.patches import BottleneckPatchEmbed, patchify, unpatchify
from pixelflow.nn.rope import Rope2D
from pixelflow.types import BackboneOutput, Condition


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def gated(x: Tensor, gate: Tensor) -> Tensor:
    return x * gate


class Modulation(nn.Sequential):
    """SiLU and a linear layer: (B, D) -> `parts` tensors (B, D), float32 whatever the autocast."""

    def __init__(self, *, width: int, parts: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(width, parts * width))
        self.parts = parts

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return super().forward(condition).float().chunk(self.parts, dim=-1)


class SwiGLU(nn.Module):
    """w3(SiLU(a) * b), with a and b the halves of w12."""

    def __init__(self, *, width: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(self.drop(F.silu(a) * b))


class Block(nn.Module):
    def __init__(self, *, width: int, num_heads: int, mlp_ratio: float, drop: float) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attn = HeadNormAttention(width=width, num_heads=num_heads, drop=drop)
        self.norm2 = RMSNorm(width)
        # Two thirds, so that three matrices hold as many weights as the two of a plain MLP.
        self.mlp = SwiGLU(width=width, hidden=int(int(mlp_ratio * width) * 2 / 3), drop=drop)
        self.adaLN_modulation = Modulation(width=width, parts=6)

    def forward(self, x: Tensor, condition: Tensor, layout: Layout, rope: Rope2D) -> Tensor:
        """x: (N, D). condition: (B, D). Returns (N, D)."""
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(condition)
        h = layout.per_image(modulate, self.norm1(x), shift_msa, scale_msa)
        x = x + layout.per_image(gated, self.attn(h, layout, rope), gate_msa)
        h = layout.per_image(modulate, self.norm2(x), shift_mlp, scale_mlp)
        return x + layout.per_image(gated, self.mlp(h), gate_mlp)


class FinalLayer(nn.Module):
    def __init__(self, *, width: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(width)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = Modulation(width=width, parts=2)

    def forward(self, x: Tensor, condition: Tensor, layout: Layout) -> Tensor:
        return self.linear(layout.per_image(modulate, self.norm_final(x), *self.adaLN_modulation(condition)))


class JiT(nn.Module):
    """Class-conditional JiT.

    width: divisible by num_heads. num_classes: the null label is num_classes. bottleneck_dim: width of the low-rank
    patch embedding, null for a straight one. in_context_len: class tokens put before the image's tokens from block
    in_context_start on. proj_drop: dropout in the middle half of the blocks. position_table: the fixed table that
    ties the model to image_size; without it positions come from RoPE alone and any resolution will do.
    Raises ValueError for sizes that do not fit each other.
    """

    pos_embed: Tensor

    max_timestep = 1.0
    """It is told t in [0, 1), as the release is."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        depth: int,
        num_heads: int,
        num_classes: int,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        bottleneck_dim: int | None = None,
        in_context_len: int = 32,
        in_context_start: int = 8,
        proj_drop: float = 0.0,
        position_table: bool = True,
    ) -> None:
        super().__init__()
        _check(image_size, patch_size, width, num_heads, depth, in_context_len, in_context_start, proj_drop)
        self.patch_size, self.in_channels, self.num_classes = patch_size, in_channels, num_classes
        self.width, self.depth = width, depth
        self.fixed_resolution = image_size if position_table else None
        self.in_context_len, self.in_context_start = in_context_len, in_context_start
        self.rope = Rope2D(head_dim=width // num_heads, row_first=True)
        self.x_embedder = BottleneckPatchEmbed(
            patch_size=patch_size, in_channels=in_channels, width=width, bottleneck_dim=bottleneck_dim
        )
        if position_table:
            side = image_size // patch_size
            self.register_buffer("pos_embed", grid_sincos(side, side, width)[None])
        if in_context_len:
            self.in_context_posemb = nn.Parameter(torch.zeros(1, in_context_len, width))
        self.t_embedder = TimeEmbedder(width=width)
        self.y_embedder = LabelEmbedder(num_classes=num_classes, width=width)
        middle = range(depth // 4, depth // 4 * 3)
        self.blocks = nn.ModuleList(
            Block(width=width, num_heads=num_heads, mlp_ratio=mlp_ratio, drop=proj_drop if i in middle else 0.0)
            for i in range(depth)
        )
        self.final_layer = FinalLayer(width=width, outputs=patch_size * patch_size * in_channels)
        self._initialize()

    @property
    def last_layer(self) -> nn.Linear:
        """What the output leaves through."""
        return self.final_layer.linear

    def _initialize(self) -> None:
        """Xavier linears, normal(0.02) embedders, zero for what modulates or leaves the network."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embedding in (self.t_embedder.mlp[0], self.t_embedder.mlp[2], self.y_embedder.embedding_table):
            nn.init.normal_(embedding.weight, std=0.02)  # type: ignore[arg-type]
        if self.in_context_len:
            nn.init.normal_(self.in_context_posemb, std=0.02)
        modulations = [m for m in self.modules() if isinstance(m, Modulation)]
        for linear in (self.final_layer.linear, *(m[1] for m in modulations)):
            nn.init.zeros_(linear.weight)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    def _embed(self, images: Sequence[Tensor], layout: Layout) -> Tensor:
        """(N, D)."""
        tokens = self.x_embedder(layout.join([patchify(x, self.patch_size) for x in images]))
        if self.fixed_resolution is None:
            return tokens
        for x in images:
            if x.shape[-2:] != (self.fixed_resolution, self.fixed_resolution):
                raise ValueError(
                    f"images of {x.shape[-2]}x{x.shape[-1]} pixels, but this JiT is fixed to {self.fixed_resolution}: "
                    "use cascade=single, or backbone.position_table=false"
                )
        return layout.join([part + self.pos_embed for part in layout.split(tokens)])

    def forward(
        self,
        x_t: Tensor | Sequence[Tensor],
        timestep: Tensor,
        condition: Condition,
        features: Sequence[int] = (),
    ) -> BackboneOutput:
        """x_t: (B, C, H, W), or a sequence of (b, C, H, W), one per resolution. timestep: (B,) in [0, 1) and
        condition: B entries, in the order of the images. features: numbers of blocks whose input tokens are wanted,
        those of the image alone.
        Returns the output in the form of x_t. Raises ValueError for images of another size than the table's.
        """
        images = [x_t] if isinstance(x_t, Tensor) else list(x_t)
        layout = plain = Layout.of(images, self.patch_size)
        h = self._embed(images, layout)
        y = self.y_embedder(condition.class_label)
        c = self.t_embedder(timestep) + y
        kept = {}
        for i, block in enumerate(self.blocks):
            if i in features:
                kept[i] = [tokens[:, g.prefix :] for g, tokens in zip(layout, layout.split(h), strict=True)]
            if i == self.in_context_start and self.in_context_len:
                layout = plain.with_prefix(self.in_context_len)
                context = (y[:, None] + self.in_context_posemb).to(h.dtype)
                h = layout.join(
                    [torch.cat([context[g.images], part], 1) for g, part in zip(plain, plain.split(h), strict=True)]
                )
            h = block(h, c, layout, self.rope)
        h = plain.join([tokens[:, g.prefix :] for g, tokens in zip(layout, layout.split(h), strict=True)])
        patches = self.final_layer(h, c, plain)
        outputs = [
            unpatchify(tokens, self.patch_size, g.height, g.width)
            for g, tokens in zip(plain, plain.split(patches), strict=True)
        ]
        if isinstance(x_t, Tensor):
            return BackboneOutput(outputs[0], {i: tokens[0] for i, tokens in kept.items()})
        return BackboneOutput(outputs, kept)


def _check(
    image_size: int,
    patch_size: int,
    width: int,
    num_heads: int,
    depth: int,
    in_context_len: int,
    in_context_start: int,
    proj_drop: float,
) -> None:
    if image_size % patch_size:
        raise ValueError(f"patch_size={patch_size} must divide image_size={image_size}")
    if width % (4 * num_heads):
        raise ValueError(
            f"width={width} must be divisible by 4 * num_heads = {4 * num_heads}: two axes, turned in pairs"
        )
    if in_context_len and not 0 <= in_context_start < depth:
        raise ValueError(f"in_context_start={in_context_start} must be a block, 0 to {depth - 1}, or in_context_len=0")
    if not 0 <= proj_drop < 1:
        raise ValueError(f"proj_drop={proj_drop} must be in [0, 1)")
