"""`nn.Module` to `Network` through `torch.export`, with the module's own parameters, so that bounds can be trained through.

    captured = capture_module(module, (1, 28, 28))
    captured.network(x)   # what the module computes in eval mode, and goes on to compute as it is trained

A module is always taken in eval mode, which is how it is deployed: dropout does nothing and batch normalisation uses its
stored statistics. Its own mode is put back afterwards.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import InputKind, OutputKind

from fathom.capture.captured import Captured
from fathom.capture.condense import condense
from fathom.capture.fold import fold, foldable
from fathom.capture.graph import Graph, Shape
from fathom.capture.replay import probes, replay
from fathom.capture.torch_graph import Reader, unknown_operators
from fathom.capture.torch_table import leaves, packet, table
from fathom.core.errors import NotUnderstood
from fathom.core.network import Network, Port
from fathom.core.program import Program
from fathom.core.threads import one_thread
from fathom.core.value import fingerprint

Shapes = Shape | Sequence[tuple[str, Shape]]


class ModuleProgram(Program):
    """A module as it is deployed: run in eval mode, without gradients, one sample at a time, on one thread.

    Kernels round differently at different batch sizes and numbers of threads, and a witness must fail in whatever company it
    is run again. The module's mode and torch's number of threads are put back after every call.
    """

    def __init__(
        self, module: nn.Module, inputs: Sequence[Port], outputs: Sequence[Port], dtype: torch.dtype, graph: str
    ) -> None:
        """`graph` is the text of the exported graph, which the digest covers beside the weights."""
        self.module, self.inputs, self.outputs, self.dtype, self.graph = module, tuple(inputs), tuple(outputs), dtype, graph

    def __repr__(self) -> str:
        return f"ModuleProgram({type(self.module).__name__})"

    def __call__(self, x: Tensor) -> Tensor:
        """[n, d] -> [n, m]."""
        with evaluating(self.module), one_thread(), torch.no_grad():
            rows = [run(self.module, self.inputs, row[None]) for row in x.detach()]
        return torch.cat(rows) if rows else x.new_empty(0, sum(port.size for port in self.outputs))

    @property
    def digest(self) -> str:  # type: ignore[override]
        """A SHA-256 over the exported graph and the names, types, shapes and bytes of parameters and buffers, as they are now."""
        tensors = (*self.module.named_parameters(), *self.module.named_buffers())
        state = tuple((name, tensor) for name, tensor in sorted(tensors, key=lambda item: item[0]) if not _counter(name))
        return fingerprint((self.graph, tuple(self.inputs), str(self.dtype), state))


def _counter(name: str) -> bool:
    """Batch normalisation counts its batches in a buffer that nothing in eval mode depends on."""
    return name.endswith("num_batches_tracked")


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module, and each module in it, in eval mode for a while."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def run(module: nn.Module, inputs: Sequence[Port], x: Tensor) -> Tensor:
    """A module on flat inputs [n, d]: its tensors, however nested, as flat outputs [n, m]."""
    result = module(*(x[:, port.start : port.stop].reshape(-1, *port.shape) for port in inputs))
    return torch.cat([part.reshape(len(x), -1) for part in leaves(result) if isinstance(part, Tensor)], 1)


def capture_module(module: nn.Module, shape: Shapes, dtype: torch.dtype = torch.float32, *, live: bool = True) -> Captured:
    """A module as a network, shown to compute the same as the module in eval mode.

    Args:
        module: its forward takes one tensor [n, *shape] for each input, in order, and treats each sample alone.
        shape: of one sample, without the batch; for several inputs a sequence of (name, shape).
        dtype: of the inputs; float32 or float64.
        live: keep the module's parameters, so that gradients reach them and a training step changes the network (capture
            again after `module.to` or another change of where they are stored). A weight that is computed from a parameter
            (weight normalisation) is then refused; one computed from buffers, or from parameters that need no gradient, has
            its present value. False takes copies of all present values.

    Raises:
        NotUnderstood: the module cannot be exported, or has an operator, branch or dtype that is not understood; it is named.
        ReplayMismatch: the network does not compute what the module does; please report it.
    """
    ports = _ports(shape, dtype)
    _check(module, ports, dtype)
    with evaluating(module):
        exported = _export(module, ports, dtype)
        graph = Graph([(port.name, port.shape) for port in ports], [port.dtype for port in ports])
        names = _inputs(exported, ports)
        reader = Reader(exported.graph, _tensors(module, exported, live=live), names, graph)
        network = reader.read()
        _replay(module, exported, network, reader.names, dtype)
        if not live and foldable(network):
            network = fold(network.freeze(torch.float64))
            _replay(module, exported, network, reader.names, dtype)
        condensed = None if live else condense(network)
        if condensed is not None:
            network = condensed
            _replay(module, exported, network, reader.names, dtype)
    return Captured(ModuleProgram(module, ports, network.outputs, dtype, describe(exported)), network)


def run_module(module: nn.Module, shape: Shapes, dtype: torch.dtype = torch.float32) -> Program:
    """A module as a program alone, for those that cannot be captured: it may draw at random, or branch on its data.

    Failures of it are searched by values, and nothing is proved. Arguments as for `capture_module`.

    Raises:
        NotUnderstood: it does not take such inputs.
    """
    ports = _ports(shape, dtype)
    _check(module, ports, dtype)
    with evaluating(module), torch.no_grad():
        size = run(module, ports, probes(sum(port.size for port in ports), dtype)[:1]).shape[1]
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    return ModuleProgram(module, ports, (Port("output", (size,), 0),), dtype, f"{name}, not captured: {module}")


def _ports(shape: Shapes, dtype: torch.dtype) -> tuple[Port, ...]:
    if dtype not in (torch.float32, torch.float64):
        raise NotUnderstood(f"expected a module on float32 or float64 inputs, got {dtype}; convert it with module.float()")
    alone = tuple(size for size in shape if isinstance(size, int))
    named = [("input", alone)] if len(alone) == len(shape) else [pair for pair in shape if not isinstance(pair, int)]
    ports: list[Port] = []
    for name, sizes in named:
        ports.append(Port(name, tuple(sizes), ports[-1].stop if ports else 0, str(dtype).removeprefix("torch.")))
    return tuple(ports)


def _check(module: nn.Module, ports: tuple[Port, ...], dtype: torch.dtype) -> None:
    """Run the module once, so that a wrong shape or dtype is reported in its own words."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != dtype:
            raise NotUnderstood(
                f"expected weights of {dtype}, the dtype of the inputs, got {name!r} of {tensor.dtype}; convert the module"
            )
        if tensor.is_complex() or tensor.is_quantized:
            raise NotUnderstood(f"expected real weights, got {name!r} of {tensor.dtype}; such a module is not supported")
        if tensor.device.type != "cpu":
            raise NotUnderstood(f"expected a module on the CPU, got {name!r} on {tensor.device}; call module.cpu() first")
    x = probes(sum(port.size for port in ports), dtype)[:2]
    try:
        with evaluating(module), torch.no_grad():
            run(module, ports, x)
    except Exception as error:  # a module may raise anything
        shapes = ", ".join(f"[n, {', '.join(map(str, port.shape))}]" for port in ports)
        raise NotUnderstood(
            f"expected a module that takes inputs of shape {shapes} in {dtype}; {type(module).__name__} raises "
            f"{_first_line(error)}; check the shape of a sample, given without the batch, and that batches of any size are taken"
        ) from error


