"""Look at every built page in a browser: errors, requests, raw formulas, pictures, width, search.

``python -m website.browser_check site [--screenshots FOLDER]`` prints a line per page and width.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .chromium import Tab, find_chromium

SCREENS = {"desktop": (1280, 900), "phone": (390, 844)}

_LOOK = (Path(__file__).parent / "browser_check.js").read_text(encoding="utf-8")


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a folder on this machine and give its address."""
    handler = partial(_QuietHandler, directory=str(site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the browser reports what fails."""


def page_names(site: Path) -> list[str]:
    """Addresses of all pages, relative to the site."""
    return sorted(path.relative_to(site).as_posix().removesuffix("index.html") for path in site.rglob("*.html"))


def look_at(tab: Tab, base: str, name: str) -> list[str]:
    """Everything wrong with one page at the current width."""
    tab.events.clear()
    tab.open(base + name)
    seen: list[str] = tab.evaluate(_LOOK)
    return [*filter(None, (_problem(event, base) for event in tab.events)), *seen]


def _problem(event: dict[str, Any], base: str) -> str | None:
    """What an event of the browser says is wrong."""
    kind, values = event.get("method"), event.get("params", {})
    if kind == "Runtime.exceptionThrown":
        details = values["exceptionDetails"]
        return f"exception: {details.get('exception', {}).get('description', details['text'])[:300]}"
    if kind == "Runtime.consoleAPICalled" and values["type"] in {"error", "warning", "assert"}:
        return f"console: {' '.join(str(argument.get('value', argument)) for argument in values['args'])[:300]}"
    if kind == "Log.entryAdded" and values["entry"]["level"] in {"error", "warning"}:
        return f"log: {values['entry']['text']} {values['entry'].get('url', '')}"
    if kind == "Network.requestWillBeSent":
        address = values["request"]["url"]
        return None if address.startswith((base, "data:", "blob:")) else f"asks another host: {address}"
    return None


def search(tab: Tab, base: str, words: str) -> list[str]:
    """Type ``words`` into the search field of the first page; addresses of the results, best first."""
    tab.open(base)
    tab.evaluate("document.querySelector('[data-md-toggle=search]').checked = true")
    tab.evaluate("document.querySelector('.md-search__input').focus()")
    tab.send("Input.insertText", text=words)
    tab.evaluate("document.querySelector('.md-search__input').dispatchEvent(new KeyboardEvent('keyup'))")
    tab.wait_for("document.querySelectorAll('.md-search-result__link').length > 0")
    results: list[str] = tab.evaluate("[...document.querySelectorAll('.md-search-result__link')].map((a) => a.href)")
    return [address.removeprefix(base) for address in results]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m website.browser_check", description=__doc__)
    parser.add_argument("site", type=Path, help="folder of the built site")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="write a picture of every page and width")
    parser.add_argument("--only", default="", metavar="TEXT", help="only pages whose address contains this")
    parser.add_argument("--dark", action="store_true", help="in the dark scheme")
    options = parser.parse_args(arguments)
    executable = find_chromium()
    if executable is None:
        parser.error("no Chromium on the path; install it (Debian: apt-get install chromium)")
    wrong = 0
    with served(options.site) as base, Tab(executable) as tab:
        tab.dark(options.dark)
        for screen, (width, height) in SCREENS.items():
            tab.resize(width, height, phone=screen == "phone")
            for name in filter(lambda name: options.only in name, page_names(options.site)):
                problems = look_at(tab, base, name)
                wrong += len(problems)
                print(f"{screen:8} /{name}", *problems, sep="\n    ")
                if options.screenshots is not None:
                    options.screenshots.mkdir(parents=True, exist_ok=True)
                    tab.screenshot(options.screenshots / f"{screen}-{name.strip('/').replace('/', '-')}.png")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
