"""A user's samples and labels, read from .npz or .safetensors: sizes first, then values, and never a pickle."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import torch
from numpy.lib import format as npy
from torch import Tensor

from fathom.core.errors import FathomError

MAX_BYTES = 4 << 30
"""Arrays that claim to be larger than this are refused before they are read."""

INPUT_KEYS = ("x", "X", "data", "inputs", "images", "features", "x_test", "X_test")
LABEL_KEYS = ("y", "Y", "labels", "label", "targets", "target", "y_test", "Y_test")
NAME_KEYS = ("names", "class_names")

Array = np.ndarray[Any, np.dtype[Any]]


class DataError(FathomError):
    """Data that cannot be read, or that are no samples and labels."""


@dataclass(frozen=True, eq=False)
class Data:
    """N samples, finite, and where the file has them their labels, whole numbers as they stand in the file."""

    x: Array  # [N, *shape] float32, or float64 where float32 would round
    y: Array | None  # [N] int64
    names: tuple[str, ...] = ()  # of the classes; () for their numbers

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.x.shape[1:])

    @property
    def flat(self) -> Tensor:
        """[N, d]: the samples as networks and regions see them."""
        return torch.from_numpy(np.ascontiguousarray(self.x)).reshape(len(self), -1)

    @property
    def labels(self) -> Tensor | None:
        """[N] int64."""
        return None if self.y is None else torch.from_numpy(self.y)

    def part(self, start: int = 0, limit: int | None = None) -> Data:
        """The samples from `start` on, at most `limit` of them.

        Raises:
            DataError: there are none.
        """
        stop = len(self) if limit is None else start + limit
        if not 0 <= start < min(stop, len(self)):
            raise DataError(f"expected a part of {len(self)} samples, got start {start} and limit {limit}, which leave none")
        return replace(self, x=self.x[start:stop], y=None if self.y is None else self.y[start:stop])


@dataclass(frozen=True)
class _Entry:
    """An array in a file, before it is read."""

    shape: tuple[int, ...]
    itemsize: int
    read: Callable[[], Array]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.itemsize


def read_data(path: str | Path, inputs: str | None = None, labels: str | None = None) -> Data:
    """Samples and labels of a file.

    Which array is which: `inputs` and `labels` where given; else the one array with a name of `INPUT_KEYS`, and the one, if
    any, of `LABEL_KEYS`; else, in a file of one array, that is the samples, and of two, those of one dimension are the labels.
    An array of `NAME_KEYS` names the classes.

    Args:
        path: a .npz (not pickled) or .safetensors file.
        inputs: the samples' name in the file, [N, *shape] of a real or whole type.
        labels: the labels' name, [N] or [N, 1], whole numbers.

    Raises:
        DataError: the file cannot be read, or does not hold what is said here; the text says which array and where.
    """
    path = Path(path)
    readers = {".npz": _npz, ".safetensors": _safetensors}
    if path.suffix not in readers:
        raise DataError(f"expected data as .npz or .safetensors, got {path}; save them by numpy.savez(path, x=samples, y=labels)")
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        raise DataError(f"expected a file of data at {path}, got {got}; check the path")
    entries = readers[path.suffix](path)
    x_key, y_key = _choose(path, entries, inputs, labels)
    samples = _samples(path, x_key, _read(path, x_key, entries[x_key]))
    marks = None if y_key is None else _labels(path, y_key, _read(path, y_key, entries[y_key]))
    if marks is not None and len(marks) != len(samples):
        raise DataError(
            f"expected a label {y_key!r} for each of {len(samples)} samples {x_key!r} of {path}, got {len(marks)} labels; "
            "were they filtered apart?"
        )
    return Data(samples, marks, _names(path, entries))


def _npz(path: Path) -> dict[str, _Entry]:
    """The arrays of a .npz by name. Only their headers are read here, and numpy's own reader later, with pickles off."""
    entries = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    continue
                key = info.filename.removesuffix(".npy")
                with archive.open(info) as file:
                    shape, dtype = _npy_header(path, key, file)
                    claimed, there = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
                if claimed != there:
                    raise DataError(
                        f"expected {claimed} bytes for the array {key!r} {list(shape)} of {path}, got {there}; the file is "
                        "damaged: make it again"
                    )
                entries[key] = _Entry(shape, dtype.itemsize, lambda name=info.filename: _read_npy(path, name))  # type: ignore[misc]
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, OSError, EOFError, RuntimeError) as error:
        raise DataError(f"expected a .npz file at {path}, got: {error}; make it again by numpy.savez") from error
    return entries


