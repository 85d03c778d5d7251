"""The class-conditional JiT transformer, the backbone of PixelGen (Li & He 2025, arXiv 2511.13720).

The module names are those of PixelGen's released checkpoints, so that their state dict loads unchanged. Without the
fixed position table one forward pass computes a pack of several resolutions.
Shape legend: B images, b images of one resolution, L tokens of one image, N tokens of the pack, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.flow.cascade import LARGEST_IMAGE
from pixelflow.limits import above, at_least, at_most
from pixelflow.nn.attention import HeadNormAttention
from pixelflow.nn.blocks import LARGEST_DEPTH, LARGEST_WIDTH
from pixelflow.nn.embeddings import LabelEmbedder, TimeEmbedder, grid_sincos
from pixelflow.nn.norms import RMSNorm
from pixelflow.nn.pack import Layout
from pixelflow.nn.patches import BottleneckPatchEmbed, patchify, unpatchify
from pixelflow.nn.rope import Rope2D
from pixelflow.types import BackboneOutput, Condition


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Returns x * (1 + scale) + shift. x: (b, L, D). shift, scale: (b, 1, D)."""
    return x * (1 + scale) + shift


def gated(x: Tensor, gate: Tensor) -> Tensor:
    """Returns x * gate. x: (b, L, D). gate: (b, 1, D)."""
    return x * gate


class Modulation(nn.Sequential):
    """SiLU and a linear layer that compute modulations, in float32 under autocast as well.

    Args:
        width: D.
        parts: Number of modulations.
    """

    def __init__(self, *, width: int, parts: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(width, parts * width))
        self.parts = parts

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Maps the condition (B, D) to `parts` tensors (B, D)."""
        return super().forward(condition).float().chunk(self.parts, dim=-1)


class SwiGLU(nn.Module):
    """The gated MLP w3(SiLU(a) * b), where a and b are the halves of w12(x).

    Args:
        width: D.
        hidden: Width of a and b.
        drop: Dropout probability before w3.
    """

    def __init__(self, *, width: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens (N, D) to (N, D)."""
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(self.drop(F.silu(a) * b))


class Block(nn.Module):
    """Attention and SwiGLU, each normalised by an RMS norm, modulated by the condition and gated.

    Args:
        width: D.
        num_heads: Number of heads.
        mlp_ratio: Hidden width of the equivalent plain MLP, over D.
        drop: Dropout probability.
    """

    def __init__(self, *, width: int, num_heads: int, mlp_ratio: float, drop: float) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attn = HeadNormAttention(width=width, num_heads=num_heads, drop=drop)
        self.norm2 = RMSNorm(width)
        # Two thirds, so that three matrices have as many weights as the two of a plain MLP.
        self.mlp = SwiGLU(width=width, hidden=int(int(mlp_ratio * width) * 2 / 3), drop=drop)
        self.adaLN_modulation = Modulation(width=width, parts=6)

    def forward(self, x: Tensor, condition: Tensor, layout: Layout, rope: Rope2D) -> Tensor:
        """Maps tokens x (N, D) with the condition (B, D) to (N, D)."""
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(condition)
        h = layout.per_image(modulate, self.norm1(x), shift_msa, scale_msa)
        x = x + layout.per_image(gated, self.attn(h, layout, rope), gate_msa)
        h = layout.per_image(modulate, self.norm2(x), shift_mlp, scale_mlp)
        return x + layout.per_image(gated, self.mlp(h), gate_mlp)


