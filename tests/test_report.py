"""The result of an audit as text, JSON and page: honest numbers, and nothing in a name that can become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fathom.audits.numbers import at_least, at_most, near, percent_at_least, percent_at_most
from fathom.audits.result import AuditResult
from fathom.core.answer import REASONS, Answers, Cost, Reason, Witnesses
from fathom.core.errors import FathomError
from fathom.core.network import Port
from fathom.report.markup import VOID, Markup, join, tag
from fathom.report.page import panels, render, write_report
from fathom.report.pictures import difference, layout, photograph
from fathom.report.png import png
from fathom.report.scale import Scale
from fathom.report.style import STYLE
from tests.synthetic import colour_result, digits_result, only, table_result, unanswered

MEGABYTE = 1_000_000


class Outline(HTMLParser):
    """A page taken apart: every tag must be closed in order, and none may be of the kind that the policy forbids."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))
        assert len(dict(attributes)) == len(attributes), f"an attribute twice on <{name}>"
        if name not in VOID:
            self._open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self._open, f"</{name}> closes nothing"
        assert self._open.pop() == name

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == name]

    def values(self, attribute: str) -> list[str]:
        return [found[attribute] or "" for _, found in self.tags if attribute in found]


def every_kind() -> dict[str, AuditResult]:
    """Results of every shape: full, empty of each verdict in turn, one case, many cases, extreme numbers."""
    digits = digits_result()
    none = unanswered(digits_result(5))
    huge = replace(digits.answers, lower=digits.answers.lower * 1e306)
    return {
        "digits": digits,
        "colour": colour_result(),
        "table": table_result(),
        "no broken": only(digits, ~digits.broken),
        "no unknown": only(digits, ~digits.unknown),
        "no proved": only(digits, ~digits.proved),
        "only broken": only(digits, digits.broken),
        "only already wrong": only(digits, digits.already_wrong),
        "none already wrong": only(digits, ~digits.already_wrong),
        "one case": digits_result(1, seed=3),
        "unanswered": none,
        "no casebook": replace(digits, casebook="", classes=(), limits=(), versions=()),
        "not provable": replace(none, answers=none.answers.because(Reason.NOT_PROVABLE), obstacle="the overseer is a function"),
        "many": digits_result(2500, seed=4),
        "huge numbers": replace(digits, answers=huge),
        "rounding": rounding_failures(digits),
    }


def rounding_failures(result: AuditResult) -> AuditResult:
    """The same, but at the unknown cases' points the deployed program fails and the real network is not known to."""
    found = result.answers.found
    deployed = torch.where(result.unknown, -0.25, found.deployed)
    return replace(result, answers=replace(result.answers, found=replace(found, deployed=deployed)))


KINDS = every_kind()


@pytest.fixture(params=KINDS, ids=lambda name: name.replace(" ", "-"))
def result(request: pytest.FixtureRequest) -> AuditResult:
    return KINDS[request.param]


def exactly(proved: int, broken: int, unknown: int, already: int) -> AuditResult:
    """A result with these counts; the first broken case, number 17, has the worst margin found."""
    cases = proved + broken + unknown + already
    kind = torch.full((cases,), 2)
    kind[17] = 0
    free = [i for i in range(cases) if i != 17]
    for code, size, start in ((0, broken - 1, 0), (1, unknown, broken - 1), (3, already, broken - 1 + unknown)):
        kind[free[start : start + size]] = code
    lower = torch.tensor([-2.5, -0.5, 0.5, -9.0], dtype=torch.float64)[kind]
    upper = torch.tensor([-1.0, 0.5, 1.5, -8.0], dtype=torch.float64)[kind]
    lower[17], upper[17] = -3.0195, -2.314
    found = Witnesses(torch.zeros(cases, 64), torch.zeros(cases, 10), upper, upper, upper, torch.ones(cases, dtype=torch.bool))
    answers = Answers(lower, found, torch.full((cases,), REASONS.index(Reason.TIME)), Cost.zero(cases))
    words = tuple("3 read as 8" if i == 17 else "" for i in range(cases))
    clean = torch.where(kind == 3, -8.0, 3.0)
    return replace(digits_result(cases), answers=answers, judgements=words, clean_margin=clean)


