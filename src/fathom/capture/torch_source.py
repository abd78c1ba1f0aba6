"""A torch model from what a user typed: an import path, or a `torch.export` archive. Pickles are refused."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from torch import nn

from fathom.capture.torch_archive import read_archive
from fathom.core.errors import NotUnderstood

PICKLES = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin", ".pt.tar"}
WEIGHTS = {".safetensors", ".npz"}


def load_torch(source: str) -> nn.Module:
    """The module that `source` names, ready for `capture_module`.

    Args:
        source: `package.module:factory`, whose factory takes no argument and returns an `nn.Module`, imported with the current
            directory on the path; or the path of a .pt2 archive.

    Raises:
        NotUnderstood: neither of these, a file that could run code on being read, or a factory that fails; the text says so.
    """
    suffix = Path(source).suffix.lower()
    if suffix == ".pt2":
        return read_archive(Path(source))
    if suffix in PICKLES:
        raise NotUnderstood(
            f"expected a model that can be read without running it, got {source!r}, a pickle, which may run anything; load it in "
            f"a function of your own and give its import path (package.module:factory), or save it with "
            f"torch.export.save(torch.export.export(...), 'model.pt2')"
        )
    if suffix in WEIGHTS:
        raise NotUnderstood(
            f"expected a model, got {source!r}, which holds weights alone; load them into the module in a function of your own "
            f"and give its import path (package.module:factory)"
        )
    return _made(source)


def _made(source: str) -> nn.Module:
    """What the factory at an import path returns."""
    place, colon, name = source.partition(":")
    if not (colon and all(part.isidentifier() for part in (*place.split("."), *name.split(".")))):
        raise NotUnderstood(f"expected package.module:factory, a .pt2 archive or an .onnx file, got {source!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{place}.".startswith(f"{error.name}."):
            raise NotUnderstood(f"importing {place!r} needs {error.name!r}, and there is no such module; install it") from error
        raise NotUnderstood(
            f"expected a module {place!r} to import, got none ({error}); run from the folder that holds it"
        ) from error
    except Exception as error:  # a user's module may raise anything
        raise NotUnderstood(f"importing {place!r} raises {type(error).__name__}: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            names = ", ".join(key for key in vars(found) if not key.startswith("_"))
            raise NotUnderstood(f"expected {part!r} in {found!r}, which has {names}")
        found = getattr(found, part)
    try:
        module = found if isinstance(found, nn.Module) or not callable(found) else found()
    except Exception as error:  # so may a user's factory
        raise NotUnderstood(f"expected {source!r} to make a module, but it raises {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise NotUnderstood(f"expected {source!r} to return an nn.Module, got {type(module).__name__}: {module!r}")
    return module
