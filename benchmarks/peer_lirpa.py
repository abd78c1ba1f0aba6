"""Bounds by auto-LiRPA, in a process of its own: python peer_lirpa.py LAYERS.npz STEPS DEVICE, with the interpreter that has it.

LAYERS.npz is what `peers.py` writes: the layers of a chain, a box, and the rows whose products with the output are bounded.
Prints a line of JSON: for CROWN and for alpha-CROWN the lower bounds and the seconds, the least of three runs.
"""

import json
import sys
import time

import numpy as np
import torch


def bridge() -> None:
    """auto-LiRPA 0.3, the newest on PyPI, is written for torch before 1.13: three names of torch have moved since."""
    import torch.onnx.symbolic_helper
    import torch.onnx.utils
    from torch.onnx._internal.torchscript_exporter import _globals, utils

    torch.onnx.symbolic_helper._set_opset_version = lambda v: setattr(_globals.GLOBALS, "export_onnx_opset_version", v)
    torch.onnx.utils._optimize_graph = utils._optimize_graph
    torch._C.Node.__getitem__ = lambda node, key: getattr(node, node.kindOf(key))(key)


def chain(parts: dict[str, np.ndarray]) -> torch.nn.Sequential:
    """The layers as torch has them."""
    layers: list[torch.nn.Module] = []
    for k, kind in enumerate(str(parts["kinds"]).split()):
        if kind == "relu":
            layers.append(torch.nn.ReLU())
        elif kind == "flatten":
            layers.append(torch.nn.Flatten())
        else:
            weight, bias = torch.from_numpy(parts[f"weight{k}"]), torch.from_numpy(parts[f"bias{k}"])
            if kind == "dense":
                layer: torch.nn.Module = torch.nn.Linear(weight.shape[1], weight.shape[0])
            else:
                stride, padding = parts[f"stride{k}"].tolist(), parts[f"padding{k}"].tolist()
                layer = torch.nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), tuple(stride), tuple(padding))
            layer.weight, layer.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
            layers.append(layer)
    return torch.nn.Sequential(*layers)


def main() -> None:
    bridge()
    torch.set_default_dtype(torch.float64)
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    with np.load(sys.argv[1], allow_pickle=False) as file:
        parts = dict(file)
    steps, device = int(sys.argv[2]), sys.argv[3]
    shape = [1, *parts["shape"].tolist()]
    lower, upper = (torch.from_numpy(parts[end]).reshape(shape).to(device) for end in ("lower", "upper"))
    rows = torch.from_numpy(parts["rows"])[None].to(device)
    network = chain(parts).to(device)
    found = {}
    for method in ("CROWN", "CROWN-Optimized"):
        seconds = []
        for _ in range(4):  # the first is for warming up
            region = BoundedTensor((lower + upper) / 2, PerturbationLpNorm(norm=float("inf"), x_L=lower, x_U=upper))
            # Its sparse alphas, which save memory and change no bound, fail on some networks with this torch.
            options = {
                "optimize_bound_args": {"iteration": steps, "early_stop_patience": steps},
                "sparse_features_alpha": False,
                "sparse_spec_alpha": False,
            }
            bounded = BoundedModule(network, torch.empty_like(lower), bound_opts=options, device=device)
            began = time.perf_counter()
            bound = bounded.compute_bounds(x=(region,), C=rows, method=method, bound_upper=False)[0]
            values = bound.detach().cpu()[0].tolist()
            seconds.append(time.perf_counter() - began)
        found[method] = (values, min(seconds[1:]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
