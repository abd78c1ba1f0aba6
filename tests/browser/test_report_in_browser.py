"""The report in a real chromium with the network cut: it asks for nothing, nothing is refused, and it can be read anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fathom.audits.result import AuditResult
from fathom.report import render, write_report
from fathom.report.page import panels
from tests.browser.chromium import Page, browser
from tests.synthetic import colour_result, digits_result, table_result, unanswered

pytestmark = pytest.mark.browser

RESULTS = {
    "digits": digits_result(),
    "colour": colour_result(12),
    "table": table_result(),
    "unanswered": unanswered(digits_result(4)),
}
BAD = '<script>document.title="run"</script><img src="http://a.invalid/x.png" onerror="document.title=1">' + "w" * 90
RESULTS["hostile"] = replace(
    digits_result(12),
    title=BAD,
    recipe=BAD,
    casebook=BAD,
    titles=(BAD,) * 12,
    judgements=(BAD,) * 12,
    region=BAD,
    classes=(BAD,) * 10,
)

# What stands outside the window, though nothing round it scrolls or hides it.
OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width > 1 && (box.right > innerWidth + 0.5 || box.left < -0.5) && !e.closest('.scroll, .recipe, svg, .unseen');
}).map(e => e.outerHTML.slice(0, 120))
"""

# Texts whose contrast with the nearest painted background is below WCAG 2.2 level AA: 4.5, or 3 from 24 px (19 px bold) on.
# A transparent veil over the background, as in the picture of the bracket, is not looked at.
FAINT = """
(() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const under = e => {
    for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; }
    return [255, 255, 255, 1];
  };
  const faint = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || e.closest('title, .unseen')) continue;
    const s = getComputedStyle(e), size = parseFloat(s.fontSize);
    const ink = light(parse(e.closest('svg') ? s.fill : s.color)), paper = light(under(e));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    const large = size >= 24 || (size >= 18.66 && s.fontWeight >= 700);
    seen += 1;
    if (ratio < (large ? 3 : 4.5)) faint.push(ratio.toFixed(2) + ' ' + walker.currentNode.data.trim().slice(0, 40));
  }
  return [seen, faint];
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(params=RESULTS)
def result(request: pytest.FixtureRequest) -> AuditResult:
    return RESULTS[request.param]


@pytest.fixture
def file(result: AuditResult, tmp_path: Path) -> Path:
    write_report(result, tmp_path / "report.html")
    return tmp_path / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_asks_for_nothing_and_nothing_is_refused(page: Page, file: Path, scheme: str) -> None:
    page.open(file, scheme=scheme)
    asked = [url for url in page.requests() if not url.startswith("data:")]
    assert asked == [file.as_uri()]
    assert page.complaints() == []
    assert page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length") == 0


def test_it_is_readable_without_scripts(page: Page, file: Path, result: AuditResult) -> None:
    page.open(file, scripts=False)
    text = page.evaluate("document.body.innerText").replace("\u00a0", " ")
    assert result.sentence() in text
    for panel in panels():
        assert panel.title in text
    shown = page.evaluate("[...document.querySelectorAll('.tiles strong')].map(e => e.innerText)")
    counts = result.counts
    assert shown == [str(n) for n in (counts.proved, counts.unknown, counts.broken, counts.already_wrong)]
    assert page.evaluate("document.querySelectorAll('article.card').length") == min(counts.broken, 24)


def test_what_is_folded_away_opens_without_scripts(page: Page, tmp_path: Path) -> None:
    write_report(RESULTS["digits"], tmp_path / "report.html")
    page.open(tmp_path / "report.html", scripts=False)
    place = "document.querySelector('.card summary')"
    page.evaluate(f"{place}.scrollIntoView({{block: 'center'}})")
    x, y = page.evaluate(f"(() => {{ const b = {place}.getBoundingClientRect(); return [b.left + 20, b.top + 8]; }})()")
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    page.settle()
    assert "b64decode" in page.evaluate("document.querySelector('.card').innerText")


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_it_fits_the_window(page: Page, file: Path, width: int) -> None:
    page.open(file, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOWING) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_background(page: Page, file: Path, scheme: str) -> None:
    page.open(file, scheme=scheme)
    seen, faint = page.evaluate(FAINT)
    assert seen > 60
    assert faint == []


def test_light_and_dark_differ(page: Page, tmp_path: Path) -> None:
    write_report(RESULTS["digits"], tmp_path / "report.html")
    papers = []
    for scheme in ("light", "dark"):
        page.open(tmp_path / "report.html", scheme=scheme)
        papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers == ["rgb(252, 252, 250)", "rgb(20, 23, 26)"]


def test_the_picture_and_the_numbers_agree(page: Page, tmp_path: Path) -> None:
    """In pixels: every proved line is right of the zero line, every broken dot on it or left of it, unknown ones across."""
    result = RESULTS["digits"]
    write_report(result, tmp_path / "report.html")
    page.open(tmp_path / "report.html")
    zero = page.evaluate("document.querySelector('line.zero').getBoundingClientRect().left")
    boxes = "[...document.querySelectorAll('g.{} > g > line')].map(l => l.getBoundingClientRect()).map(b => [b.left, b.right])"
    ends = {group: page.evaluate(boxes.format(group)) for group in ("proved", "broken", "unknown")}
    assert [len(ends[group]) for group in ("proved", "broken", "unknown")] == list(result.counts[1:4])
    assert all(left > zero - 1 for left, _ in ends["proved"])
    assert all(right < zero + 1 for _, right in ends["broken"])
    assert all(left < zero + 1 and right > zero - 1 for left, right in ends["unknown"])


SMUGGLED = {
    "a script": "<script>document.title = 'run'</script>",
    "an inline style": "<p style='color: red'>x</p>",
    "a picture from the network": "<img src='http://a.invalid/x.png' alt=''>",
    "a style sheet from the network": "<link rel='stylesheet' href='http://a.invalid/x.css'>",
    "a frame": "<iframe src='data:text/html,x'></iframe>",
}


@pytest.mark.parametrize("added", SMUGGLED.values(), ids=SMUGGLED)
def test_the_policy_refuses_what_is_smuggled_in(page: Page, tmp_path: Path, added: str) -> None:
    """And so the tests above would see it: a page with this in it brings a complaint."""
    file = tmp_path / "report.html"
    file.write_text(render(RESULTS["unanswered"]).replace("</main>", f"{added}</main>"), encoding="utf-8")
    page.open(file)
    assert any("Content Security Policy" in words for words in page.complaints())
    assert page.evaluate("document.title") == "digits-cnn: audit"
    answered = [event["params"]["response"]["url"] for event in page.events if event["method"] == "Network.responseReceived"]
    assert not [url for url in answered if "a.invalid" in url]
