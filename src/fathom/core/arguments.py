"""What public functions are called with: each part is of its kind, or refused with the way from what came to what is meant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, UnionType

from torch import Tensor

from fathom.core.budget import Budget
from fathom.core.errors import FathomError
from fathom.core.overseer import Overseer
from fathom.core.region import Region
from fathom.core.solver import Solver

FILE = str | Path


def require(name: str, value: object, kind: type | UnionType, words: str, way: str) -> None:
    """Refuses what is not of a kind.

    Args:
        name: of the argument.
        words: what is expected.
        way: what to do.

    Raises:
        FathomError: with all of these, and what came.
    """
    if not isinstance(value, kind):
        raise FathomError(f"expected `{name}` as {words}, got {came(value)}; {way}")


def require_parts(model: object, models: type | UnionType, region: object, overseer: object, budget: object) -> None:
    """What an audit and its like are about; `models` are the kinds of model that it takes.

    Raises:
        FathomError: one of them is of another kind.
    """
    require_model(model, models)
    require_region(region)
    require_overseer(overseer)
    require_budget(budget)


def require_model(model: object, kind: type | UnionType) -> None:
    way = "a function becomes a module in the forward of a torch.nn.Module; other frameworks export to ONNX"
    require("model", model, kind, "a torch.nn.Module, the path of an ONNX file, or what was captured before", way)


def require_region(region: object) -> None:
    way = "samples x become one by fathom.regions.LinfBall.around(x, radius=0.03, clip=(0, 1)), say"
    require("region", region, Region, "a region, whose sets the inputs are of", way)


def require_overseer(overseer: object) -> None:
    way = (
        "labels y become one by fathom.Misclassification(label=y, classes=10), a function of inputs and outputs by "
        "fathom.overseers.PythonOverseer(function)"
    )
    require("overseer", overseer, Overseer, "an overseer, which judges", way)


def require_budget(budget: object) -> None:
    """None is allowed."""
    seconds = budget if isinstance(budget, int | float) else 60
    require("budget", budget, Budget | None, "a budget", f"write fathom.Budget(seconds={seconds})")


def require_solver(solver: object) -> None:
    """None is allowed."""
    way = "leave it out for all that Fathom can do; an attack alone is Gradient() from fathom.attacks.gradient, say"
    require("solver", solver, Solver | None, "a solver", way)


def require_file(name: str, path: object, words: str) -> None:
    require(name, path, FILE, words, "a module is for fathom.audit, or goes into a file by torch.onnx.export")


def require_files(name: str, paths: object, words: str) -> None:
    """One, or several by name."""
    for path in paths.values() if isinstance(paths, Mapping) else (paths,):
        require_file(name, path, words)


def require_seconds(seconds: object) -> None:
    """None is no limit."""
    require("seconds", seconds, int | float | None, "a number of seconds", "leave it out for no limit")


def came(value: object) -> str:
    """What came, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if value is None or isinstance(value, str | int | float):
        return repr(value)[:80]
    return "a function" if isinstance(value, FunctionType) else f"a value of the type {type(value).__name__}"
