"""A PNG writer for small pictures: grey or RGB, eight bits a channel, nothing else (PNG specification, 3rd edition)."""

from __future__ import annotations

import base64
import struct
import zlib

import torch
from torch import Tensor


def png(pixels: Tensor) -> bytes:
    """A file from uint8 pixels [h, w] (grey) or [h, w, 3].

    Raises:
        ValueError: another dtype or shape.
    """
    grey = pixels.ndim == 2
    if pixels.dtype != torch.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"expected uint8 pixels [h, w] or [h, w, 3], got {pixels.dtype} {list(pixels.shape)}")
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    unfiltered = torch.nn.functional.pad(rows, (1, 0)).contiguous().numpy().tobytes()  # a 0 before each row: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if grey else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(unfiltered, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def data_uri(pixels: Tensor) -> str:
    """The picture as an address that needs no network."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
