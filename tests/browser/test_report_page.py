"""The report in a real browser: quiet, whole, readable on a telephone, printable."""

import contextlib
import re
import zlib
from pathlib import Path

import pytest
from chrome import Chrome

SECTIONS = ["table", "differences", "frontier", "overoptimisation", "training", "choices",
            "answers", "metrics", "missing", "provenance"]  # fmt: skip


@pytest.mark.parametrize(("width", "mobile"), [(1280, False), (768, False), (375, True)])
def test_it_is_quiet_asks_for_nothing_and_fits_the_window(
    page: Path, chrome: Chrome, width: int, mobile: bool
) -> None:
    chrome.open(page, width, 800, mobile)
    assert chrome.complaints() == []
    assert chrome.requests() == [page.resolve().as_uri()]
    assert chrome.evaluate("document.documentElement.scrollWidth") == width
    # what is wider than its place scrolls inside it
    stray = chrome.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert stray == []


def test_every_section_is_there_and_linked(page: Path, chrome: Chrome) -> None:
    chrome.open(page, 1280, 800)
    assert chrome.evaluate("[...document.querySelectorAll('section')].map(s => s.id)") == SECTIONS
    links = chrome.evaluate(
        "[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href').slice(1))"
    )
    assert links == SECTIONS


def test_figures_are_visible_and_told_in_words(page: Path, chrome: Chrome) -> None:
    chrome.open(page, 375, 800, True)
    shown = chrome.evaluate(
        "[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width, "
        "i.alt.length])"
    )
    assert len(shown) == 5
    for natural, width, words in shown:
        assert natural > 100
        assert 300 < width <= 375
        assert words > 60
    # not blank: the picture of a figure holds many colours
    colours = chrome.evaluate(
        "(() => { const i = document.images[1], c = document.createElement('canvas');"
        "c.width = 300; c.height = 200; const x = c.getContext('2d');"
        "x.drawImage(i, 0, 0, 300, 200);"
        "const d = x.getImageData(0, 0, 300, 200).data, s = new Set();"
        "for (let k = 0; k < d.length; k += 4) s.add(d[k] << 16 | d[k+1] << 8 | d[k+2]);"
        "return s.size })()"
    )
    assert colours > 20


def test_text_is_large_enough_to_read_on_a_telephone(page: Path, chrome: Chrome) -> None:
    chrome.open(page, 375, 800, True)
    small = chrome.evaluate(
        "[...document.querySelectorAll('p, td, th, li, .text')].filter(e => e.innerText && "
        "parseFloat(getComputedStyle(e).fontSize) < 12).length"
    )
    assert small == 0


def test_texts_of_models_are_text_and_no_markup(page: Path, chrome: Chrome) -> None:
    chrome.open(page, 1280, 800)
    assert chrome.evaluate("document.querySelectorAll('.card b').length") == 0
    assert "<b>bold</b>" in chrome.evaluate("document.querySelector('#answers').textContent")


def test_missing_failed_and_diverged_runs_are_told(page: Path, chrome: Chrome) -> None:
    chrome.open(page, 1280, 800)
    told = chrome.evaluate("document.querySelector('#missing').innerText")
    for part in (
        "failed",
        "out of memory",
        "missing",
        "Diverged",
        "kto, K=2 seed 1",
        "kto, K=4 seed 1",
    ):
        assert part in told
    assert "2 runs that were asked for are not in" in chrome.evaluate(
        "document.querySelector('.warning').innerText"
    )


def test_the_numbers_behind_a_figure_can_be_opened_and_taken_away(
    page: Path, chrome: Chrome
) -> None:
    chrome.open(page, 375, 800, True)
    rows = chrome.evaluate(
        "(() => { const d = document.querySelector('#frontier details'); d.open = true;"
        "return d.querySelectorAll('tbody tr').length })()"
    )
    assert rows == 9
    assert chrome.evaluate("document.documentElement.scrollWidth") == 375
    text = chrome.evaluate(
        "(() => { const a = document.querySelector('#frontier a[download]');"
        "return atob(a.href.split(',')[1]) })()"
    )
    assert text.splitlines()[0].startswith("name,seeds,kl")
    assert len(text.splitlines()) == 10


#: names in which a mean stands on another line than its half width
BROKEN = """(() => {
  const broken = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; (text = texts.nextNode());) {
    if (!/\\d.±.\\d/.test(text.data)) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    if (range.getClientRects().length > 1) broken.push(text.data);
  }
  return broken })()"""


def test_a_long_name_leaves_room_for_its_numbers_on_a_telephone(
    long_names: Path, chrome: Chrome
) -> None:
    chrome.open(long_names, 375, 800, True)
    assert chrome.evaluate("document.documentElement.scrollWidth") == 375
    # the first column stays in place while the others are moved past it
    wide = chrome.evaluate(
        "[...document.querySelectorAll('tbody th:first-child')].map(e => "
        "[e.innerText, e.getBoundingClientRect()]).filter(([t, r]) => "
        "r.width > 200 || r.height > 120).map(([t]) => t)"
    )
    assert wide == []
    assert chrome.evaluate(BROKEN) == []
    assert chrome.evaluate("/\\d ± \\d/.test(document.body.innerText.replace(/\u00a0/g, ' '))")


def test_nothing_is_wider_than_the_paper_and_numbers_stay_whole(
    long_names: Path, chrome: Chrome
) -> None:
    """What is wider makes a browser print everything smaller."""
    # A4 without its margins, in CSS pixels
    chrome.open(long_names, 718, 1000)
    chrome.call("Emulation.setEmulatedMedia", media="print")
    try:
        chrome.evaluate("document.querySelectorAll('details').forEach(d => d.open = true), 1")
        assert chrome.evaluate("document.documentElement.scrollWidth") == 718
        assert chrome.evaluate(BROKEN) == []
        tall = chrome.evaluate(
            "[...document.images].filter(i => i.getBoundingClientRect().height > 900).length"
        )
        assert tall == 0
    finally:
        chrome.call("Emulation.setEmulatedMedia", media="")


def texts(pdf: bytes) -> int:
    """How many pieces of text are drawn."""
    count = 0
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.S):
        with contextlib.suppress(zlib.error):
            count += len(re.findall(rb"\bT[jJ]\b", zlib.decompress(stream)))
    return count


def test_it_prints_with_everything_unfolded(page: Path, chrome: Chrome) -> None:
    chrome.open(page, 1280, 800)
    printed = chrome.pdf()
    assert printed.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert 4 <= pages <= 60
    cells = chrome.evaluate("document.querySelectorAll('details td').length")
    chrome.evaluate("document.querySelectorAll('details').forEach(d => d.remove()), 1")
    # pages would not tell: a figure that moves to the next one leaves room
    assert texts(printed) >= texts(chrome.pdf()) + cells > cells > 100
