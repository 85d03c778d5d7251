"""The PixelFlow transformer: a DiT on pixels for every resolution of a cascade (PixelFlow section 3.3).

The module names are those of the released checkpoints, so that their state dict loads unchanged.
Shape legend: B images, b images of one resolution, L tokens of one image, N tokens of the pack, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.limits import at_least, at_most
from pixelflow.nn.attention import SelfAttention
from pixelflow.nn.blocks import LARGEST_DEPTH, LARGEST_WIDTH
from pixelflow.nn.embeddings import LabelEmbedder, ScalarEmbedder
from pixelflow.nn.norms import RMSNorm
from pixelflow.nn.pack import Layout
from pixelflow.nn.patches import PatchEmbed, patchify, unpatchify
from pixelflow.nn.rope import Rope2D
from pixelflow.types import BackboneOutput, Condition


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Returns x * (1 + scale) + shift. x: (b, L, D). shift, scale: (b, 1, D)."""
    return x * (1 + scale) + shift


def gated(x: Tensor, gate: Tensor) -> Tensor:
    """Returns x * gate. x: (b, L, D). gate: (b, 1, D)."""
    return x * gate


class AdaLayerNorm(nn.Module):
    """adaLN-zero (DiT): the six modulations of a block from the condition, in float32 under autocast as well.

    Args:
        width: D.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, D) to shift, scale and gate of the attention, then of the MLP, (B, D) each."""
        return self.linear(F.silu(condition)).float().chunk(6, dim=-1)


