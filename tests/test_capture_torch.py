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
from fathom.core.box import Box
from fathom.core.enclosure import enclose
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


# Live parameters.


class Shared(nn.Module):
    """One matrix used as it is, transposed, sliced and as a factor; and a normalisation whose weights are live too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.first = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.first.weight
        self.normal = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normal(self.again(self.first(x).relu()))
        x = (x @ self.weight + self.weight[0]) * self.weight[:, 1]
        return (x.relu() @ self.weight.T).relu() / self.weight[:, 2] + self.normal.bias


def lower_bound(captured: Captured, centre: Tensor, radius: float) -> Tensor:
    """Sum of rigorous interval lower bounds, differentiable in the parameters."""
    network = captured.network.to(torch.float64)
    box = Box(centre.double() - radius, centre.double() + radius)
    return enclose(network, box)[-1].lower.sum()


def test_bounds_train_the_module_without_capturing_again() -> None:
    module = Shared().train()
    captured = capture_module(module, (4,))
    held = {id(t) for node in captured.network.nodes for t in vars(node.operator or node).values() if isinstance(t, nn.Parameter)}
    assert {id(module.first.weight), id(module.first.bias), id(module.again.bias), id(module.normal.weight)} <= held
    x = inputs(captured)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    first = captured.program.digest
    for _ in range(3):
        optimizer.zero_grad()
        before = lower_bound(captured, x, 0.1)
        (-before).backward()
        assert all(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())
        optimizer.step()
        module.train()(torch.randn(16, 4))  # moves the stored statistics, in place
        agree(captured, module, x)
    assert captured.program.digest != first
    assert module.training


def test_gradients_of_bounds_are_those_of_the_formula() -> None:
    """For a network without rectifiers the interval bound is W x + b - |W| r: its gradient is known."""
    module = nn.Linear(3, 1)
    captured = capture_module(module, (3,))
    x = inputs(captured, 1)
    lower_bound(captured, x, 0.25).backward()
    expected = x - 0.25 * module.weight.detach().sign()
    torch.testing.assert_close(module.weight.grad, expected)
    torch.testing.assert_close(module.bias.grad, torch.ones(1))


def test_computed_weights_are_refused_live_and_taken_frozen() -> None:
    module = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU())
    with pytest.raises(NotUnderstood, match=r"_weight_norm.*live parameter.*live=False"):
        capture_module(module, (4,))
    captured = capture_module(module, (4,), live=False)
    agree(captured, module, inputs(captured))
    assert not any(
        t.requires_grad for node in captured.network.nodes for t in vars(node.operator or node).values() if isinstance(t, Tensor)
    )
    parametrize.remove_parametrizations(module[0], "weight")
    agree(capture_module(module, (4,)), module, inputs(captured))


def test_double_modules_are_double() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    captured = capture_module(module, (4,), torch.float64)
    assert captured.program.dtype == torch.float64 and captured.network.outputs[0].dtype == "float64"
    torch.testing.assert_close(captured.network(inputs(captured).double()), captured.program(inputs(captured).double()))
    with pytest.raises(NotUnderstood, match=r"expected weights of torch.float32.*'0.weight'"):
        capture_module(module, (4,))
    with pytest.raises(NotUnderstood, match="float16"):
        capture_module(module.half(), (4,), torch.float16)


# The program.


def test_a_sample_is_judged_alone() -> None:
    """Rounding must not depend on who else is in the batch."""
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    program = capture_module(module, (64,)).program
    x = torch.randn(9, 64, generator=torch.Generator().manual_seed(0))
    together = program(x)
    assert all(torch.equal(program(x[i : i + 1])[0], together[i]) for i in range(9))
    assert program(x[:0]).shape == (0, 8)
    torch.set_num_threads(2)
    assert torch.equal(program(x), together) and torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert not together.requires_grad


DIGEST = """
import torch
from fathom.capture.torch_module import capture_module
torch.manual_seed(0)
module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 3))
print(capture_module(module, (1, 4, 4)).program.digest)
"""


def test_digests_are_stable_and_see_every_weight() -> None:
    again = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True).stdout.strip()
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    program = capture_module(module, (1, 4, 4)).program
    assert program.digest == again
    seen = {again}
    with torch.no_grad():
        for tensor in (*module.parameters(), module[1].running_var):
            tensor.view(-1)[0] += 1e-3
            seen.add(program.digest)
    assert len(seen) == 8
    module[1].num_batches_tracked += 1
    assert program.digest in seen
    module[1].eps = 1e-3
    assert capture_module(module, (1, 4, 4)).program.digest not in seen


# Refusals.


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x + self.count


def in_place(x: Tensor, weight: Tensor) -> Tensor:
    x.mul_(2)
    return x @ weight.T


REFUSED: dict[str, tuple[Callable[[Tensor, nn.Parameter], object], str]] = {
    "branch on data": (lambda x, w: x if x.sum() > 0 else -x, "cannot trace Function.*data-dependent"),
    "unknown operator": (lambda x, w: torch.sort(x, 1).values, r"'sort'.*aten.sort.*test_capture_torch.py.*no translation"),
    "integers": (lambda x, w: x * (x > 0), r"aten\.gt.*no translation"),
    "in place on the input": (in_place, "changes 'x' while it runs"),
    "sum over the batch": (lambda x, w: x - x.mean(0), "axis 0, the batch"),
    "sum over everything": (lambda x, w: x / x.sum(), "the batch too"),
    "batch is moved": (lambda x, w: x.reshape(-1, 2, 3).permute(1, 0, 2), "batch away from axis 0"),
    "batch is folded": (lambda x, w: x.reshape(-1, 3), r"\[14, 3\], not sample by sample"),
    "samples are shifted": (lambda x, w: x.roll(1, 0), "not sample by sample"),
    "samples are numbered": (lambda x, w: x + torch.arange(x.shape[0])[:, None], "(?s)arange.*size of the batch"),
    "batch as a number": (lambda x, w: x * x.shape[0], "size of the batch"),
    "fixed batch": (lambda x, w: x.reshape(2, 6), "cannot trace Function.*batch"),
    "constant output": (lambda x, w: (x, w), "output 1.*does not depend"),
    "complex": (lambda x, w: torch.fft.fft(x).abs(), "aten._fft_r2c.*no translation"),
    "random": (lambda x, w: F.dropout(x, 0.5, training=True), "eval mode"),
    "rounding": (lambda x, w: x.half().float(), "rounds torch.float32 to torch.float16"),
    "not differentiable": (lambda x, w: torch.div(x, 2, rounding_mode="floor"), "rounds the quotient"),
    "division by zero": (lambda x, w: x / torch.tensor([1.0, 0, 1, 1, 1, 1]), "without zeros"),
    "product of a parameter": (lambda x, w: x @ (2 * w).T, "aten.mul.*live parameter"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_operator_and_the_way_out(name: str) -> None:
    function, message = REFUSED[name]
    with pytest.raises(NotUnderstood, match=message):
        capture_module(Function(function), (6,))


def test_state_that_changes_is_refused() -> None:
    module = Buffered()
    with pytest.raises(NotUnderstood, match="changes 'count' while it runs"):
        capture_module(module, (3,))


def test_a_wrong_shape_is_reported_in_the_modules_words() -> None:
    with pytest.raises(
        NotUnderstood, match=r"inputs of shape \[n, 5\].*Linear raises RuntimeError: mat1 and mat2.*without the batch"
    ):
        capture_module(nn.Linear(4, 2), (5,))


def test_a_module_that_is_no_function_of_its_input_fails_its_replay() -> None:
    class Alias(nn.Module):
        """In eval mode dropout returns its very input, which then is changed; torch.export thinks it returns a copy."""

        def forward(self, x: Tensor) -> Tensor:
            h = x.relu()
            dropped = F.dropout(h, 0.5, self.training)
            dropped += 1
            return h * 2

    with pytest.raises(ReplayMismatch):
        capture_module(Alias(), (3,))
    with pytest.raises(ReplayMismatch):
        capture_module(Function(lambda x, w: x + torch.rand(6)), (6,))


# Sources.


class Archived(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.head = nn.Linear(12, 3)
        self.scale = torch.tensor([1.0, 2.0, float("inf")]).clamp(max=3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x)
        first, _ = x.split([1, 2], 1)
        return self.head(x.view(x.shape[0], -1)) * self.scale, first.clamp(max=float("inf"))[:, :, [1, 0]]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    module = Archived().eval()
    path = tmp_path_factory.mktemp("archive") / "model.pt2"
    batch = torch.export.Dim("batch", min=2)
    torch.export.save(torch.export.export(module, (torch.randn(2, 1, 4, 4),), dynamic_shapes=({0: batch},)), path)
    return module, path


def test_archives_are_read(archive: tuple[nn.Module, Path]) -> None:
    module, path = archive
    read = load_torch(str(path))
    assert dict(read.named_parameters()).keys() == dict(module.named_parameters()).keys()
    captured = capture_module(read, (1, 4, 4))
    agree(captured, read, inputs(captured))
    x = inputs(captured)
    first, second = module(x.reshape(-1, 1, 4, 4))
    torch.testing.assert_close(captured.program(x), torch.cat([first, second.flatten(1)], 1).detach())
    (-lower_bound(captured, x, 0.01)).backward()
    assert all(p.grad is not None for p in read.parameters())


def rewritten(path: Path, to: Path, change: Callable[[str, bytes], bytes]) -> Path:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return to


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def test_archives_are_never_unpickled_or_evaluated(archive: tuple[nn.Module, Path], tmp_path: Path) -> None:
    import pickle

    def poison(name: str, content: bytes) -> bytes:
        if "sample_inputs" in name:
            return pickle.dumps(Bomb())
        if name.endswith("model.json"):
            model = json.loads(content)
            for value in model["graph_module"]["graph"]["sym_int_values"].values():
                if "as_expr" in value:
                    value["as_expr"]["expr_str"] = "exec(\"raise SystemExit('evaluated')\")"
            return json.dumps(model).encode()
        return content

    path = rewritten(archive[1], tmp_path / "bomb.pt2", poison)
    read = load_torch(str(path))
    assert read(torch.zeros(1, 1, 4, 4))[0].shape == (1, 3)

    def mark(name: str, content: bytes) -> bytes:
        return content.replace(b'"use_pickle": false', b'"use_pickle": true') if name.endswith("weights_config.json") else content

    with pytest.raises(NotUnderstood, match="pickle, which could run anything"):
        load_torch(str(rewritten(archive[1], tmp_path / "pickled.pt2", mark)))


@pytest.mark.parametrize(
    "target", ["torch.ops.aten.from_file.default", "os.system", "torch.ops.aten.relu", "_operator.attrgetter"]
)
def test_archives_reach_known_operators_only(archive: tuple[nn.Module, Path], tmp_path: Path, target: str) -> None:
    def retarget(name: str, content: bytes) -> bytes:
        return content.replace(b"torch.ops.aten.max_pool2d.default", target.encode())

    with pytest.raises(NotUnderstood, match=r"'max_pool2d' uses the operator .* not understood"):
        load_torch(str(rewritten(archive[1], tmp_path / "model.pt2", retarget)))


def test_archives_of_one_batch_size_are_refused(tmp_path: Path) -> None:
    module = Function(lambda x, w: x.view(2, 2, 3).relu())
    torch.export.save(torch.export.export(module, (torch.randn(2, 6),)), tmp_path / "two.pt2")
    with pytest.raises(NotUnderstood, match=r"Archive.*batch"):
        capture_module(load_torch(str(tmp_path / "two.pt2")), (6,))


def test_damaged_archives_are_named(archive: tuple[nn.Module, Path], tmp_path: Path) -> None:
    short = tmp_path / "short.pt2"
    short.write_bytes(archive[1].read_bytes()[:-2000])
    past = rewritten(
        archive[1], tmp_path / "past.pt2", lambda name, content: content[:4] if name.endswith("weight_0") else content
    )
    newer = rewritten(archive[1], tmp_path / "newer.pt2", lambda name, content: content.replace(b'"major": 8', b'"major": 9'))
    empty = rewritten(archive[1], tmp_path / "empty.pt2", lambda name, content: b"{}" if name.endswith(".json") else content)
    for path, message in ((short, "expected"), (past, "reaches past"), (newer, "version 8.*got 9"), (empty, "KeyError")):
        with pytest.raises(NotUnderstood, match=message):
            load_torch(str(path))
    with pytest.raises(NotUnderstood, match=r"nowhere\.pt2"):
        load_torch(str(tmp_path / "nowhere.pt2"))


def test_import_paths_and_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models_here.py").write_text(
        "import torch\ndef small():\n    return torch.nn.Linear(3, 2)\nnumber = 3\ndef no(): 1 / 0\n"
    )
    (tmp_path / "my_broken_models.py").write_text("import")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert isinstance(load_torch("my_models_here:small"), nn.Linear)
    for source, message in {
        "my_models_here:no": "to make a module, but it raises ZeroDivisionError",
        "my_broken_models:small": "importing 'my_broken_models' raises SyntaxError",
        "my_models_here:large": "expected 'large'.*small",
        "my_models_here:number": "return an nn.Module, got int: 3",
        "my_modules_nowhere:small": "expected a module 'my_modules_nowhere'",
        "my_models_here": "expected package.module:factory",
        "model.pth": "a pickle, which may run anything",
        "model.safetensors": "weights alone",
    }.items():
        with pytest.raises(NotUnderstood, match=message):
            load_torch(source)


def test_batch_normalisation_is_folded_where_nothing_is_to_be_trained() -> None:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2))
    module(torch.randn(50, 1, 5, 5) * 3 + 1)  # statistics that are not the initial ones
    module.eval()
    kept, folded = capture_module(module, (1, 5, 5)), capture_module(module, (1, 5, 5), live=False)
    kinds = [{type(node.operator).__name__ for node in captured.network.nodes} for captured in (kept, folded)]
    assert "BatchScale" in kinds[0]
    assert "BatchScale" not in kinds[1]
    x = torch.randn(7, 25)
    assert torch.allclose(folded.network.to(torch.float32)(x), module(x.reshape(7, 1, 5, 5)), atol=1e-5)
