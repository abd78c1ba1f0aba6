"""Rounding, accounted for once.

A proof is a statement about real numbers made by floating-point arithmetic. Everything rigorous in Fathom rests on two
facts about round-to-nearest with unit u = eps / 2, whatever the order of summation, with or without fused multiply-add
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 2002, sections 2.2 and 3.1):

* one operation errs by at most u times its result;
* a sum of k rounded products errs by at most gamma_k = k u / (1 - k u) times the sum of the magnitudes.

`gamma` doubles the second on purpose, and so pays for the rounding of the majorant itself. Results below the smallest
normal number may lose everything: `TINY` pays for 2^60 such losses, also where subnormals are flushed to zero.
"""

import torch
from torch import Tensor

TINY = 2.0**-900
"""An absolute allowance for underflow; float64 only. For float32 it rounds to zero: see `tiny`."""


def tiny(dtype: torch.dtype) -> float:
    """An absolute allowance for the underflows of one long computation in `dtype`."""
    return TINY if dtype == torch.float64 else 2.0**-90


def gamma(operations: int, dtype: torch.dtype) -> float:
    """A bound on the relative error of `operations` roundings, doubled to cover the evaluation of its own majorant.

    Raises:
        ValueError: more operations than the bound holds for (2^40 in float64, 2^14 in float32).
    """
    eps = torch.finfo(dtype).eps
    if operations * eps > 2.0**-9:
        raise ValueError(f"{operations} roundings in {dtype} are more than the rounding account covers; use float64")
    return operations * eps


def down(x: Tensor) -> Tensor:
    """A number at most x: below the exact result of one operation that was rounded to x. Differentiable."""
    return x - (x.abs() * (2 * torch.finfo(x.dtype).eps) + tiny(x.dtype))


def up(x: Tensor) -> Tensor:
    """A number at least x: above the exact result of one operation that was rounded to x. Differentiable."""
    return x + (x.abs() * (2 * torch.finfo(x.dtype).eps) + tiny(x.dtype))


def dot_down(a: Tensor, x: Tensor) -> Tensor:
    """A rigorous lower bound on the sum over the last dimension of a * x, for broadcasting a and x."""
    product = a * x
    return down(product.sum(-1) - gamma(product.shape[-1] + 2, product.dtype) * product.abs().sum(-1))
