"""How do I bracket the worst case of a PyTorch module of my own?

Any `nn.Module` will do, and any region and overseer. Here: a small network that tells two interleaved moons apart, twenty
points, and an adversary who may move each by at most 0.2 along either axis.
"""

import torch
from sklearn.datasets import make_moons
from torch import nn

import fathom


def trained() -> nn.Module:
    """A network [n, 2] -> [n, 2], trained on a thousand points."""
    torch.manual_seed(0)
    points, labels = make_moons(1000, noise=0.1, random_state=0)
    x, y = torch.tensor(points, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


def main() -> None:
    points, labels = make_moons(20, noise=0.1, random_state=1)
    x, y = torch.tensor(points, dtype=torch.float32), torch.tensor(labels)
    region = fathom.regions.LinfBall.around(x, radius=0.2)
    overseer = fathom.Misclassification(label=y, classes=2)
    result = fathom.audit(trained(), region, overseer, budget=fathom.Budget(seconds=20))
    print("\n".join(result.lines()))


if __name__ == "__main__":
    main()
