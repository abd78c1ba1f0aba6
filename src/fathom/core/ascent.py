"""Adam on a few tensors inside a box. torch.optim would do, but the first use of it drags in a compiler, for seconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MOMENTUM = 0.5  # of the first mean: little, since gradients of bounds are exact and turn at every kink
LEARNING = 0.9  # of it where a network is trained, whose gradients are of a few samples
STILL = 1e-9  # a gradient below this is rounding, which differs with what else is in the batch, and is not to be followed


class Ascent:
    """Maximise by projected Adam (Kingma and Ba, ICLR 2015): each call to `step` reads the gradients and moves the tensors."""

    def __init__(
        self,
        tensors: Sequence[tuple[Tensor, float, float, float]],
        decay: float = 0.97,
        momentum: float = MOMENTUM,
        steepest: float = float("inf"),
    ) -> None:
        """Tensors that require gradients, each with its rate, lower and upper limit; rates shrink by `decay` a step.

        Gradients that together are longer than `steepest` are shortened to it.
        """
        self.tensors = tensors
        self.decay, self.momentum, self.steepest = decay, momentum, steepest
        self.time = 0
        self.first = [torch.zeros_like(t[0]) for t in tensors]
        self.second = [torch.zeros_like(t[0]) for t in tensors]

    @staticmethod
    def learning(weights: Sequence[Tensor], rate: float, steepest: float = float("inf")) -> Ascent:
        """Of the weights of a network, without limits."""
        everywhere = float("inf")
        return Ascent([(weight, rate, -everywhere, everywhere) for weight in weights], 1.0, LEARNING, steepest)

    @torch.no_grad()
    def step(self, objective: Tensor) -> None:
        """Differentiate the scalar `objective` and move every tensor up its gradient."""
        gradients = torch.autograd.grad(objective, [t[0] for t in self.tensors], materialize_grads=True)
        if self.steepest < float("inf"):
            length = torch.stack([gradient.norm() for gradient in gradients]).norm()
            gradients = tuple(gradient * (self.steepest / length.clamp(min=self.steepest)) for gradient in gradients)
        self.time += 1
        fade, spread = 1 - self.momentum**self.time, 1 - 0.999**self.time
        shrink = self.decay**self.time
        for (tensor, rate, low, high), gradient, m, v in zip(self.tensors, gradients, self.first, self.second, strict=True):
            m.mul_(self.momentum).add_(gradient, alpha=1 - self.momentum)
            v.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            tensor.add_((m / fade) / ((v / spread).sqrt() + STILL), alpha=rate * shrink).clamp_(low, high)
