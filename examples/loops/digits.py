"""What the loops of this folder train: a small network, and 512 of scikit-learn's digits in batches of 32."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import bitplane

EPOCHS, PARTS = 6, 2
"""Passes over the images, and batches whose gradients are added up for one step of the optimizer."""

pixels, numbers = load_digits(return_X_y=True)
images = torch.tensor(pixels[:512] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
labels = torch.tensor(numbers[:512])
batches = list(zip(images.split(32), labels.split(32), strict=True))
STEPS = EPOCHS * len(batches) // PARTS


def network() -> nn.Module:
    """Three convolutions and a fully connected layer: float32 [N, 1, 8, 8] to [N, 10]."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def run(path: str) -> None:
    """Run the packed file in `bitplane.runtime`, without torch, and print how many images it has right."""
    (logits,) = bitplane.InferenceSession(path).run(None, {"input": images.numpy()})
    print(f"{path}: {np.mean(logits.argmax(1) == labels.numpy()):.1%} of the training images are right")
