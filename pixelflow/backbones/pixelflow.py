"""The PixelFlow transformer: a DiT on pixels that serves every resolution of a cascade (PixelFlow section 3.3).

Module names are those of the released checkpoints, so their state dict loads as it is.
Shape legend: B images, b images of one resolution, N tokens of the pack, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelflow.nn.attention import SelfAttention
from pixelflow.nn.embeddings import LabelEmbedder, ScalarEmbedder
from pixelflow.nn.norms import RMSNorm
from pixelflow.nn.pack import Layout
from pixelflow.nn.patches import PatchEmbed, patchify, unpatchify
from pixelflow.nn.rope import Rope2D
from pixelflow.types import BackboneOutput, Condition


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def gated(x: Tensor, gate: Tensor) -> Tensor:
    return x * gate


class AdaLayerNorm(nn.Module):
    """adaLN-zero (DiT): the six modulations of a block from the condition. Float32 whatever the autocast."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """(B, D) -> shift, scale and gate of the attention, then of the MLP, (B, D) each."""
        return self.linear(F.silu(condition)).float().chunk(6, dim=-1)


class MLP(nn.Module):
    def __init__(self, *, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """norm1 has no weights of its own: it is a plain layer norm, modulated. norm3 is an RMS norm with weight."""

    def __init__(self, *, width: int, num_heads: int, attention_bias: bool) -> None:
        super().__init__()
        self.norm1 = AdaLayerNorm(width=width)
        self.attn1 = SelfAttention(width=width, num_heads=num_heads, bias=attention_bias)
        self.norm3 = RMSNorm(width)
        self.mlp = MLP(width=width, hidden=4 * width)

    def forward(self, x: Tensor, condition: Tensor, layout: Layout, rope: Rope2D) -> Tensor:
        """x: (N, D). condition: (B, D). Returns (N, D)."""
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.norm1(condition)
        h = layout.per_image(modulate, layer_norm(x), shift_msa, scale_msa)
        x = x + layout.per_image(gated, self.attn1(h, layout, rope), gate_msa)
        h = layout.per_image(modulate, self.norm3(x), shift_mlp, scale_mlp)
        return x + layout.per_image(gated, self.mlp(h), gate_mlp)


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class PixelFlow(nn.Module):
    """Class-conditional PixelFlow.

    width = num_heads * head_dim. num_classes: the null label is num_classes.
    """

    fixed_resolution: int | None = None
    """Any resolution that the patch size divides."""
    max_timestep = 1000.0

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
    ) -> None:
        super().__init__()
        width = num_heads * head_dim
        self.patch_size, self.in_channels, self.num_classes = patch_size, in_channels, num_classes
        self.width, self.depth = width, depth
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
        """What the output leaves through."""
        return self.proj_out_2

    def _initialize(self, *, zero: list[nn.Linear]) -> None:
        """Xavier linears, normal(0.02) embedders, zero for what modulates or leaves the network."""
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
        """The sum of what the modulation sees: time, tokens per side, class. (B, D)."""
        # Fill kernels, not tensors from lists: those are copied to the device, and it waits for the copy.
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
        """One forward, for a batch or a mixed-resolution pack.

        x_t: (B, C, H, W), or a sequence of (b, C, H, W), one per resolution. timestep: (B,) in [0, 1000) and
        condition: B entries, in the order of the images. features: numbers of blocks whose input tokens are wanted.
        Returns the output in the form of x_t. Raises ValueError where the patch size does not divide H or W.
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
