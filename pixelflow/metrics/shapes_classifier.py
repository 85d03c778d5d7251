"""A small classifier of drawn scenes, whose features replace those of Inception for the data `shapes`.

`python -m pixelflow.metrics.shapes_classifier` trains it on scenes of `pixelflow.data.scenes`, whose ground truth is
exact (about three minutes of one core), and writes `assets/shapes_classifier.safetensors`, which is part of the
package. The metadata of that file contains the held-out accuracy of each head at each image size. The network has
convolutional blocks as in Simonyan & Zisserman 2015, followed by a global average.

Shape legend: B images, H = W pixels, S the side of the network's input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelflow.data.scenes import COLOURS, NUMBERS, SHAPES, TEXTURES, Scene, render
from pixelflow.data.shapes import SceneSource
from pixelflow.metrics.packaged_classifier import (
    check_images,
    convolution,
    frozen,
    load_weights,
    resize,
    save_weights,
)
from pixelflow.terminal import say

ASSET = Path(__file__).parent / "assets" / "shapes_classifier.safetensors"
INPUT_SIZE = 32
NUM_FEATURES = 64
CHANNELS = (3,)
SIZES = (16, 128)
"""The least and the greatest side of the images in pixels."""
IMAGE_SIZES = (16, 32, 64)
"""The image sides at which it is trained and tested."""
HEADS = {"shapes": len(SHAPES), "colours": len(COLOURS), "textures": len(TEXTURES), "number": max(NUMBERS)}
"""The number of logits of each head: one for each shape, colour and texture that a scene may hold, one for 1..4."""
TRAIN_SCENES, HELD_OUT_SCENES = 1_000_000, 1_000_001
"""Content seeds, far from the small ones that experiments use."""


def to_input(images: Tensor) -> Tensor:
    """Converts images to the input of the network: RGB in [-1, 1] at 32 x 32 pixels, bilinear with antialiasing.

    Args:
        images: (B, 3, H, H) uint8 with H in 16..128.

    Returns:
        (B, 3, 32, 32) float64.

    Raises:
        ValueError: The images have another form.
    """
    check_images(images, what="shapes classifier", channels=CHANNELS, sizes=SIZES)
    return resize(images.double() / 127.5 - 1, INPUT_SIZE)


class ShapesCNN(nn.Module):
    """Five 3x3 convolutions, a global average and a linear layer. It computes in the dtype of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *convolution(3, 16),
            nn.MaxPool2d(2),
            *convolution(16, 32),
            *convolution(32, 32),
            nn.MaxPool2d(2),
            *convolution(32, 48),
            *convolution(48, NUM_FEATURES),
        )
        self.head = nn.Linear(NUM_FEATURES, sum(HEADS.values()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features (B, 64), averaged over all positions, and logits (B, 22) of images as for `to_input`."""
        pool = self.trunk(to_input(images).to(self.head.weight.dtype)).mean(dim=(2, 3))
        return pool, self.head(pool)


def load_shapes_classifier(path: Path = ASSET) -> ShapesCNN:
    """Returns the trained classifier in eval mode and float64, without gradients."""
    return load_weights(ShapesCNN(), path)


def targets(scene: Scene) -> dict[str, list[float]]:
    """Returns the ground truth of each head: 1 where the scene holds the item or has the number of things, else 0."""
    things = scene.things
    return {
        "shapes": [float(any(thing.shape == name for thing in things)) for name in SHAPES],
        "colours": [float(any(thing.colour == name for thing in things)) for name in COLOURS],
        "textures": [float(any(thing.texture == name for thing in things)) for name in TEXTURES],
        "number": [float(len(things) == count) for count in range(1, HEADS["number"] + 1)],
    }


def scenes(content_seed: int, indices: range, size: int) -> tuple[Tensor, Tensor]:
    """Draws scenes, with the antialiasing of the rendering at that size.

    Args:
        content_seed: Seed of the scenes; `TRAIN_SCENES` and `HELD_OUT_SCENES` have no scene in common.
        indices: Which scenes.
        size: Height and width in pixels.

    Returns:
        Images (B, 3, size, size) uint8 and the ground truth (B, 22) float32 of the heads, in the order of `HEADS`.
    """
    source = SceneSource(content_seed, "train", size, len(indices))
    drawn = [source.scene(index) for index in indices]
    images = torch.stack([torch.from_numpy(render(scene, size)) for scene in drawn])
    truth = torch.tensor([[value for head in targets(scene).values() for value in head] for scene in drawn])
    return images.permute(0, 3, 1, 2), truth


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns images with mild blur and noise, as a sampler may produce; half of the images are not changed.

    The blur makes the features change smoothly with it, instead of at once.

    Args:
        images: (B, 3, H, H) uint8.
        generator: Source of the random numbers.

    Returns:
        (B, 3, H, H) uint8.
    """

    def uniform(high: float) -> Tensor:
        return torch.rand(len(images), 1, 1, 1, generator=generator) * high

    given = images.float()
    blurred = F.avg_pool2d(given, 3, stride=1, padding=1, count_include_pad=False)
    changed = torch.lerp(given, blurred, uniform(0.6))
    changed = changed + torch.randn(given.shape, generator=generator) * uniform(12)
    touched = uniform(1) < 0.5
    return torch.where(touched, changed, given).clamp(0, 255).round().to(torch.uint8)


def heads_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Returns binary cross-entropy per item, summed over the heads of presence, plus cross-entropy of the number."""
    split, true = logits.split(list(HEADS.values()), dim=1), truth.split(list(HEADS.values()), dim=1)
    presence = [F.binary_cross_entropy_with_logits(s, t) for s, t in zip(split[:-1], true[:-1], strict=True)]
    return torch.stack([*presence, F.cross_entropy(split[-1], true[-1])]).sum()


def train(*, seed: int = 0, steps: int = 1600, batch_size: int = 96, learning_rate: float = 6e-3) -> ShapesCNN:
    """Trains the classifier with AdamW, a one-cycle learning rate and one image size per batch.

    No scene is used twice.

    Args:
        seed: Seed of the initial weights, the image sizes and the augmentation.
        steps: Optimizer steps.
        batch_size: Scenes per step.
        learning_rate: Maximum of the learning rate.

    Returns:
        The network in eval mode and float64, without gradients.
    """
    torch.manual_seed(seed)  # The initial weights are drawn from the global generator.
    generator = torch.Generator().manual_seed(seed)
    model = ShapesCNN().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)
    for step in range(steps):
        size = IMAGE_SIZES[int(torch.randint(len(IMAGE_SIZES), (1,), generator=generator))]
        images, truth = scenes(TRAIN_SCENES, range(step * batch_size, (step + 1) * batch_size), size)
        _, logits = model(augment(images, generator))
        loss = heads_loss(logits, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            say(f"step {step + 1:4d}  loss {loss.item():.4f}")
    return frozen(model)


@torch.inference_mode()
def held_out_accuracy(model: ShapesCNN, image_size: int, count: int = 1000) -> dict[str, float]:
    """Returns, for each head, the fraction of held-out scenes for which all that the head says is correct.

    For the shapes, the colours and the textures this is the whole set of those that the scene holds, which is harder
    than each one by itself.
    """
    images, truth = scenes(HELD_OUT_SCENES, range(count), image_size)
    logits = torch.cat([model(batch)[1] for batch in images.split(100)])
    accuracy = {}
    sizes = list(HEADS.values())
    for head, said, true in zip(HEADS, logits.split(sizes, dim=1), truth.split(sizes, dim=1), strict=True):
        if head == "number":
            correct = said.argmax(dim=1) == true.argmax(dim=1)
        else:
            correct = ((said > 0) == (true > 0)).all(dim=1)
        accuracy[head] = correct.double().mean().item()
    return accuracy


def main() -> None:
    """Trains the classifier and writes its weights."""
    parser = argparse.ArgumentParser(description="Train the shapes classifier that the metrics use.")
    parser.add_argument("--output", type=Path, default=ASSET)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1600)
    options = parser.parse_args()
    model = train(seed=options.seed, steps=options.steps)
    accuracy = {
        f"held_out_accuracy_{head}_{size}px": f"{value:.4f}"
        for size in IMAGE_SIZES
        for head, value in held_out_accuracy(model, size).items()
    }
    metadata = {
        "data": f"pixelflow.data.scenes, content seeds {TRAIN_SCENES} for training and {HELD_OUT_SCENES} held out",
        "recipe": f"python -m pixelflow.metrics.shapes_classifier --seed {options.seed} --steps {options.steps}",
        "seed": str(options.seed),
        "held_out_size": "1000",
        **accuracy,
    }
    save_weights(model, options.output, metadata)


if __name__ == "__main__":
    main()