class TestNumbers:
    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_bounds_are_rounded_to_the_honest_side_and_keep_their_sign(self, value: float) -> None:
        low, high = Decimal(at_least(value)), Decimal(at_most(value))
        assert low <= Decimal(value) <= high
        assert abs(Decimal(near(value)) - Decimal(value)) <= max(high - low, Decimal(0))
        if value:
            assert (low > 0) == (value > 0) and (high > 0) == (value > 0) and low != 0 and high != 0

    @given(st.integers(0, 10**6), st.integers(1, 10**6))
    def test_percentages_bracket_the_fraction(self, part: int, whole: int) -> None:
        part = min(part, whole)
        low, high = (Decimal(words.removesuffix(" %")) for words in (percent_at_least(part, whole), percent_at_most(part, whole)))
        assert low * whole <= 100 * part <= high * whole
        assert high - low <= Decimal("0.1")

    def test_what_is_written(self) -> None:
        assert [at_least(v) for v in (-3.0195, 0.05, 0.0412345, -0.0, math.inf)] == ["-3.02", "0.0500", "0.0412", "0.00", "inf"]
        assert [at_most(v) for v in (-2.314, 1e-9, 1234567.0)] == ["-2.31", "1.01e-9", "1.24e+6"]


class TestResult:
    def test_the_printed_lines_are_those_that_were_promised(self) -> None:
        assert exactly(121, 58, 17, 4).lines("report.html") == [
            "digits-cnn, 200 cases (4 already wrong when clean), Linf 0.06 in [0, 1], misclassified",
            "proved 121   broken 58   unknown 17      accuracy under attack is between 60.5 % and 69.0 %",
            "worst found: case 17, 3 read as 8, margin -2.31 (proved: no worse than -3.02)",
            "report.html   casebook.db",
        ]

    def test_a_case_that_is_wrong_when_clean_is_not_the_worst_found(self) -> None:
        worst = exactly(121, 58, 17, 4).worst
        assert worst is not None
        assert (worst.case, worst.margin, worst.lower) == (17, -2.314, -3.0195)

    def test_groups_are_disjoint_and_complete(self, result: AuditResult) -> None:
        groups = torch.stack([result.proved, result.broken, result.unknown, result.already_wrong])
        assert (groups.sum(0) == 1).all()
        counts = result.counts
        assert counts.proved + counts.broken + counts.unknown + counts.already_wrong == counts.cases == len(result)
        assert 0 <= result.share[0] <= result.share[1] <= 1

    def test_the_share_is_called_exact_only_where_it_is(self) -> None:
        digits = digits_result()
        settled = only(digits, ~digits.unknown)
        assert "exactly" not in digits.share_words
        third = exactly(121, 58, 0, 4)
        assert third.share_words == "exactly 121 of 183, 66.1 %"
        assert settled.share[0] == settled.share[1]

    def test_json_is_plain_and_exact(self, result: AuditResult) -> None:
        read = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert read["format"] == "fathom-audit/1"
        assert [read[name] for name in ("cases", "proved", "broken", "unknown", "already_wrong")] == list(result.counts)
        for entry, lower in zip(read["answers"], result.answers.lower.tolist(), strict=True):
            assert entry["lower"] == (lower if math.isfinite(lower) else None)
            if entry["verdict"] == "broken":
                assert entry["witness"]["x"] == result.answers.found.x[entry["case"]].tolist()
                assert entry["witness"]["deployed"] <= 0

    def test_json_has_no_undocumented_key(self) -> None:
        read, documented = digits_result().to_json(), AuditResult.to_json.__doc__ or ""
        entry = next(entry for entry in read["answers"] if entry["witness"])
        for name in (*read, *read["worst"], *entry, *entry["cost"], *entry["witness"]):
            assert re.search(rf"\b{name}\b", documented), name

    def test_parts_of_different_lengths_are_refused(self) -> None:
        digits = digits_result(4)
        with pytest.raises(ValueError, match=r"expected 4 of each.*'titles': 1"):
            replace(digits, titles=("one",))
        with pytest.raises(ValueError, match="expected 10 names in `classes` or none, got 2"):
            replace(digits, classes=("a", "b"))
        with pytest.raises(ValueError, match="at least one case"):
            only(digits, torch.zeros(4, dtype=torch.bool))

    def test_a_name_cannot_write_to_the_terminal(self) -> None:
        lines = replace(digits_result(3), title="net\x1b[2J\nproved 3").lines()
        assert all(line.isprintable() for line in lines)


