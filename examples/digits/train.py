"""Train the digits network as anybody would, and set 200 images aside for the audit.

Nothing here makes the network easy to verify: no adversarial or certified training, no noise, no weight decay.
Writes digits.safetensors (the weights), digits.onnx (the same network, for tools that read ONNX) and digits.npz (x [200, 1, 8, 8]
float32 in [0, 1], y [200] int64) to the folder given, by default the working folder. The same seed gives the same files.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from examples.digits.model import WEIGHTS, digits_cnn

HELD_BACK = 200
DATA = "digits.npz"
ONNX = "digits.onnx"


def split_digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, held-back images and labels; the ten classes in equal shares on both sides."""
    bundled = load_digits()
    images = (bundled.images / 16).astype(np.float32)[:, None]  # grey levels 0 .. 16
    labels = bundled.target.astype(np.int64)
    x, held_x, y, held_y = train_test_split(images, labels, test_size=HELD_BACK, stratify=labels, random_state=seed)
    return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(held_x), torch.from_numpy(held_y)


def train(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, epochs: int, batch: int = 64) -> None:
    """Adam on the cross-entropy, the learning rate falling to nothing along a cosine."""
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
        schedule.step()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images that the model reads as labelled."""
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def write_onnx(model: nn.Module, path: Path) -> None:
    """Write the network with a free batch dimension.

    By torch's older exporter: the newer one needs a package that nothing else here does.
    """
    with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, 8, 8),),
            path,
            dynamo=False,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digits network and hold 200 images back.")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write (default: the working folder)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()

    torch.set_num_threads(1)  # sums come out in one order, whatever the machine
    torch.manual_seed(options.seed)
    x, y, held_x, held_y = split_digits(options.seed)
    model = digits_cnn()
    train(model, x, y, torch.Generator().manual_seed(options.seed), options.epochs)

    options.folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    save_file(model.state_dict(), options.folder / WEIGHTS)
    write_onnx(model, options.folder / ONNX)
    np.savez(options.folder / DATA, x=held_x.numpy(), y=held_y.numpy())
    print(f"trained on {len(x)} digits; reads {accuracy(model, held_x, held_y):.1%} of the {len(held_x)} held back")
    print("   ".join(str(options.folder / name) for name in (WEIGHTS, ONNX, DATA)))


if __name__ == "__main__":
    main()
