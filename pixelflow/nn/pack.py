"""A pack: the concatenated tokens of images of several resolutions.

Images of one resolution are adjacent and have the same number of tokens, so a pack consists of a few dense groups.
Linear layers and norms run on all tokens at once; operations per image, and attention, run group by group.

Shape legend: B images of the pack, b images of a group, L tokens of one image, N tokens of the pack, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """The images of one resolution: their positions in the pack and their size in tokens.

    Args:
        images: Positions of the images in the batch.
        tokens: Positions of their tokens in the pack.
        height: Rows of tokens of one image.
        width: Columns of tokens of one image.
        prefix: Number of tokens before those of each image.
    """

    images: slice
    tokens: slice
    height: int
    width: int
    prefix: int = 0

    @property
    def num_images(self) -> int:
        """Number of images, b."""
        return self.images.stop - self.images.start

    @property
    def length(self) -> int:
        """Number of tokens of one image with its prefix, L."""
        return self.prefix + self.height * self.width


class Layout(tuple[Group, ...]):
    """The groups of a pack, in order."""

    @classmethod
    def of(cls, images: Sequence[Tensor], patch_size: int) -> Layout:
        """Returns the layout of a pack.

        Args:
            images: One tensor (b, C, H, W) per resolution.
            patch_size: Side of a patch in pixels.

        Raises:
            ValueError: The patch size does not divide H or W.
        """
        groups, image, token = [], 0, 0
        for x in images:
            b, _, h, w = x.shape
            if h % patch_size or w % patch_size:
                raise ValueError(f"images of {h}x{w} cannot be cut into patches of {patch_size}x{patch_size}")
            height, width = h // patch_size, w // patch_size
            tokens = b * height * width
            groups.append(Group(slice(image, image + b), slice(token, token + tokens), height, width))
            image, token = image + b, token + tokens
        return cls(groups)

    def with_prefix(self, prefix: int) -> Layout:
        """Returns the layout of the same images with `prefix` tokens before each."""
        groups, token = [], 0
        for g in self:
            length = prefix + g.height * g.width
            end = token + g.num_images * length
            groups.append(Group(g.images, slice(token, end), g.height, g.width, prefix))
            token = end
        return Layout(groups)

    def split(self, tokens_ND: Tensor) -> list[Tensor]:
        """Splits (N, ...) into one view (b, L, ...) per group.

        `Tensor.split` is used because its backward pass is one `cat`; that of slices is a sum.
        """
        parts = tokens_ND.split([g.num_images * g.length for g in self])
        return [part.unflatten(0, (g.num_images, g.length)) for g, part in zip(self, parts, strict=True)]

    def join(self, groups: Sequence[Tensor]) -> Tensor:
        """Concatenates one tensor (b, L, ...) per group to (N, ...)."""
        flat = [x.flatten(0, 1) for x in groups]
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def per_image(self, function: Callable[..., Tensor], tokens_ND: Tensor, *values_BD: Tensor) -> Tensor:
        """Applies `function(tokens (b, L, D), *values (b, 1, D))` to each group and joins the results.

        Args:
            function: It broadcasts the values of an image over its tokens.
            tokens_ND: (N, D).
            values_BD: Tensors (B, D).
        """
        values = zip(*(v.unsqueeze(1).split([g.num_images for g in self]) for v in values_BD), strict=True)
        return self.join([function(tokens, *own) for tokens, own in zip(self.split(tokens_ND), values, strict=True)])