class TestPage:
    def test_it_is_well_formed_small_and_refers_to_nothing_outside(self, result: AuditResult) -> None:
        page = render(result)
        outline = Outline(page)
        assert len(page.encode()) < MEGABYTE
        assert not outline.named("script")
        for address in (*outline.values("src"), *outline.values("href")):
            assert address.startswith(("data:", "#")), address
        assert not re.search(r"url\(|@import|expression\(", STYLE)
        assert not {name for _, found in outline.tags for name in found if name == "style" or name.startswith("on")}

    def test_it_is_accessible(self, result: AuditResult) -> None:
        outline = Outline(render(result))
        ids = outline.values("id")
        assert len(ids) == len(set(ids))
        assert set(outline.values("aria-labelledby")) <= set(ids)
        assert {link.removeprefix("#") for link in outline.values("href") if link.startswith("#")} <= set(ids)
        assert all(found.get("alt") for found in outline.named("img"))
        assert all(found.get("scope") in ("col", "row") for found in outline.named("th"))
        assert all(found.get("aria-label") or found.get("aria-hidden") for found in outline.named("svg") if found.get("role"))
        levels = [int(name[1]) for name, _ in outline.tags if re.fullmatch(r"h[1-6]", name)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))

    def test_every_panel_has_its_section_in_order(self, result: AuditResult) -> None:
        outline, found = Outline(render(result)), panels()
        assert [section["id"] for section in outline.named("section")] == [panel.anchor for panel in found]
        assert len({panel.order for panel in found}) == len(found) >= 8
        for panel in found:
            assert panel.title in outline.text
            assert Outline(panel.body(result)).text.strip(), f"{panel.anchor} says nothing"

    def test_the_order_is_what_a_manager_reads_first(self) -> None:
        anchors = [panel.anchor for panel in panels()]
        wanted = ["verdicts", "bracket", "broken", "unknown", "costs", "limits", "reproduce"]
        assert [anchor for anchor in anchors if anchor in wanted] == wanted
        text = Outline(render(digits_result())).text.replace("\u00a0", " ")
        assert text.index(digits_result().sentence()) < text.index("The verdicts")

    def test_the_policy_lets_in_this_style_and_nothing_else(self) -> None:
        page = render(digits_result(3))
        style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
        assert style is not None
        digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
        (policy,) = [str(m["content"]) for m in Outline(page).named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
        parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
        assert parts == {
            "default-src": "'none'",
            "img-src": "data:",
            "style-src": f"'sha256-{digest}'",
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        assert page.index("Content-Security-Policy") < page.index("<style>")

    def test_same_result_same_page(self, result: AuditResult) -> None:
        assert render(result) == render(result)

    def test_same_seed_same_page(self) -> None:
        assert render(colour_result(8)) == render(colour_result(8))

    @pytest.mark.parametrize("make", [digits_result, table_result])
    def test_hostile_text_stays_text(self, make: Callable[[int], AuditResult]) -> None:
        friendly = make(20)
        bad = '</style></title><script>alert(1)</script><img src=x onerror="alert(2)">\'"&\x00\ud800\u202e'
        cases = len(friendly)
        hostile = replace(
            friendly,
            **dict.fromkeys(("title", "region", "overseer", "recipe", "casebook", "measure", "arithmetic", "program"), bad),
            titles=(bad,) * cases,
            judgements=(bad,) * cases,
            digests=(bad,) * cases,
            classes=(bad,) * friendly.y.shape[1],
            features=(bad,) * friendly.x.shape[1],
            limits=(bad,),
            obstacle=bad,
            versions=((bad, bad), ("fathom", bad)),
            inputs=tuple(replace(port, name=bad) for port in friendly.inputs),
        )
        outline = Outline(render(hostile))
        kinds = {name for name, _ in outline.tags}
        assert kinds <= {name for name, _ in Outline(render(friendly)).tags} | {"p", "li"}
        assert outline.text.count("<script>alert(1)</script>") > 30
        assert not {"\x00", "\ud800", "\u202e"} & set(outline.text)
        assert not [found for _, found in outline.tags if "onerror" in found]

    def test_the_counts_on_the_page_are_the_result(self, result: AuditResult) -> None:
        page = render(result)
        tiles = page[page.index('<dl class="tiles">') :]
        shown = re.findall(r"<strong>([^<]*)</strong>", tiles[: tiles.index("</dl>")])
        counts = result.counts
        wanted = (counts.proved, counts.unknown, counts.broken, counts.already_wrong)
        assert [int(text.replace("\u202f", "")) for text in shown] == list(wanted)

    def test_the_gallery_shows_the_worst_and_counts_the_rest(self) -> None:
        result = digits_result()
        page = render(result)
        cards = [int(name) for name in re.findall(r'id="broken-(\d+)"', page)]
        order = result.answers.upper.where(result.broken, torch.inf).argsort(stable=True)
        assert cards == order[:24].tolist()
        assert f"The other {result.counts.broken - 24} are in casebook.db." in page
        assert not set(cards) & set(result.already_wrong.nonzero()[:, 0].tolist())

    def test_an_input_pasted_from_the_page_is_the_witness_to_the_bit(self) -> None:
        result = table_result()
        pasted = re.findall(r'id="broken-(\d+)".*?b64decode\(\s*"(.*?)"\s*\), "(.*?)"', _unescaped(render(result)), re.DOTALL)
        assert len(pasted) == result.counts.broken
        for case, packed, kind in pasted:
            x = numpy.frombuffer(base64.b64decode(packed), kind)
            assert (x == result.answers.found.x[int(case)].numpy()).all()

    def test_large_pictures_are_drawn_smaller_and_the_page_stays_small(self) -> None:
        base = digits_result(40)
        random = torch.Generator().manual_seed(0)
        x = torch.rand(40, 3 * 160 * 160, generator=random)
        found = replace(base.answers.found, x=(x + 0.01).float())
        big = replace(base, inputs=(Port("image", (3, 160, 160), 0),), x=x, answers=replace(base.answers, found=found))
        page = render(big)
        assert len(page.encode()) < MEGABYTE
        assert "Drawn at 1/3 of their size." in page
        assert "b64decode" not in page

    def test_unknown_cases_carry_their_reason_and_the_remedy(self) -> None:
        text = Outline(render(digits_result())).text
        assert "the time budget ran out" in text and "What would help: give more seconds." in text
        assert "The overseer is a function." in Outline(render(KINDS["not provable"])).text

    def test_a_rounding_failure_is_listed_apart_and_moves_no_bracket(self) -> None:
        before, after = digits_result(), KINDS["rounding"]
        assert after.rounding_failure.sum() == before.counts.unknown > 0
        assert after.counts == before.counts and after.share == before.share
        section = render(after).split('id="rounding"')[1].split("</section>")[0]
        assert section.count("\u22120.25") == before.counts.unknown
        assert "None: at the 200 points" in render(before)

    def test_a_page_of_many_cases_draws_some_and_says_so(self) -> None:
        page = render(KINDS["many"])
        drawn = page.count("<circle")
        assert 200 < drawn <= 300
        assert "evenly spaced from worst to best" in page

    def test_no_work_claims_nothing(self) -> None:
        text = Outline(render(KINDS["unanswered"])).text.replace("\u00a0", " ")
        assert "between 0.0 % and 100.0 %" in text
        assert "nothing proved" in text and "no point known" in text
        assert "no point was judged both on the deployed program and over the real numbers" in text


class TestWriting:
    def test_it_replaces_the_file_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        target = tmp_path / "report.html"
        target.write_text("old")
        write_report(digits_result(5), target)
        assert target.read_text(encoding="utf-8") == render(digits_result(5))
        assert list(tmp_path.iterdir()) == [target]

    def test_a_failure_on_the_way_keeps_the_old_page(self, tmp_path: Path) -> None:
        target = tmp_path / "report.html"
        target.mkdir()  # a folder cannot be replaced by a file
        with pytest.raises(FathomError, match=r"cannot write the report .*report\.html"):
            write_report(digits_result(2), target)
        assert list(tmp_path.iterdir()) == [target]

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FathomError, match="in a folder that exists"):
            write_report(digits_result(2), tmp_path / "nowhere" / "report.html")


class TestPieces:
    def test_markup_escapes_text_and_keeps_markup(self) -> None:
        assert tag("p", "<b>", Markup("<i>x</i>"), class_='a"b') == '<p class="a&quot;b">&lt;b&gt;<i>x</i></p>'
        assert join(["a", ("&", 3)]) == "a&amp;3"
        assert isinstance(join("a"), Markup) and not isinstance(join("a") + "b", Markup)

    @pytest.mark.parametrize("forbidden", [("p", {"style": "x"}), ("p", {"onclick": "x"}), ("script", {"src": "x"})])
    def test_what_the_policy_forbids_cannot_be_built(self, forbidden: tuple[str, dict[str, str]]) -> None:
        with pytest.raises(ValueError, match="policy forbids"):
            tag(forbidden[0], **forbidden[1])

    @pytest.mark.parametrize("shape", [(8, 8), (5, 7, 3), (1, 1)])
    def test_a_png_reads_back(self, shape: tuple[int, ...]) -> None:
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
        assert (_read_png(png(pixels)) == pixels.numpy()).all()

    def test_other_pixels_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"expected uint8 pixels .* torch.float32 \[2, 2\]"):
            png(torch.zeros(2, 2))

    @pytest.mark.parametrize(
        ("shape", "wanted"),
        [
            ((1, 8, 8), (1, 8, 8, False)),
            ((3, 32, 48), (3, 32, 48, False)),
            ((1, 1, 28, 28), (1, 28, 28, False)),
            ((32, 48, 3), (3, 32, 48, True)),
            ((1, 1, 5), None),
            ((784,), None),
            ((8, 8), None),
            ((4, 16, 16), None),
        ],
    )
    def test_what_is_an_image(self, shape: tuple[int, ...], wanted: tuple[int, int, int, bool] | None) -> None:
        found = layout((Port("x", shape, 0),))
        assert (None if found is None else (found.channels, found.height, found.width, found.last)) == wanted

    def test_channels_last_are_the_same_picture(self) -> None:
        image = torch.rand(3, 6, 5)
        first, last = layout((Port("x", (3, 6, 5), 0),)), layout((Port("x", (6, 5, 3), 0),))
        assert first is not None and last is not None
        assert torch.equal(first.pixels(image.flatten()), last.pixels(image.permute(1, 2, 0).flatten()))

    def test_pixels_mean_what_the_legend_says(self) -> None:
        grey = photograph(torch.tensor([[[0.0, 0.5, 1.0, 2.0]]]), 0.0, 1.0)
        assert grey.tolist() == [[0, 128, 255, 255]]
        colours = difference(torch.tensor([[[-1.0, 0.0, 1.0]]]), 1.0)[0].tolist()
        assert colours[0][2] > colours[0][0] and len(set(colours[1])) == 1 and colours[2][0] > colours[2][2]
        most = difference(torch.tensor([[[0.1]], [[-0.9]], [[0.2]]]), 1.0)
        assert most[0, 0, 2] > most[0, 0, 0]  # the channel that changed most went down

    @given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
    def test_ticks_are_few_and_inside(self, left: float, width: float) -> None:
        scale = Scale(left, left + width)
        if scale.right > scale.left:
            ticks = scale.ticks(6)
            assert len(ticks) <= 12
            assert all(scale.left <= tick <= scale.right or math.isclose(tick, scale.left, abs_tol=width) for tick in ticks)


def _unescaped(page: str) -> str:
    return page.replace("&quot;", '"').replace("&lt;", "<")


def _read_png(data: bytes) -> numpy.ndarray:
    """A second account of the format: chunks with their checksums, rows without filters."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, {}
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        (check,) = struct.unpack(">I", data[place + 8 + size : place + 12 + size])
        assert check == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (8, [0, 0, 0]) and colour in (0, 2)
    channels = 3 if colour else 1
    rows = numpy.frombuffer(zlib.decompress(chunks[b"IDAT"]), numpy.uint8).reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    pixels = rows[:, 1:].reshape(height, width, channels)
    return pixels if colour else pixels[..., 0]