def _npy_header(path: Path, key: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = npy.read_magic(file)
        reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if reader is None:
            raise ValueError(f"format version {version}")
        shape, _, dtype = reader(file)
    except (ValueError, SyntaxError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"expected the array {key!r} of {path} in numpy's format, got: {error}; make the file again") from error
    if dtype.hasobject:
        raise DataError(
            f"expected numbers in the array {key!r} of {path}, got Python objects, which would have to be unpickled and so could "
            "run any code; save it again as a plain array, such as numpy.asarray(value, dtype=numpy.float32)"
        )
    return shape, dtype


def _read_npy(path: Path, name: str) -> Array:
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        return np.asarray(npy.read_array(file, allow_pickle=False))


def _safetensors(path: Path) -> dict[str, _Entry]:
    """The tensors of a .safetensors file by name; the library checks the header against the file's size."""
    entries = {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (no mapping)
                part = file.get_slice(key)
                entries[key] = _Entry(tuple(part.get_shape()), 8, lambda key=key: _read_tensor(path, key))  # type: ignore[misc]
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(f"expected a .safetensors file at {path}, got: {error}; make it again") from error
    return entries


def _read_tensor(path: Path, key: str) -> Array:
    with safetensors.safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(key)
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            tensor = tensor.to(torch.float32)  # exact from the narrower types, some of which numpy does not have
        return tensor.numpy()


def _choose(path: Path, entries: Mapping[str, _Entry], inputs: str | None, labels: str | None) -> tuple[str, str | None]:
    """The names of the samples and of the labels."""
    there = ", ".join(f"{key!r} {list(entry.shape)}" for key, entry in entries.items()) or "no array"
    for asked in (inputs, labels):
        if asked is not None and asked not in entries:
            raise DataError(f"expected an array {asked!r} in {path}, got {there}")
    x_keys = [inputs] if inputs is not None else [key for key in INPUT_KEYS if key in entries and key != labels]
    y_keys = [labels] if labels is not None else [key for key in LABEL_KEYS if key in entries and key != inputs]
    rest = [key for key in entries if key not in (*NAME_KEYS, *x_keys, *y_keys)]
    if not x_keys and len(rest) == 1:
        x_keys = rest
    elif not x_keys and not y_keys and len(rest) == 2:
        y_keys = [key for key in rest if _is_list(entries[key].shape)]
        x_keys = [key for key in rest if key not in y_keys]
    elif not y_keys and len(rest) == 1 and len(entries) == 2 and _is_list(entries[rest[0]].shape):
        y_keys = rest
    if len(x_keys) != 1 or len(y_keys) > 1:
        raise DataError(
            f"expected one array of samples named {' or '.join(INPUT_KEYS)}, and at most one of labels named "
            f"{' or '.join(LABEL_KEYS)}, in {path}, got {there}; rename them, or say which are which: [data] inputs, labels"
        )
    return x_keys[0], y_keys[0] if y_keys else None


def _is_list(shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)


def _read(path: Path, key: str, entry: _Entry) -> Array:
    if entry.bytes > MAX_BYTES:
        raise DataError(
            f"expected at most {MAX_BYTES} bytes, got {entry.bytes} for the array {key!r} {list(entry.shape)} of {path}; save "
            "only the part that is to be audited"
        )
    try:
        return entry.read()
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"expected to read the array {key!r} of {path}, got: {error}; make the file again") from error


def _samples(path: Path, key: str, x: Array) -> Array:
    where = f"the samples {key!r} of {path}"
    if x.dtype.kind not in "fiub":
        raise DataError(f"expected {where} as real numbers, got {x.dtype}; save them by astype(numpy.float32)")
    if x.ndim < 2:
        raise DataError(f"expected {where} as [N, *shape], got {list(x.shape)}; save single numbers as [N, 1], by reshape(-1, 1)")
    if x.size == 0:
        raise DataError(f"expected {where} to be some, got {list(x.shape)}")
    with np.errstate(over="ignore"):
        single = x.astype(np.float32, copy=False)
    exact = x.dtype == np.float32 or np.array_equal(single, x, equal_nan=x.dtype.kind == "f")
    x = single if exact else x.astype(np.float64)
    if not np.isfinite(x).all():
        at = np.argwhere(~np.isfinite(x))[0].tolist()
        raise DataError(f"expected {where} to be finite, got {x[tuple(at)]} at {at}; remove such samples, or fill them in")
    return x


def _labels(path: Path, key: str, y: Array) -> Array:
    where = f"the labels {key!r} of {path}"
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        hint = "; they look one-hot: save labels.argmax(1)" if y.ndim == 2 else ""
        raise DataError(f"expected {where} as [N], a whole number a sample, got {list(y.shape)}{hint}")
    if y.dtype.kind not in "fiub":
        raise DataError(
            f"expected {where} as whole numbers, got {y.dtype}; number the classes from 0 (their names go in 'names')"
        )
    whole = np.isfinite(y) & (np.abs(y) < 2.0**53) & (np.floor(y) == y)
    if not whole.all():
        at = int(np.argwhere(~whole)[0, 0])
        raise DataError(f"expected {where} as whole numbers, got {y[at]} at {at}; are these the values of a regression?")
    return y.astype(np.int64)


def _names(path: Path, entries: Mapping[str, _Entry]) -> tuple[str, ...]:
    for key in NAME_KEYS:
        if key in entries and entries[key].itemsize * math.prod(entries[key].shape) < 1 << 20:
            names = _read(path, key, entries[key])
            if names.dtype.kind == "U" and names.ndim == 1:
                return tuple(str(name) for name in names)
    return ()
