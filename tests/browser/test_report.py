"""Reports in a real browser: nothing overlaps, nothing sticks out, nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from repack.report import page, read
from tests.support import made
from tests.support.chromium import Chromium, required
from tests.support.pages_fit import OVERLAPS, STICKING_OUT
from tests.support.reports import hostile, segmentation_facts

pytestmark = pytest.mark.browser

WIDTHS = (1280, 400)

BARE = """
[...document.querySelectorAll('img')].filter(e => {
  const caption = e.closest('figure')?.querySelector('figcaption')?.textContent.trim();
  return !caption || !e.alt || !e.complete || e.naturalWidth === 0;
}).map(e => e.alt || 'no alt text').concat(
[...document.querySelectorAll('svg[role=img]')].filter(
  e => !e.getAttribute('aria-label') || !e.closest('figure')?.querySelector('figcaption')
).map(e => e.outerHTML.slice(0, 90)))
"""

HEADINGS = "[...document.querySelectorAll('h1, h2, h3, h4')].map(e => Number(e.tagName[1]))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium(required()) as found:
        yield found


def detector() -> dict[str, Any]:
    """Of the shipped detector, repacked with its samples."""
    return read(made.detector().with_suffix(".report.json"))


def tensors() -> dict[str, Any]:
    """Of a small ONNX model without samples."""
    return read(made.tensors().with_suffix(".report.json"))


PAGES: dict[str, Callable[[], dict[str, Any]]] = {
    "detector": detector,
    "tensors": tensors,
    "segmentation": lambda: segmentation_facts(detector()),
    "hostile": lambda: hostile(segmentation_facts(detector())),
}


@pytest.fixture(scope="module", params=PAGES)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / f"{request.param}.html"
    path.write_text(page.made(PAGES[request.param]()), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overlaps_or_sticks_out(browser: Chromium, opened: Path, width: int) -> None:
    browser.open(opened, width)
    assert browser.run("window.innerWidth") == width
    assert browser.run(OVERLAPS) == []
    assert browser.run(STICKING_OUT) == []


def test_every_picture_has_a_caption_and_loads(browser: Chromium, opened: Path) -> None:
    browser.open(opened, 1280)
    assert browser.run(BARE) == []
    pictures = browser.run("document.images.length")
    expected = {"detector": 6, "tensors": 0, "segmentation": 12, "hostile": 12}
    assert pictures == expected[opened.stem]


def test_headings_go_down_one_level_at_a_time(browser: Chromium, opened: Path) -> None:
    browser.open(opened, 1280)
    levels = browser.run(HEADINGS)
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_dot_of_the_graph_lies_in_the_middle_of_its_row(
    browser: Chromium, opened: Path, width: int
) -> None:
    browser.open(opened, width)
    dots = "[...document.querySelectorAll('.graph .dot')].map(e => e.getBoundingClientRect())"
    rows = "[...document.querySelectorAll('.graph tbody tr')].map(e => e.getBoundingClientRect())"
    middles = [browser.run(f"{boxes}.map(r => r.top + r.height / 2)") for boxes in (dots, rows)]
    assert len(middles[0]) == len(middles[1]) > 2
    assert max(abs(dot - row) for dot, row in zip(*middles, strict=True)) < 2
    dot, text = browser.run(
        "[document.querySelector('.graph .dot').getBoundingClientRect().right,"
        " document.querySelector('.graph tbody td + td').getBoundingClientRect().left]"
    )
    assert dot + 5 < text, "a dot, nine pixels wide, touches the text"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_console_is_silent_and_nothing_is_fetched(
    browser: Chromium, opened: Path, dark: bool
) -> None:
    browser.open(opened, 1280, dark)
    browser.run("1")
    heard = [
        e
        for e in browser.events
        if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    ]
    assert heard == []
    asked = [
        e["params"]["request"]["url"]
        for e in browser.events
        if e["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [opened.resolve().as_uri()]


def test_it_reads_the_same_without_script(browser: Chromium, opened: Path) -> None:
    """The text in the accessibility tree, which needs no script in the page."""

    def spoken() -> list[str]:
        nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
        return [n["name"]["value"] for n in nodes if n.get("name", {}).get("value")]

    browser.open(opened, 1280)
    with_script = spoken()
    browser.open(opened, 1280, script=False)
    assert spoken() == with_script
    assert "What was not checked" in with_script


def test_it_prints(browser: Chromium, opened: Path) -> None:
    browser.open(opened, 1280)
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.ask("Emulation.setEmulatedMedia", media="")


BROKEN = """<!DOCTYPE html><title>x</title><style>p { position: absolute; top: 0 }</style>
<div style="width: 2000px">wide</div><p>one</p><p>two</p>
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" alt="x"><script>console.error(1)</script>"""


def test_these_checks_can_fail(browser: Chromium, tmp_path: Path) -> None:
    path = tmp_path / "broken.html"
    path.write_text(BROKEN)
    browser.open(path, 400)
    assert any("one" in line for line in browser.run(OVERLAPS))
    assert "the page scrolls sideways" in browser.run(STICKING_OUT)
    assert browser.run(BARE) == ["x"]
    assert [e["method"] for e in browser.events].count("Runtime.consoleAPICalled") == 1


@pytest.mark.timeout(20)
def test_a_browser_that_ends_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(RuntimeError, match="the browser ended"):
        Chromium("/bin/true")


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_a_missing_browser_is_a_failure_in_ci_and_a_skip_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(outcome, match="no browser here: none of chromium, "):
        required()