class MLP(nn.Module):
    """Linear, GELU (tanh approximation), linear.

    Args:
        width: D.
        hidden: Width between the two layers.
    """

    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens (N, D) to (N, D)."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """Attention and MLP, each normalised, modulated by the condition and gated.

    The norm before the attention is a layer norm without weights (`norm1` makes the modulations), the norm before the
    MLP is an RMS norm with weights (`norm3`).

    Args:
        width: D.
        num_heads: Number of heads.
        attention_bias: Whether the projections of the attention have a bias.
    """

    def __init__(self, *, width: int, num_heads: int, attention_bias: bool) -> None:
        super().__init__()
        self.norm1 = AdaLayerNorm(width=width)
        self.attn1 = SelfAttention(width=width, num_heads=num_heads, bias=attention_bias)
        self.norm3 = RMSNorm(width)
        self.mlp = MLP(width=width, hidden=4 * width)

    def forward(self, x: Tensor, condition: Tensor, layout: Layout, rope: Rope2D) -> Tensor:
        """Maps tokens x (N, D) with the condition (B, D) to (N, D)."""
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.norm1(condition)
        h = layout.per_image(modulate, layer_norm(x), shift_msa, scale_msa)
        x = x + layout.per_image(gated, self.attn1(h, layout, rope), gate_msa)
        h = layout.per_image(modulate, self.norm3(x), shift_mlp, scale_mlp)
        return x + layout.per_image(gated, self.mlp(h), gate_mlp)


def layer_norm(x: Tensor) -> Tensor:
    """Normalises (N, D) without weights, with eps 1e-6."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class PixelFlow(nn.Module):
    """Class-conditional PixelFlow (section 3.3), for every resolution that the patch size divides.

    Args:
        patch_size: Side of a patch in pixels.
        depth: Number of blocks.
        num_heads: Number of heads.
        head_dim: Head dimension; the width D is num_heads * head_dim.
        num_classes: Number of classes; it is also the null label.
        in_channels: Channels of the images.
        attention_bias: Whether the projections of the attention have a bias.
        max_timestep: The timesteps are in [0, max_timestep). The embedding of a timestep has frequencies up to one
            radian per timestep, so a smaller number makes the output smoother in time; the released checkpoints have
            1000.

    Raises:
        ValueError: A size is out of range, or head_dim is not divisible by 4.

    Examples:
        >>> model = PixelFlow(patch_size=2, depth=1, num_heads=2, head_dim=4, num_classes=10, in_channels=1)
        >>> x, timestep = torch.zeros(3, 1, 8, 8), torch.zeros(3)
        >>> model(x, timestep, Condition(torch.tensor([0, 1, 10]))).output.shape
        torch.Size([3, 1, 8, 8])
    """

    fixed_resolution: int | None = None

    def __init__(
        self,
        *,
        patch_size: int,
        depth: int,
        num_heads: int,
        head_dim: int,
        num_classes: int,
        in_channels: int = 3,
        attention_bias: bool = True,
        max_timestep: float = 1000.0,
    ) -> None:
        super().__init__()
        at_least(
            1, patch_size=patch_size, depth=depth, num_heads=num_heads, head_dim=head_dim, num_classes=num_classes,
            in_channels=in_channels, max_timestep=max_timestep,
        )  # fmt: skip
        width = num_heads * head_dim
        at_most(LARGEST_DEPTH, depth=depth)
        at_most(LARGEST_WIDTH, patch_size=patch_size, num_heads=num_heads, head_dim=head_dim, width=width)
        self.patch_size, self.in_channels, self.num_classes = patch_size, in_channels, num_classes
        self.width, self.depth, self.max_timestep = width, depth, max_timestep
        self.patch_embed = PatchEmbed(patch_size=patch_size, in_channels=in_channels, width=width)
        self.rope = Rope2D(head_dim=head_dim)
        self.timestep_embedder = ScalarEmbedder(width=width)
        self.latent_size_embedder = ScalarEmbedder(width=width)  # the release's name; it embeds tokens per side
        self.class_embedder = LabelEmbedder(num_classes=num_classes, width=width)
        blocks = [Block(width=width, num_heads=num_heads, attention_bias=attention_bias) for _ in range(depth)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out_1 = nn.Linear(width, 2 * width)
        self.proj_out_2 = nn.Linear(width, patch_size * patch_size * in_channels)
        self._initialize(zero=[self.proj_out_1, self.proj_out_2, *(block.norm1.linear for block in blocks)])

    @property
    def last_layer(self) -> nn.Linear:
        """The layer that computes the output."""
        return self.proj_out_2

    def _initialize(self, *, zero: list[nn.Linear]) -> None:
        """Xavier for linear layers, normal(0.02) for embedders, zero for modulations and the output."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        nn.init.zeros_(self.patch_embed.proj.bias)  # type: ignore[arg-type]
        for embedder in (self.timestep_embedder, self.latent_size_embedder):
            nn.init.normal_(embedder.linear_1.weight, std=0.02)
            nn.init.normal_(embedder.linear_2.weight, std=0.02)
        nn.init.normal_(self.class_embedder.embedding_table.weight, std=0.02)
        for linear in zero:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def embed_condition(self, timestep: Tensor, condition: Condition, layout: Layout) -> Tensor:
        """Returns the condition of the modulations (B, D): the sum of embeddings of time, tokens per side and class."""
        # Fill kernels instead of tensors from lists, whose copy to the device would synchronise it.
        sides = [torch.full((1,), float(g.width), device=timestep.device) for g in layout]
        rows = self.latent_size_embedder(torch.cat(sides)).split(1)
        size = torch.cat([row.expand(g.num_images, -1) for row, g in zip(rows, layout, strict=True)])
        return self.timestep_embedder(timestep) + size + self.class_embedder(condition.class_label)

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
            timestep: (B,) in [0, max_timestep), in the order of the images.
            condition: B entries in the order of the images.
            features: Numbers of blocks whose input tokens are returned as well.

        Returns:
            The output in the form of x_t.

        Raises:
            ValueError: The patch size does not divide H or W.
        """
        images = [x_t] if isinstance(x_t, Tensor) else list(x_t)
        layout = Layout.of(images, self.patch_size)
        h = self.patch_embed(layout.join([patchify(x, self.patch_size) for x in images]))
        c = self.embed_condition(timestep, condition, layout)
        kept = {}
        for i, block in enumerate(self.transformer_blocks):
            if i in features:
                kept[i] = layout.split(h)
            h = block(h, c, layout, self.rope)
        shift, scale = self.proj_out_1(F.silu(c)).float().chunk(2, dim=-1)
        patches = self.proj_out_2(layout.per_image(modulate, layer_norm(h), shift, scale))
        outputs = [
            unpatchify(tokens, self.patch_size, g.height, g.width)
            for g, tokens in zip(layout, layout.split(patches), strict=True)
        ]
        if isinstance(x_t, Tensor):
            return BackboneOutput(outputs[0], {i: tokens[0] for i, tokens in kept.items()})
        return BackboneOutput(outputs, kept)
