"""HTML and SVG from Python values. Plain text is escaped where it enters, so that no name or path can become markup."""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = frozenset({"br", "hr", "img", "link", "meta"})
BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | int | Iterable["Content"]


def join(*children: Content) -> Markup:
    """Children end to end: markup as it is, anything else escaped; iterables are flattened."""
    return Markup("".join(_flat(children)))


def tag(name: str, /, *children: Content, **attributes: str | int | bool | None) -> Markup:
    """An element. `class_` is class, `stroke_width` is stroke-width; None and False leave an attribute out.

    Raises:
        ValueError: an inline style or script, which the page's content-security policy forbids.
    """
    parts = [name]
    for key, value in attributes.items():
        label = key.rstrip("_").replace("_", "-")
        if label == "style" or label.startswith("on") or name == "script":
            raise ValueError(f"the page's policy forbids `{label}` on <{name}>; use a class")
        if value is not None and value is not False:
            parts.append(label if value is True else f'{label}="{html.escape(clean(str(value)))}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening) if name in VOID else Markup(f"{opening}{join(*children)}</{name}>")


def clean(text: str) -> str:
    """The text without what HTML cannot hold (controls, lone surrogates) or what would reorder its neighbours."""
    return "".join(c if _harmless(c) else "\ufffd" for c in text)


def _harmless(c: str) -> bool:
    code = ord(c)
    control = (code < 32 and c not in "\n\t") or 127 <= code < 160
    return not (control or 0xD800 <= code < 0xE000 or c in BIDI)


def _flat(children: Iterable[Content]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Markup):
            yield child
        elif isinstance(child, str | int):
            yield html.escape(clean(str(child)))
        else:
            yield from _flat(child)
