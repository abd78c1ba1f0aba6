"""Modules through torch.export: every value against the module itself, live parameters, and honest refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from fathom.capture.captured import Captured
from fathom.capture.torch_module import capture_module
from fathom.capture.torch_source import load_torch
from fathom.core.enclosure import enclose
from fathom.core.box import Box
from fathom.core.errors import NotUnderstood, ReplayMismatch


class Function(nn.Module):
    """A module of a function of its input and of a weight matrix."""

    def __init__(self, function: Callable[[Tensor, nn.Parameter], object], *shape: int) -> None:
        super().__init__()
        self.function = function
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(*(shape or (5, 6)), generator=generator))

    def forward(self, x: Tensor) -> object:
        return self.function(x, self.weight)


def inputs(captured: Captured, count: int = 5, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, captured.network.input_size, generator=generator)


def agree(captured: Captured, module: nn.Module, x: Tensor) -> None:
    """Network in float64, network, program and module say the same; float64 counts."""
    y = captured.program(x)
    torch.testing.assert_close(captured.network(x).detach(), y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(captured.network.freeze(torch.float64)(x.double()).float(), y, rtol=1e-4, atol=1e-5)


class Convolutions(nn.Module):
    """Every layer with weights that pictures meet, batch normalisation and pooling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.normal = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 4, 3, padding="same", groups=2, bias=False)
        self.spread = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1)
        self.line = nn.Conv1d(2, 3, 3)
        self.back = nn.ConvTranspose1d(3, 2, 2, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.last = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.relu(self.normal(self.first(x))))
        x = self.spread(self.grouped(x) + x)
        pooled = (
            F.max_pool2d(x, 3, 2, 1),
            F.avg_pool2d(x, 3, 2, 1),
            F.avg_pool2d(x, (2, 3), count_include_pad=False, padding=(1, 1), ceil_mode=True),
            F.adaptive_avg_pool2d(x, 1),
            F.adaptive_max_pool2d(x, (x.shape[2] // 2, 1)),
        )
        lines = self.back(self.line(x.flatten(2)))
        return self.last(torch.cat([*(part.flatten(1) for part in pooled), F.avg_pool1d(lines, 4).flatten(1)], -1))


@pytest.fixture(scope="module")
def convolutions() -> tuple[nn.Module, Captured]:
    module = Convolutions()
    module(torch.randn(6, 2, 6, 7))  # lazy sizes, and statistics that are not 0 and 1
    return module, capture_module(module, (2, 6, 7))


def test_convolutions_norms_and_pools(convolutions: tuple[nn.Module, Captured]) -> None:
    module, captured = convolutions
    agree(captured, module, inputs(captured))
    names = {type(node.operator).__name__ for node in captured.network.nodes}
    assert {"Conv", "ConvTranspose", "BatchScale", "Dense", "Relu"} <= names


def test_the_module_keeps_its_mode(convolutions: tuple[nn.Module, Captured]) -> None:
    module, captured = convolutions
    module.train()
    module.normal.eval()
    before = [part.training for part in module.modules()]
    statistics = module.normal.running_mean.clone()
    capture_module(nn.Sequential(module.normal, nn.Dropout()), (4, 1, 1))
    captured.program(inputs(captured))
    assert [part.training for part in module.modules()] == before
    assert torch.equal(module.normal.running_mean, statistics)


def elementwise(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    p = x.abs() + 0.5
    return (
        *(x.relu(), x.sigmoid(), x.tanh(), x.exp(), p.log(), p.sqrt(), p.reciprocal(), x.abs(), -x, p.rsqrt(), torch.erf(x)),
        *(F.leaky_relu(x, 0.1), F.leaky_relu(x, -0.3), F.elu(x), F.silu(x), F.gelu(x), F.gelu(x, approximate="tanh")),
        *(F.softplus(x), F.prelu(x, torch.tensor([0.3])), x.clamp(-0.3, 0.7), x.clamp(min=0.1), x.clamp_max(0.2), F.mish(x)),
        *(F.hardtanh(x), F.hardtanh(x, -2, 0.5), F.relu6(3 * x), F.hardsigmoid(x), F.hardswish(x)),
        *(x + 1, 2 - x, torch.rsub(x, 3), x - weight[0], weight[1] - x, torch.add(x, p, alpha=2), torch.sub(p, x, alpha=0.5)),
        *(x * weight[2], x / 3, x / p, 2 / p, x * p, x * x, x**2, x**3, torch.maximum(x, p - 1), torch.minimum(x, weight[3])),
        *(torch.max(x, p - 1), x.unsqueeze(1) + weight, torch.true_divide(weight[0], p)),
        *(x.softmax(-1), x.log_softmax(1), x.reshape(-1, 2, 3).softmax(1), F.normalize(p, dim=1), F.layer_norm(x, (6,))),
    )


def test_elementwise_operators_and_arithmetic() -> None:
    module = Function(lambda x, w: elementwise(x, w))
    captured = capture_module(module, (6,))
    agree(captured, module, inputs(captured))


def layout(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    n = x.shape[0]
    first, *rest = x.split([1, 2], 1)
    return (
        *(x.flatten(1), x.view(n, 4, 6), x.reshape(-1, 24), x.reshape(n, -1), x.permute(0, 2, 3, 1), x.transpose(1, -1)),
        *(x.unsqueeze(1), first.squeeze(1), x[:, 1], x[:, :, ::2], x[..., 1:3], x[:, [2, 0]], x.select(2, 1), x.narrow(3, 1, 2)),
        *(*rest, *x.chunk(2, 3), *x.unbind(1), x.flip(2), x.roll(1, 3), x.movedim(1, 3), x.repeat(1, 2, 1, 1), x.swapaxes(1, 2)),
        *(
            x[:, :1].expand(-1, 3, -1, -1),
            x.expand(n, 3, 2, 4),
            torch.stack([x, x + 1], 1),
            torch.stack([x[:, 0], weight[:2, :4].expand(n, 2, 4)], -1),
        ),
        *(
            F.pad(x, (1, 2)),
            F.pad(x, (0, -1, 2, 0), value=0.5),
            F.pad(x, (1, 1, 0, 1), mode="reflect"),
            F.interpolate(x, scale_factor=2),
        ),
        *(torch.cat([x, x.new_zeros(n, 1, 2, 4)], 1), torch.cat([weight[:1, :4].reshape(1, 1, 1, 4).expand(n, 3, 1, 4), x], 2)),
        *(
            x.index_select(2, torch.tensor([1, 0])),
            torch.where(torch.tensor([True, False]), 1.0, 2.0) + x[:, 0, :, :2],
            x.contiguous().clone(),
        ),
    )


def test_layout_operators() -> None:
    module = Function(lambda x, w: layout(x, w))
    captured = capture_module(module, (3, 2, 4))
    agree(captured, module, inputs(captured))


def products(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    square = x.unsqueeze(1) * x.unsqueeze(2)
    return (
        *(x @ weight.T, F.linear(x, weight), torch.mm(x, weight[:, :6].T), x @ weight[0], torch.addmm(weight[:, 0], x, weight.T)),
        *(
            weight @ square,
            square @ weight.T,
            torch.matmul(square, square),
            torch.bmm(square, square + 1),
        ),
        *(
            square.sum(1),
            square.mean((1, 2)),
            square.sum(-1, keepdim=True),
            square.amax(1),
            square.amin((1, 2)),
            square.max(2).values,
        ),
    )


def test_products_and_reductions() -> None:
    module = Function(lambda x, w: products(x, w))
    captured = capture_module(module, (6,))
    agree(captured, module, inputs(captured))


class Two(nn.Module):
    """Two inputs, and outputs in a dictionary."""

    def forward(self, image: Tensor, extra: Tensor) -> dict[str, Tensor]:
        return {"sum": image.flatten(1)[:, :2] + extra, "twice": (2 * image, [extra.relu()])}


def test_several_inputs_and_nested_outputs() -> None:
    module = Two()
    captured = capture_module(module, [("image", (2, 2)), ("extra", (2,))])
    assert [(p.name, p.shape, p.start) for p in captured.network.inputs] == [("image", (2, 2), 0), ("extra", (2,), 4)]
    assert [p.shape for p in captured.network.outputs] == [(2,), (2, 2), (2,)]
    x = inputs(captured)
    expected = module(x[:, :4].reshape(-1, 2, 2), x[:, 4:])
    flat = torch.cat([expected["sum"], expected["twice"][0].flatten(1), expected["twice"][1][0]], 1)
    assert torch.equal(captured.program(x), flat)
    assert torch.equal(captured.network(x), flat)
