"""Adam on a few tensors inside a box. torch.optim would do, but importing it drags in a compiler and a second of start-up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOMENTUM = 0.5  # of the first mean: little, since gradients are exact and turn at every kink
STILL = 1e-9  # a gradient below this is rounding, which differs with what else is in the batch, and is not to be followed


class Ascent:
    """Maximise by projected Adam (Kingma and Ba, ICLR 2015): each call to `step` reads the gradients and moves the tensors."""

    def __init__(self, tensors: Sequence[tuple[Tensor, float, float, float]], decay: float = 0.97) -> None:
        """Tensors that require gradients, each with its rate, lower and upper limit; rates shrink by `decay` a step."""
        self.tensors = tensors
        self.decay = decay
        self.time = 0
        self.first = [torch.zeros_like(t[0]) for t in tensors]
        self.second = [torch.zeros_like(t[0]) for t in tensors]

    @torch.no_grad()
    def step(self, objective: Tensor) -> None:
        """Differentiate the scalar `objective` and move every tensor up its gradient."""
        gradients = torch.autograd.grad(objective, [t[0] for t in self.tensors], materialize_grads=True)
        self.time += 1
        fade, spread = 1 - MOMENTUM**self.time, 1 - 0.999**self.time
        shrink = self.decay**self.time
        for (tensor, rate, low, high), gradient, m, v in zip(self.tensors, gradients, self.first, self.second, strict=True):
            m.mul_(MOMENTUM).add_(gradient, alpha=1 - MOMENTUM)
            v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            tensor.add_((m / fade) / ((v / spread).sqrt() + STILL), alpha=rate * shrink).clamp_(low, high)