def _export(module: nn.Module, ports: tuple[Port, ...], dtype: torch.dtype) -> ExportedProgram:
    """The functional aten graph with a symbolic batch; operators that the table does not know are taken apart by torch."""
    x = probes(sum(port.size for port in ports), dtype)[:2]
    samples = tuple(x[:, port.start : port.stop].reshape(-1, *port.shape) for port in ports)
    sizes: Any = ShapesCollection()  # type: ignore[no-untyped-call]
    batch = Dim("batch", min=2)
    for sample in samples:
        sizes[sample] = {0: batch}
    try:
        with _quiet():
            exported: ExportedProgram = torch.export.export(module, samples, dynamic_shapes=sizes).run_decompositions({})
            unknown = unknown_operators(exported.graph, _inputs(exported, ports))
            if unknown:
                exported = exported.run_decompositions(_decompositions(exported, unknown))
    except Exception as error:  # torch.export lets through whatever tracing the module raises
        raise NotUnderstood(
            f"torch.export cannot trace {type(module).__name__}: {_first_line(error)}; write the forward pass without branches "
            f"that depend on data, and for a batch of any size on axis 0"
        ) from error
    for output in exported.graph_signature.output_specs:
        if output.kind != OutputKind.USER_OUTPUT:
            raise NotUnderstood(
                f"{type(module).__name__} changes {output.target or 'its input'!r} while it runs ({output.kind.name.lower()}), "
                f"so it is no function of its input; write the result to a new tensor instead"
            )
    return exported


