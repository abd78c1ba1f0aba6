"""The reader of handwritten digits: two convolutions, a hidden layer, 1,600 rectifiers."""

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

WEIGHTS = "digits.safetensors"


def digits_cnn() -> nn.Sequential:
    """An untrained network from images [n, 1, 8, 8] in [0, 1] to scores [n, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),  # [16, 8, 8]
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),  # [32, 4, 4]
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def trained(weights: str | Path = WEIGHTS) -> nn.Sequential:
    """The network with the weights that `train.py` wrote.

    Raises:
        FileNotFoundError: there are none in the working folder; says how to make them.
    """
    path = Path(weights)
    if not path.exists():
        raise FileNotFoundError(
            f"expected trained weights in {path.absolute()}, found no such file; run: python -m examples.digits.train"
        )
    model = digits_cnn()
    model.load_state_dict(load_file(path))
    return model.eval()
