"""The built pages in a real browser, at desktop and phone width."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from website.browser_check import SCREENS, look_at, page_names, search, served
from website.chromium import BrowserError, Tab, find_chromium

SOUND = "<!doctype html><title>x</title><link rel=icon href=data:,><h1>x</h1>"
REGIONS = ("stability-by-order", "stability-by-interval")
BAD_PAGES = {
    "<script>throw new Error('thrown')</script>": "exception: Error: thrown",
    "<script>console.error('logged')</script>": "console: logged",
    "<script src=/gone.js></script>": "log: Failed to load resource",
    "<img src=/gone.svg width=9 height=9>": "picture does not load",
    "<script src=http://127.0.0.2:9/a.js></script>": "asks another host",
    "<p>the price $x_1$": "raw formula: $x_1",
    r"<p>half, \frac12": r"raw formula: \frac12",
    r"<p><code>\nabla f</code>": r"raw formula: \nabla f",
    r"<span class=arithmatex>\(x\)</span>": "formula not rendered",
    "<div style='width: 3000px'>x</div>": "wider than the screen",
}


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    """A browser; without one the tests are skipped on a user's machine, and fail in CI."""
    executable = find_chromium()
    if executable is None:
        missing = (
            "no Chromium on the path, so the site is not looked at in a browser (Debian: apt-get install chromium)"
        )
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with Tab(executable) as tab:
        yield tab


def set_screen(tab: Tab, screen: str) -> None:
    width, height = SCREENS[screen]
    tab.resize(width, height, phone=screen == "phone")


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_every_page_shows_without_an_error(tab: Tab, site: Path, screen: str) -> None:
    set_screen(tab, screen)
    with served(site) as base:
        problems = {name: look_at(tab, base, name) for name in page_names(site)}
    assert len(problems) > 10
    assert {name: found for name, found in problems.items() if found} == {}


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_the_search_leads_to_the_page_that_explains_a_word(tab: Tab, site: Path, screen: str) -> None:
    set_screen(tab, screen)
    with served(site) as base:
        assert search(tab, base, "reset_history")[0].startswith(("guide/", "reference/schedulers/"))
        assert search(tab, base, "generating functions")[0].startswith("theory/01-adams/")


@pytest.mark.slow
def test_formulas_side_by_side_stand_below_each_other_where_they_would_not_fit(tab: Tab, site: Path) -> None:
    gathered, page = {}, "theory/08-stability/"
    with served(site) as base:
        for screen in SCREENS:
            set_screen(tab, screen)
            assert look_at(tab, base, page) == []
            gathered[screen] = tab.evaluate("document.querySelectorAll('.katex-display > .katex .mtable').length")
    assert gathered["phone"] > gathered["desktop"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_generated_picture_shows_in_the_version_of_the_scheme(tab: Tab, site: Path, scheme: str) -> None:
    set_screen(tab, "desktop")
    tab.dark(scheme == "dark")
    with served(site) as base:
        assert look_at(tab, base, "theory/08-stability/") == []
    shown = "[...document.images].filter((image) => image.getClientRects().length).map((image) => image.src)"
    pictures = [address.split("/")[-1] for address in tab.evaluate(shown)]
    assert pictures == [f"{n}-{scheme}.svg#only-{scheme}" for n in ("noise-gain", *REGIONS)]


@pytest.mark.slow
def test_the_scheme_can_be_switched_to_dark_and_back(tab: Tab, site: Path) -> None:
    set_screen(tab, "desktop")
    tab.dark(False)
    with served(site) as base:
        tab.open(base)
        schemes = []
        for _ in range(3):
            schemes.append(tab.evaluate("document.body.getAttribute('data-md-color-scheme')"))
            tab.evaluate("document.querySelector('form[data-md-component=palette] label:not([hidden])').click()")
    assert schemes == ["default", "slate", "default"]


@pytest.mark.parametrize("body", BAD_PAGES)
def test_what_is_wrong_with_a_page_is_seen(tab: Tab, tmp_path: Path, body: str) -> None:
    (tmp_path / "index.html").write_text(SOUND + body, encoding="utf-8")
    set_screen(tab, "phone")
    with served(tmp_path) as base:
        problems = look_at(tab, base, "")
    assert any(problem.startswith(BAD_PAGES[body]) for problem in problems), problems


def test_a_sound_page_passes_and_code_blocks_may_hold_dollars_and_tex(tab: Tab, tmp_path: Path) -> None:
    body = r"<pre><code>$ make docs" "\n" r"\frac12</code></pre><p>run <code>$HOME/x</code>"
    (tmp_path / "index.html").write_text(SOUND + body, encoding="utf-8")
    with served(tmp_path) as base:
        assert look_at(tab, base, "") == []


def test_a_command_that_the_browser_refuses_is_an_error(tab: Tab) -> None:
    with pytest.raises(BrowserError, match=r"Page\.fly"):
        tab.send("Page.fly")
    with pytest.raises(BrowserError, match="thrown"):
        tab.evaluate("(() => { throw new Error('thrown') })()")
