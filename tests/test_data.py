"""Reading a user's samples and labels: what is understood, and how everything else is refused."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from fathom.audits import data as data_module
from fathom.audits.data import INPUT_KEYS, LABEL_KEYS, DataError, read_data

GENERATOR = np.random.default_rng(0)
X = GENERATOR.random((5, 3, 2)).astype(np.float32)
Y = np.array([0, 1, 2, 1, 0])


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


# What is understood


@pytest.mark.parametrize("names", [*zip(INPUT_KEYS, LABEL_KEYS, strict=True), ("images", "labels"), ("data", "y")])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_the_usual_names(tmp_path: Path, names: tuple[str, str], suffix: str) -> None:
    path = tmp_path / f"d{suffix}"
    if suffix == ".npz":
        save(path, **{names[1]: Y, names[0]: X})
    else:
        safetensors.numpy.save_file({names[1]: Y, names[0]: X}, path)
    data = read_data(path)
    assert np.array_equal(data.x, X) and data.x.dtype == np.float32
    assert data.y is not None and data.y.tolist() == Y.tolist() and data.y.dtype == np.int64
    assert len(data) == 5 and data.shape == (3, 2) and data.flat.shape == (5, 6)
    assert data.labels is not None and data.labels.dtype == torch.int64


def test_one_array_is_the_samples_and_two_tell_themselves_apart(tmp_path: Path) -> None:
    assert read_data(save(tmp_path / "a.npz", measurements=X)).y is None
    both = read_data(save(tmp_path / "b.npz", digit=Y[:, None], pixels=X))
    assert both.shape == (3, 2) and both.y is not None and both.y.shape == (5,)
    assert read_data(save(tmp_path / "c.npz", x=X, digit=Y)).y is not None
    assert read_data(save(tmp_path / "d.npz", x=X, extra=Y, more=Y)).y is None, "two candidates are none"
    np.savez(tmp_path / "e.npz", X, Y)
    assert read_data(tmp_path / "e.npz").y is not None, "arr_0 and arr_1"


def test_names_may_be_given(tmp_path: Path) -> None:
    path = save(tmp_path / "d.npz", x=X, y=Y, images=X + 1, coarse=Y + 7)
    data = read_data(path, inputs="images", labels="coarse")
    assert data.y is not None and data.y[0] == 7 and np.array_equal(data.x, X + 1)
    with pytest.raises(DataError, match=r"expected an array 'z' in .*got 'x' \[5, 3, 2\], 'y' \[5\]"):
        read_data(path, inputs="z")


def test_compressed_files_and_class_names(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=X, y=Y, class_names=np.array(["zero", "one", "zwölf"]))
    data = read_data(tmp_path / "d.npz")
    assert data.names == ("zero", "one", "zwölf") and np.array_equal(data.x, X)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        ("uint8", np.float32),
        ("bool", np.float32),
        ("int64", np.float32),
        ("float16", np.float32),
        (">f4", np.float32),
        ("float64", np.float32),
    ],
)
def test_values_that_float32_holds_become_float32(tmp_path: Path, dtype: str, kept: type) -> None:
    x = np.array([[0, 1], [1, 0]]).astype(dtype)
    data = read_data(save(tmp_path / "d.npz", x=x))
    assert data.x.dtype == kept and np.array_equal(data.x, x) and data.flat.tolist() == x.astype(float).tolist()


def test_values_that_float32_would_round_stay_as_they_are(tmp_path: Path) -> None:
    for x in (np.array([[0.1, 0.2]]), np.array([[2**24 + 1, 0]]), np.array([[1e300, 0.0]])):
        data = read_data(save(tmp_path / "d.npz", x=x))
        assert data.x.dtype == np.float64 and np.array_equal(data.x, x)


def test_narrow_floats_of_safetensors(tmp_path: Path) -> None:
    x = torch.tensor([[0.5, 1.5]], dtype=torch.bfloat16)
    safetensors.torch.save_file({"x": x, "y": torch.tensor([1])}, tmp_path / "d.safetensors")
    data = read_data(tmp_path / "d.safetensors")
    assert data.x.dtype == np.float32 and data.x.tolist() == [[0.5, 1.5]]


@pytest.mark.parametrize("y", [Y.astype(np.float64), Y.astype(np.uint8), Y[:, None], Y.astype(">i4"), Y % 2 == 1])
def test_labels_are_whole_numbers_in_any_dress(tmp_path: Path, y: np.ndarray) -> None:
    data = read_data(save(tmp_path / "d.npz", x=X, y=y))
    assert data.y is not None and data.y.tolist() == np.ravel(y).astype(int).tolist() and data.y.dtype == np.int64


def test_a_part(tmp_path: Path) -> None:
    data = read_data(save(tmp_path / "d.npz", x=X, y=Y))
    part = data.part(1, 2)
    assert np.array_equal(part.x, X[1:3]) and part.y is not None and part.y.tolist() == [1, 2]
    assert len(data.part(3)) == 2 and len(data.part(3, 100)) == 2
    for start, limit in ((5, None), (0, 0), (-1, 2), (2, -1)):
        with pytest.raises(DataError, match="part of 5 samples"):
            data.part(start, limit)


# What is refused


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"x": X, "X": X, "y": Y},
            r"one array of samples .*got 'x' \[5, 3, 2\], 'X' \[5, 3, 2\], 'y' \[5\].*or say which",
        ),
        ({"x": X, "y": Y, "labels": Y}, "at most one of labels"),
        ({"a": X, "b": X, "c": Y}, "one array of samples"),
        ({"a": X, "b": X}, "one array of samples"),
        ({"a": Y, "b": Y}, "one array of samples"),
        ({}, "got no array"),
        ({"x": X, "y": Y[:4]}, r"label 'y' for each of 5 samples 'x' of .*got 4 labels"),
        ({"x": X, "y": Y + 0.5}, r"whole numbers, got 0.5 at 0; are these the values of a regression"),
        ({"x": X, "y": np.array([0, 1, np.nan, 1, 0])}, "whole numbers, got nan at 2"),
        ({"x": X, "y": np.array([0, 1, np.inf, 1, 0])}, "whole numbers, got inf at 2"),
        ({"x": X, "y": np.array([0, 1, 1e300, 1, 0])}, "whole numbers, got 1e"),
        ({"x": X, "y": np.eye(5)}, r"\[N\].*got \[5, 5\].*one-hot: save labels.argmax"),
        ({"x": X, "y": np.array(list("abcde"))}, "whole numbers, got <U1.*number the classes from 0"),
        ({"x": X, "y": np.array(3)}, r"\[N\].*got \[\]"),
        ({"x": Y.astype(float)}, r"\[N, \*shape\], got \[5\].*reshape\(-1, 1\)"),
        ({"x": X[:0], "y": Y[:0]}, r"to be some, got \[0, 3, 2\]"),
        ({"x": X[:, :0]}, r"to be some, got \[5, 0, 2\]"),
        ({"x": np.where(X[2, 1, 1] == X, np.nan, X)}, r"finite, got nan at \[2, 1, 1\]"),
        ({"x": np.where(X[2, 1, 1] == X, -np.inf, X)}, r"finite, got -inf at \[2, 1, 1\]"),
        ({"x": X.astype(complex)}, "real numbers, got complex128"),
        ({"x": np.array([["a"]])}, "real numbers, got <U1"),
        ({"x": np.zeros(3, dtype=[("a", "f4")])}, "real numbers, got"),
    ],
)
def test_what_is_no_samples_and_labels(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_data(save(tmp_path / "d.npz", **arrays))


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "d.csv").write_text("1,2,3")
    for name, message in (("none.npz", "nothing there"), ("folder.npz", "a folder"), ("d.csv", r"\.npz or \.safetensors")):
        with pytest.raises(DataError, match=message):
            read_data(tmp_path / name)


class Malice:
    """What runs when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.proof,)


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    objects = np.empty(1, dtype=object)
    objects[0] = Malice(proof)
    save(tmp_path / "inside.npz", x=objects)
    with pytest.raises(DataError, match="Python objects, which would have to be unpickled"):
        read_data(tmp_path / "inside.npz")
    for name in ("whole.npz", "whole.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Malice(proof)))
        with pytest.raises(DataError, match=f"expected a {Path(name).suffix} file"):
            read_data(tmp_path / name)
    assert not proof.exists()


def entry(header: dict[str, object] | bytes, body: bytes = b"") -> bytes:
    """A .npy with a header of one's own."""
    file = io.BytesIO()
    if isinstance(header, bytes):
        return header + body
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
    return file.getvalue() + body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (entry({"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 4)}), r"expected 17592186044416 bytes.*got 0"),
        (entry({"descr": "<f4", "fortran_order": False, "shape": (2, 4)}, b"\0" * 31), "expected 32 bytes.*got 31"),
        (entry({"descr": "<f4", "fortran_order": False, "shape": (2, 4)}, b"\0" * 33), "expected 32 bytes.*got 33"),
        (entry({"descr": "<f4", "fortran_order": False, "shape": (-2, -4)}, b"\0" * 32), "expected to read"),
        (entry({"descr": "O", "fortran_order": False, "shape": (1, 1)}, b"\0" * 8), "Python objects"),
        (entry(b"\x93NUMPY\x01\x00\x10\x00" + b"__import__('os')"), "numpy's format"),
        (entry(b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16), "numpy's format"),
        (entry(b"\x93NUMPY\x01\x00\xff\xff" + b" " * 70000), "numpy's format"),
        (entry(b"not an array"), "numpy's format"),
        (entry(b""), "numpy's format"),
    ],
)
def test_malformed_arrays(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(DataError, match=message):
        read_data(path)


def test_an_array_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small as a file: zeros compress."""
    np.savez_compressed(tmp_path / "d.npz", x=np.zeros((1000, 1000), np.float32))
    safetensors.numpy.save_file({"x": np.zeros((1000, 1000), np.float32)}, tmp_path / "d.safetensors")
    monkeypatch.setattr(data_module, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(data_module, "_read_npy", None)
    monkeypatch.setattr(data_module, "_read_tensor", None)
    for name in ("d.npz", "d.safetensors"):
        with pytest.raises(DataError, match=r"at most 1048576 bytes.*'x' \[1000, 1000\].*only the part"):
            read_data(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damage_anywhere_is_an_error_or_harmless(tmp_path: Path, suffix: str) -> None:
    """Truncated and overwritten at random: ours or nothing, and never NaN let through."""
    path = tmp_path / f"d{suffix}"
    if suffix == ".npz":
        np.savez_compressed(path, x=X, y=Y)
    else:
        safetensors.numpy.save_file({"x": X, "y": Y}, path)
    whole, generator, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        broken = bytearray(whole[: generator.randrange(len(whole))] if generator.random() < 0.3 else whole)
        for _ in range(generator.randrange(4) if broken else 0):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        path.write_bytes(broken)
        try:
            assert np.isfinite(read_data(path).x).all()
        except DataError as error:
            assert "d" + suffix in str(error)
            refused += 1
    assert refused > 100
