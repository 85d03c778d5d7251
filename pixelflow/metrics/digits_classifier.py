"""A small classifier of handwritten digits, whose features stand in for Inception where images are digits.

`python -m pixelflow.metrics.digits_classifier` trains it anew on scikit-learn's UCI digits (1797 images of 8x8,
values 0..16; about a minute on two cores) and writes `assets/digits_classifier.safetensors`, which ships with
the package. Its held-out accuracy stands in that file's metadata. Convolutional blocks after Simonyan & Zisserman
2015, ending in a global average.

Shape legend: B images, C channels, H = W pixels, S the side that the network sees.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

ASSET = Path(__file__).parent / "assets" / "digits_classifier.safetensors"
INPUT_SIZE = 16
NUM_CLASSES = 10
NUM_FEATURES = 64
IMAGE_SIZES = (8, 16, 32, 64)
"""The sides at which it is trained and tested."""


def to_input(images: Tensor) -> Tensor:
    """The network's view of an image: mean over channels, over 255, resized to 16 x 16.

    images: (B, C, H, H) uint8, C 1 or 3, H in 8..64. Returns (B, 1, 16, 16) float64 in [0, 1], bilinear with
    antialiasing, so that a digit drawn at 64 pixels looks like the same one drawn at 16.
    Raises ValueError for any other form of images.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 (B, C, H, W), got {images.dtype} {tuple(images.shape)}; "
            "pixelflow.sampling.to_uint8 converts images in [-1, 1]"
        )
    _, channels, height, width = images.shape
    if channels not in (1, 3) or height != width or not IMAGE_SIZES[0] <= height <= IMAGE_SIZES[-1]:
        raise ValueError(
            f"images of shape {tuple(images.shape)}: the digits classifier takes 1 or 3 channels and "
            f"square images of {IMAGE_SIZES[0]} to {IMAGE_SIZES[-1]} pixels"
        )
    return resize_grey(images.double() / 255)


def resize_grey(images: Tensor) -> Tensor:
    """(B, C, H, H) -> (B, 1, 16, 16): mean over channels, bilinear with antialiasing, differentiable."""
    grey, size = images.mean(dim=1, keepdim=True), (INPUT_SIZE, INPUT_SIZE)
    return F.interpolate(grey, size=size, mode="bilinear", antialias=True, align_corners=False)


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class DigitsCNN(nn.Module):
    """Five 3x3 convolutions, a global average, one linear layer. Computes in the dtype of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *_block(1, 24),
            *_block(24, 24),
            nn.MaxPool2d(2),
            *_block(24, 48),
            *_block(48, 48),
            nn.MaxPool2d(2),
            *_block(48, NUM_FEATURES),
        )
        self.head = nn.Linear(NUM_FEATURES, NUM_CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images as for `to_input` -> features (B, 64), averaged over the last map, and logits (B, 10)."""
        pool = self.trunk(to_input(images).to(self.head.weight.dtype)).mean(dim=(2, 3))
        return pool, self.head(pool)


def load_digits_classifier(path: Path = ASSET) -> DigitsCNN:
    """The trained classifier in eval mode and float64, without gradients."""
    model = DigitsCNN()
    with safe_open(path, framework="pt") as file:
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return model.double().eval().requires_grad_(False)


def load_metadata(path: Path = ASSET) -> dict[str, str]:
    """What the recipe wrote beside the weights: accuracies, split sizes, seed."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def load_digits() -> tuple[Tensor, Tensor]:
    """The UCI digits: (1797, 1, 8, 8) float32 in 0..255 and their labels (1797,) int64."""
    from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    return torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16 * 255, torch.from_numpy(labels).long()


def digits_split(labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the 1500 training and the 297 held-out digits, rising, stratified; always the same ones."""
    from sklearn.model_selection import train_test_split

    train, held_out = train_test_split(np.arange(len(labels)), test_size=297, random_state=0, stratify=labels.numpy())
    return np.sort(train), np.sort(held_out)


def draw_at(images: Tensor, size: int) -> Tensor:
    """(B, 1, 8, 8) in 0..255 -> (B, 1, size, size) in 0..255 before rounding, enlarged by bicubic interpolation."""
    if size != images.shape[-1]:
        images = F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False)
    return images.clamp(0, 255)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """What a sampler may do to a digit: moved, turned, stretched, blurred, faded, noisy; half of them untouched.

    images: (B, 1, H, H) in 0..255. Returns (B, 1, H, H) uint8.
    """
    batch, size = len(images), images.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    angle, scale, stretch = uniform(-12, 12) * math.pi / 180, uniform(0.88, 1.15), uniform(0.93, 1.07)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    # The image spans 2 in these coordinates: 0.2 is a tenth of its side.
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
    """Trains on the training digits alone: AdamW, one-cycle learning rate, one image size a batch."""
    torch.manual_seed(seed)  # the weights' initialisation draws from the global generator
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
            print(f"epoch {epoch + 1:3d}  loss {loss.item():.4f}", flush=True)
    return model.double().eval().requires_grad_(False)


@torch.inference_mode()
def held_out_accuracy(model: DigitsCNN, image_size: int) -> float:
    """Share of the 297 held-out digits, drawn at `image_size`, that the model names rightly."""
    images, labels = load_digits()
    _, held_out = digits_split(labels)
    _, logits = model(draw_at(images[held_out], image_size).round().to(torch.uint8))
    return (logits.argmax(dim=1) == labels[held_out]).double().mean().item()


def main() -> None:
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
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: _stored(value) for name, value in model.state_dict().items()}, options.output, metadata)
    print(f"wrote {options.output} ({options.output.stat().st_size / 1000:.0f} kB)")
    print("\n".join(f"{name}: {value}" for name, value in metadata.items()))


def _stored(value: Tensor) -> Tensor:
    return value.float().contiguous() if value.is_floating_point() else value


if __name__ == "__main__":
    main()
