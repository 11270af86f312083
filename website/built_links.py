"""Links and files of the built pages: every target inside the site exists, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {"img": "src", "script": "src", "source": "srcset", "iframe": "src", "link": "href"}
_NOT_LOADED = {"canonical", "prev", "next", "edit", "alternate"}
_STYLE_ADDRESS = re.compile(r"url\((?!['\"]?(?:data:|#))['\"]?([^'\")]+)")


class BuiltPage(HTMLParser):
    """Anchors, links and loaded files of one HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if _LOADED.get(tag) in values and values.get("rel") not in _NOT_LOADED:
            self.loaded.append(values[_LOADED[tag]])


def broken_links(site: Path) -> list[str]:
    """One line for every link or file that leads nowhere, and for every file that another host would serve.

    Raises:
        ValueError: If there is no page.
    """
    pages = {path: BuiltPage(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        raise ValueError(f"no HTML page in {site}; build the site first: make docs")
    found = [f"{path.relative_to(site)}: {problem}" for path in pages for problem in _problems(site, path, pages)]
    for sheet in sorted(site.rglob("*.css")):
        for address in _STYLE_ADDRESS.findall(sheet.read_text(encoding="utf-8")):
            if urlsplit(address).netloc or not (sheet.parent / unquote(urlsplit(address).path)).is_file():
                found.append(f"{sheet.relative_to(site)}: {address} is not part of the site")
    return found


def _problems(site: Path, path: Path, pages: dict[Path, BuiltPage]) -> Iterator[str]:
    page = pages[path]
    for address in page.loaded:
        if urlsplit(address).scheme == "data":
            continue
        if urlsplit(address).netloc:
            yield f"{address} is loaded from another host"
        elif not _target(site, path, address).is_file():
            yield f"{address} is not part of the site"
    for address in page.links:
        if urlsplit(address).scheme or urlsplit(address).netloc:
            continue
        target, anchor = _target(site, path, address), unquote(urlsplit(address).fragment)
        if not target.is_file():
            yield f"{address} leads nowhere"
        elif anchor and target in pages and anchor not in pages[target].anchors:
            yield f"{address} leads to a page without this anchor"


def _target(site: Path, path: Path, address: str) -> Path:
    """The file that a server would send for ``address`` on the page at ``path``."""
    place = unquote(urlsplit(address).path)
    target = site / place.lstrip("/") if place.startswith("/") else path.parent / place if place else path
    target = target.resolve()
    return target / "index.html" if target.is_dir() else target
