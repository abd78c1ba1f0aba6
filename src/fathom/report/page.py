"""The page: its head with the content-security policy, the sentence to remember, and the panels in order."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from pathlib import Path

import fathom.report.panels as room
from fathom.audits.result import AuditResult, plain
from fathom.core.discover import discover
from fathom.core.errors import FathomError
from fathom.report.markup import Markup, join, tag
from fathom.report.panel import Panel
from fathom.report.style import STYLE
from fathom.report.words import many, typeset


def panels() -> list[Panel]:
    """One of every panel in the room, in the order in which they stand on the page."""
    found = discover(room, Panel)  # type: ignore[type-abstract]
    return sorted((kind() for kind in found.values()), key=lambda panel: (panel.order, panel.anchor))


def policy() -> str:
    """Nothing may be loaded or run: only this page's own style, and pictures written inside it."""
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"


def render(result: AuditResult) -> str:
    """The whole page as text; the same result gives the same text."""
    parts = panels()
    body = tag("body", _header(result, parts), tag("main", [_section(panel, result) for panel in parts]), _footer(result))
    return "<!DOCTYPE html>\n" + tag("html", _head(result), body, lang="en") + "\n"


def write_report(result: AuditResult, path: str | os.PathLike[str]) -> None:
    """Write the page to `path`: to a temporary name first, then renamed, so that no reader ever sees half a page.

    Raises:
        FathomError: the folder does not exist or cannot be written to.
    """
    target = Path(path)
    text = render(result)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    except OSError as error:
        raise FathomError(
            f"cannot write the report {str(target)!r}: {error.strerror}; name a file in a folder that exists"
        ) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        raise FathomError(
            f"cannot write the report {str(target)!r}: {error.strerror}; name a file that can be replaced"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _head(result: AuditResult) -> Markup:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy()),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),  # or a browser asks the server for one
        tag("title", f"{result.title}: audit"),
        tag("style", Markup(STYLE)),
    )


def _header(result: AuditResult, parts: list[Panel]) -> Markup:
    links = [tag("li", tag("a", panel.title, href=f"#{panel.anchor}")) for panel in parts]
    asked = tag("p", result.title, " \u00b7 ", result.region, " \u00b7 ", result.overseer, class_="overline")
    return tag(
        "header",
        asked,
        tag("h1", _headline(result)),
        tag("p", _explanation(result), class_="lead"),
        tag("p", typeset(result.coverage_words[:1].upper() + result.coverage_words[1:] + ".")) if result.coverage_words else "",
        tag("nav", tag("ul", links), aria_label="On this page"),
    )


def _headline(result: AuditResult) -> Markup:
    """The sentence, with a short name of the model kept on one line."""
    name = plain(result.title)
    before, found, after = typeset(result.sentence()).partition(typeset(name))
    return join(before, tag("span", found, class_="name" if len(name) < 25 else None), after)


def _explanation(result: AuditResult) -> Markup:
    """What the sentence rests on, for a reader who never heard of the field."""
    counts = result.counts
    least, most = counts.holding
    hold = f"exactly {least}" if least == most else f"at least {least} and at most {most}"
    return join(
        f"What an adversary may do to each input: {result.region}. "
        f"Whatever it chooses, {hold} of the {many(counts.cases, 'case')} hold. ",
        f"The gap is the {many(counts.unknown, 'case')} that nobody has settled yet."
        if counts.unknown
        else "No case is left unsettled.",
    )


def _section(panel: Panel, result: AuditResult) -> Markup:
    heading = f"{panel.anchor}-heading"
    return tag("section", tag("h2", panel.title, id=heading), panel.body(result), id=panel.anchor, aria_labelledby=heading)


def _footer(result: AuditResult) -> Markup:
    version = dict(result.versions).get("fathom", "")
    return tag(
        "footer", tag("p", f"Written by Fathom {version}. ".replace(" .", "."), "This page loads nothing and runs nothing.")
    )
