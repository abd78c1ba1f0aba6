"""Where the windows of a convolution or a pooling lie: kernel, strides, dilations and padding, in either style of writing."""

from __future__ import annotations

from dataclasses import dataclass

from fathom.capture.onnx_table import Call

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Windows:
    """One entry for each spatial axis; padding as pairs (before, after)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pairs

    @staticmethod
    def of(call: Call, size: tuple[int, ...], kernel: tuple[int, ...]) -> Windows:
        """The windows over a picture of spatial `size`.

        Raises:
            NotUnderstood: an `auto_pad` that ONNX does not know.
        """
        ones = (1,) * len(size)
        stride = tuple(call.attribute("strides", ones))
        dilation = tuple(call.attribute("dilations", ones))
        reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
        auto = call.attribute("auto_pad", "NOTSET")
        if auto == "NOTSET":
            pads = call.attribute("pads", [0] * (2 * len(size)))
            padding = tuple(zip(pads[: len(size)], pads[len(size) :], strict=True))
        elif auto == "VALID":
            padding = ((0, 0),) * len(size)
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            padding = tuple(
                halves(max((-(-n // s) - 1) * s + r - n, 0), upper=auto == "SAME_UPPER")
                for n, s, r in zip(size, stride, reach, strict=True)
            )
        else:
            raise call.refuse(f"expected auto_pad NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {auto}")
        return Windows(kernel, stride, dilation, padding)


def halves(total: int, *, upper: bool) -> tuple[int, int]:
    """A total of padding as (before, after), the odd one at the upper end or at the lower."""
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)