def _decompositions(exported: ExportedProgram, unknown: set[str]) -> Any:
    """How torch takes operators apart: those that are not known, and whatever they are made of that is not known either."""
    made_of: Any = torch.export.default_decompositions()
    present = {packet(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    for operator in [operator for operator in made_of if packet(operator) in {*table(), *(present - unknown)}]:
        made_of.pop(operator)
    return made_of


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.export logs what it also raises, with pages of traceback."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: Exception) -> str:
    """The first line that says something: of a list of violated constraints the first item."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("- ")), lines[0] if lines else "")
    return f"{type(error).__name__}: {said.removeprefix('- ').rstrip('.;')}"


def _inputs(exported: ExportedProgram, ports: tuple[Port, ...]) -> dict[str, str]:
    """The port of each placeholder that is an input."""
    inputs = [spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    return {name: port.name for name, port in zip(inputs, ports, strict=True)}


def _tensors(module: nn.Module, exported: ExportedProgram, *, live: bool) -> dict[str, Tensor]:
    """The tensor of every other placeholder: the module's own parameter or buffer, or what export made a constant."""
    own = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}
    tensors = {}
    for spec in exported.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            continue
        target = spec.target or ""
        tensor = own.get(target, exported.state_dict.get(target, exported.constants.get(target)))
        if not isinstance(tensor, Tensor):
            raise NotUnderstood(f"expected tensors in the module, got {target!r}: {tensor!r}; such an attribute is not supported")
        tensors[spec.arg.name] = tensor if live else tensor.detach().clone()
    return tensors


class _Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps every value."""

    def __init__(self, exported: ExportedProgram) -> None:
        super().__init__(exported.graph_module)
        self.seen: dict[str, Any] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        self.seen[n.name] = super().run_node(n)
        return self.seen[n.name]


def _replay(module: nn.Module, exported: ExportedProgram, network: Network, names: dict[str, str], dtype: torch.dtype) -> None:
    """The network against the module itself, and node by node against the exported graph, on random inputs."""
    x = probes(network.input_size, dtype)
    tensors = _tensors(module, exported, live=True)
    inputs = (x[:, port.start : port.stop].reshape(-1, *port.shape) for port in network.inputs)
    recorder = _Recorder(exported)
    with torch.no_grad():
        y = run(module, network.inputs, x)
        specs = exported.graph_signature.input_specs
        values = (next(inputs) if spec.kind == InputKind.USER_INPUT else tensors[spec.arg.name] for spec in specs)
        recorder.run(*values, enable_io_processing=False)
    seen = {ours: recorder.seen[theirs] for ours, theirs in names.items()}
    replay(network, x, y, {name: value for name, value in seen.items() if isinstance(value, Tensor)})


def describe(exported: ExportedProgram) -> str:
    """The exported graph as text that is the same in every process: nodes by number, weights by their names in the module."""
    numbers = {node: f"%{i}" for i, node in enumerate(exported.graph.nodes)}
    targets = {spec.arg.name: f"{spec.kind.name} {spec.target}" for spec in exported.graph_signature.input_specs}
    lines = []
    for node in exported.graph.nodes:
        target = targets[node.name] if node.op == "placeholder" else str(node.target)
        arguments = torch.fx.map_arg((node.args, dict(node.kwargs)), lambda n: numbers[n])
        lines.append(f"{node.op} {target} {arguments!r}")
    for name, constant in sorted(exported.constants.items()):
        if isinstance(constant, Tensor):
            lines.append(f"{name} {fingerprint(constant)}")
    return "\n".join(lines)
