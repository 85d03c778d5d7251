"""A small classifier of handwritten digits, whose features replace those of Inception for images of digits.

`python -m pixelflow.metrics.digits_classifier` trains it on scikit-learn's UCI digits (1797 images of 8x8, values
0..16; about a minute on two cores) and writes `assets/digits_classifier.safetensors`, which is part of the package.
The metadata of that file contains the held-out accuracy. The network has convolutional blocks as in Simonyan &
Zisserman 2015, followed by a global average.

Shape legend: B images, C channels, H = W pixels, S the side of the network's input.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelflow.metrics.packaged_classifier import check_images, convolution, frozen, load_weights, resize, save_weights
from pixelflow.terminal import say

ASSET = Path(__file__).parent / "assets" / "digits_classifier.safetensors"
INPUT_SIZE = 16
NUM_CLASSES = 10
NUM_FEATURES = 64
CHANNELS = (1, 3)
IMAGE_SIZES = (8, 16, 32, 64)
"""The image sides at which it is trained and tested."""


def to_input(images: Tensor) -> Tensor:
    """Converts images to the input of the network: grey values in [0, 1] at 16 x 16 pixels.

    The resize is bilinear with antialiasing, so that a digit at 64 pixels gives nearly the same input as at 16.

    Args:
        images: (B, C, H, H) uint8 with C = 1 or 3 and H in 8..64.

    Returns:
        (B, 1, 16, 16) float64.

    Raises:
        ValueError: The images have another form.
    """
    check_images(images, what="digits classifier", channels=CHANNELS, sizes=(IMAGE_SIZES[0], IMAGE_SIZES[-1]))
    return resize_grey(images.double() / 255)


def resize_grey(images: Tensor) -> Tensor:
    """Returns the mean over channels of (B, C, H, H), resized to (B, 1, 16, 16); differentiable."""
    return resize(images.mean(dim=1, keepdim=True), INPUT_SIZE)


class DigitsCNN(nn.Module):
    """Five 3x3 convolutions, a global average and a linear layer. It computes in the dtype of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *convolution(1, 24),
            *convolution(24, 24),
            nn.MaxPool2d(2),
            *convolution(24, 48),
            *convolution(48, 48),
            nn.MaxPool2d(2),
            *convolution(48, NUM_FEATURES),
        )
        self.head = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features (B, 64), averaged over all positions, and logits (B, 10) of images as for `to_input`."""
        pool = self.trunk(to_input(images).to(self.head.weight.dtype)).mean(dim=(2, 3))
        return pool, self.head(pool)


def load_digits_classifier(path: Path = ASSET) -> DigitsCNN:
    """Returns the trained classifier in eval mode and float64, without gradients."""
    return load_weights(DigitsCNN(), path)


def load_digits() -> tuple[Tensor, Tensor]:
    """Returns the UCI digits (1797, 1, 8, 8) float32 in 0..255 and their labels (1797,) int64."""
    from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    return torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16 * 255, torch.from_numpy(labels).long()


def digits_split(labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions of the 1500 training digits and the 297 held-out digits: stratified, sorted and fixed."""
    from sklearn.model_selection import train_test_split

    train, held_out = train_test_split(np.arange(len(labels)), test_size=297, random_state=0, stratify=labels.numpy())
    return np.sort(train), np.sort(held_out)


def draw_at(images: Tensor, size: int) -> Tensor:
    """Returns images (B, 1, 8, 8) in 0..255 at (B, 1, size, size) by bicubic interpolation, not rounded."""
    if size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False)
    return images.clamp(0, 255)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns images with distortions that a sampler may produce; half of the images are not changed.

    The distortions are translation, rotation, stretching, blur, lower contrast and noise.

    Args:
        images: (B, 1, H, H) in 0..255.
        generator: Source of the random numbers.

    Returns:
        (B, 1, H, H) uint8.
    """
    batch, size = len(images), images.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    angle, scale, stretch = uniform(-12, 12) * math.pi / 180, uniform(0.88, 1.15), uniform(0.93, 1.07)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    # The side of the image is 2 in these coordinates, so that 0.2 is a tenth of it.
    rows = [cos * stretch, -sin, uniform(-0.2, 0.2), sin, cos / stretch, uniform(-0.2, 0.2)]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    radius = size // 16 if size > 16 else 1
    blurred = F.avg_pool2d(moved, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
    moved = torch.lerp(moved, blurred, uniform(0, 0.6).view(-1, 1, 1, 1))
    noise = torch.randn(images.shape, generator=generator) * uniform(0, 20).view(-1, 1, 1, 1)
    moved = moved * uniform(0.8, 1.1).view(-1, 1, 1, 1) + noise
    touched = (torch.rand(batch, generator=generator) < 0.5).view(-1, 1, 1, 1)
    return torch.where(touched, moved, images).clamp(0, 255).round().to(torch.uint8)


def train(*, seed: int = 0, epochs: int = 60, batch_size: int = 100, learning_rate: float = 4e-3) -> DigitsCNN:
    """Trains the classifier on the training digits, with AdamW, a one-cycle learning rate and one image size per batch.

    Args:
        seed: Seed of the initial weights, the order and the augmentation.
        epochs: Passes over the training digits.
        batch_size: Digits per step.
        learning_rate: Maximum of the learning rate.

    Returns:
        The network in eval mode and float64, without gradients.
    """
    torch.manual_seed(seed)  # The initial weights are drawn from the global generator.
    generator = torch.Generator().manual_seed(seed)
    images, labels = load_digits()
    train_index, _ = digits_split(labels)
    images, labels = images[train_index], labels[train_index]
    drawn = {size: draw_at(images, size) for size in IMAGE_SIZES}
    model = DigitsCNN().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05)
    steps = epochs * (len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for index in order[: len(order) // batch_size * batch_size].split(batch_size):
            size = IMAGE_SIZES[int(torch.randint(len(IMAGE_SIZES), (1,), generator=generator))]
            _, logits = model(augment(drawn[size][index], generator))
            loss = F.cross_entropy(logits, labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if (epoch + 1) % 10 == 0:
            say(f"epoch {epoch + 1:3d}  loss {loss.item():.4f}")
    return frozen(model)


@torch.inference_mode()
def held_out_accuracy(model: DigitsCNN, image_size: int) -> float:
    """Returns the fraction of the 297 held-out digits, resized to `image_size`, that the model classifies correctly."""
    images, labels = load_digits()
    _, held_out = digits_split(labels)
    _, logits = model(draw_at(images[held_out], image_size).round().to(torch.uint8))
    return (logits.argmax(dim=1) == labels[held_out]).double().mean().item()


def main() -> None:
    """Trains the classifier and writes its weights."""
    parser = argparse.ArgumentParser(description="Train the digits classifier that the metrics use.")
    parser.add_argument("--output", type=Path, default=ASSET)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    model = train(seed=options.seed, epochs=options.epochs)
    accuracy = {size: held_out_accuracy(model, size) for size in IMAGE_SIZES}
    metadata = {
        "data": "UCI digits of scikit-learn, 1500 for training and 297 held out, stratified, random_state=0",
        "recipe": f"python -m pixelflow.metrics.digits_classifier --seed {options.seed} --epochs {options.epochs}",
        "seed": str(options.seed),
        "train_size": "1500",
        "held_out_size": "297",
        "held_out_accuracy": f"{min(accuracy.values()):.4f}",
        **{f"held_out_accuracy_{size}px": f"{value:.4f}" for size, value in accuracy.items()},
    }
    save_weights(model, options.output, metadata)


if __name__ == "__main__":
    main()