class FinalLayer(nn.Module):
    """A modulated RMS norm and the linear layer that computes the output.

    Args:
        width: D.
        outputs: Values of one patch.
    """

    def __init__(self, *, width: int, outputs: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(width)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = Modulation(width=width, parts=2)

    def forward(self, x: Tensor, condition: Tensor, layout: Layout) -> Tensor:
        """Maps tokens x (N, D) with the condition (B, D) to patches (N, outputs)."""
        return self.linear(layout.per_image(modulate, self.norm_final(x), *self.adaLN_modulation(condition)))


class JiT(nn.Module):
    """Class-conditional JiT.

    Args:
        image_size: Resolution of the position table in pixels, divisible by patch_size; the model then serves this
            resolution only. None for no table: positions come from RoPE alone and any resolution is accepted.
        patch_size: Side of a patch in pixels.
        width: D, divisible by 4 * num_heads.
        depth: Number of blocks.
        num_heads: Number of heads.
        num_classes: Number of classes; it is also the null label.
        in_channels: Channels of the images.
        mlp_ratio: Hidden width of the equivalent plain MLP, over D.
        bottleneck_dim: Width of the low-rank patch embedding; None for a single linear layer.
        in_context_len: Number of class tokens that are put before the tokens of each image.
        in_context_start: The first block that receives the class tokens.
        proj_drop: Dropout probability in the middle half of the blocks.

    Raises:
        ValueError: The sizes do not fit each other.
    """

    pos_embed: Tensor

    max_timestep = 1.0
    """The timestep passed to the network is t in [0, 1), as in the release."""

    def __init__(
        self,
        *,
        image_size: int | None,
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
    ) -> None:
        super().__init__()
        at_least(
            1, image_size=image_size, patch_size=patch_size, width=width, depth=depth, num_heads=num_heads,
            num_classes=num_classes, in_channels=in_channels, bottleneck_dim=bottleneck_dim,
        )  # fmt: skip
        at_most(LARGEST_DEPTH, depth=depth)
        at_most(LARGEST_WIDTH, patch_size=patch_size, width=width, bottleneck_dim=bottleneck_dim, mlp_ratio=mlp_ratio)
        at_most(LARGEST_WIDTH, in_context_len=in_context_len)
        at_least(0, in_context_len=in_context_len, in_context_start=in_context_start)
        above(0, mlp_ratio=mlp_ratio)
        _check(image_size, patch_size, width, num_heads, depth, in_context_len, in_context_start, proj_drop)
        self.patch_size, self.in_channels, self.num_classes = patch_size, in_channels, num_classes
        self.width, self.depth = width, depth
        self.fixed_resolution = image_size
        self.in_context_len, self.in_context_start = in_context_len, in_context_start
        self.rope = Rope2D(head_dim=width // num_heads, row_first=True)
        self.x_embedder = BottleneckPatchEmbed(
            patch_size=patch_size, in_channels=in_channels, width=width, bottleneck_dim=bottleneck_dim
        )
        if image_size is not None:
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
        """The layer that computes the output."""
        return self.final_layer.linear

    def _initialize(self) -> None:
        """Xavier for linear layers, normal(0.02) for embedders, zero for modulations and the output."""
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
        """Embeds the patches of all images, with their positions if there is a table: (N, D)."""
        tokens = self.x_embedder(layout.join([patchify(x, self.patch_size) for x in images]))
        if self.fixed_resolution is None:
            return tokens
        for x in images:
            if x.shape[-2:] != (self.fixed_resolution, self.fixed_resolution):
                raise ValueError(
                    f"images of {x.shape[-2]}x{x.shape[-1]} pixels, but this JiT is fixed to {self.fixed_resolution}: "
                    "use one stage, or image_size=None"
                )
        return layout.join([part + self.pos_embed for part in layout.split(tokens)])

    def forward(
        self,
        x_t: Tensor | Sequence[Tensor],
        timestep: Tensor,
        condition: Condition,
        features: Sequence[int] = (),
    ) -> BackboneOutput:
        """Computes the raw prediction for a batch or a pack of several resolutions.

        Args:
            x_t: (B, C, H, W), or a sequence of (b, C, H, W), one per resolution.
            timestep: (B,) in [0, 1), in the order of the images.
            condition: B entries in the order of the images.
            features: Numbers of blocks whose input tokens are returned as well, without the class tokens.

        Returns:
            The output in the form of x_t.

        Raises:
            ValueError: The position table belongs to another size than that of the images.
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
    image_size: int | None,
    patch_size: int,
    width: int,
    num_heads: int,
    depth: int,
    in_context_len: int,
    in_context_start: int,
    proj_drop: float,
) -> None:
    at_most(LARGEST_IMAGE, image_size=image_size)  # before its table of positions is computed
    if image_size is not None and image_size % patch_size:
        raise ValueError(f"patch_size={patch_size} must divide image_size={image_size}")
    if width % (4 * num_heads):
        raise ValueError(
            f"width={width} must be divisible by 4 * num_heads = {4 * num_heads}: two axes, rotated in pairs"
        )
    if in_context_len and not 0 <= in_context_start < depth:
        raise ValueError(f"in_context_start={in_context_start} must be a block, 0 to {depth - 1}, or in_context_len=0")
    if not 0 <= proj_drop < 1:
        raise ValueError(f"proj_drop={proj_drop} must be in [0, 1)")
