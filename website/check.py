r"""What a built site must hold: `python website/check.py build/site [--browser]`.

Links and anchors within the site lead somewhere, every picture has an alternative text, no page
asks another host for anything. In a browser (`--browser`, Chromium by playwright): no error on the
console, the rules of axe-core (WCAG 2 AA, contrast among them) in light and dark mode, and the
search, all from files, without a server and without a network.
"""

from __future__ import annotations

import argparse
import html.parser
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urldefrag

# Attributes that make a browser ask for something by itself.
FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


# Pages of every kind, for what is looked at in a browser.
SEEN = (
    "index.html",
    "usage/choose.html",
    "tutorials/compare-2d.html",
    "troubleshooting.html",
    "examples.html",
    "methods/vardiu.html",
    "reference/functional.html",
    "changelog.html",
)


class Contents(NamedTuple):
    r"""What a page refers to, and what it can be referred to by."""

    links: list[str]
    fetched: list[str]
    anchors: set[str]
    without_text: list[str]


class Reader(html.parser.HTMLParser):
    r"""Collects the contents of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.contents = Contents([], [], set(), [])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        r"""Takes what one tag has."""
        have = {name: value or "" for name, value in attrs}
        if "id" in have:
            self.contents.anchors.add(have["id"])
        if tag == "a" and "href" in have:
            self.contents.links.append(have["href"])
        wanted = FETCHED.get(tag)
        if wanted is not None and wanted in have and have.get("rel") != "canonical":
            self.contents.fetched.append(have[wanted])
        if tag == "img" and not have.get("alt", "").strip():
            self.contents.without_text.append(have.get("src", "?")[:80])


def read(site: Path) -> dict[Path, Contents]:
    r"""Returns the contents of every page."""
    found = {}
    for path in sorted(site.rglob("*.html")):
        reader = Reader()
        reader.feed(path.read_text(encoding="utf-8"))
        found[path.resolve()] = reader.contents
    return found


def faults(site: Path) -> Iterator[str]:
    r"""Yields what is wrong in the files of a site."""
    pages = read(site)
    if not pages:
        yield f"{site} has no pages: make docs"
    for path, page in pages.items():
        name = path.relative_to(site.resolve()).as_posix()
        if name == "404.html":  # its links are those of a server's root
            continue
        yield from (f"{name}: no alternative text: {s}" for s in page.without_text)
        for link in page.fetched:
            if link.startswith(("http:", "https:", "//")):
                yield f"{name}: asks another host: {link}"
            elif not link.startswith("data:") and not (path.parent / _file(link)).is_file():
                yield f"{name}: is not there: {link}"
        for link in page.links:
            yield from (f"{name}: {wrong}" for wrong in _broken(path, link, pages))


def _file(link: str) -> str:
    return unquote(urldefrag(link)[0].partition("?")[0])


def _broken(path: Path, link: str, pages: dict[Path, Contents]) -> Iterator[str]:
    if link.startswith(("http:", "https:", "mailto:", "data:", "javascript:")):
        return
    file, anchor = _file(link), unquote(urldefrag(link)[1])
    target = (path.parent / file).resolve() if file else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        yield f"leads nowhere: {link}"
    elif anchor and target in pages and anchor not in pages[target].anchors:
        yield f"no such place: {link}"


# ---------------------------------------------------------------- in a browser


def seen_faults(site: Path, pictures: Path | None = None) -> Iterator[str]:
    r"""Yields what is wrong with a site in a browser.

    Arguments:
        site: The folder of the site.
        pictures: Where screenshots go; none for no screenshots.
    """
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("VARDIU_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for mode in ("light", "dark"):
            context = browser.new_context(color_scheme=mode, offline=True)
            page = context.new_page()
            told: list[str] = []
            page.on("console", lambda m, told=told: m.type == "error" and told.append(m.text))
            page.on("pageerror", lambda error, told=told: told.append(str(error)))
            for name in SEEN:
                page.goto((site / name).resolve().as_uri())
                for violation in Axe().run(page, options=RULES).response["violations"]:
                    nodes = violation["nodes"]
                    first = nodes[0]["html"][:120]
                    yield f"{name} ({mode}): {violation['id']}, {len(nodes)} times: {first}"
                if pictures is not None:
                    _shoot(page, pictures / f"{name.replace('/', '-')[:-5]}-{mode}.png")
                yield from (f"{name} ({mode}): console: {text}" for text in told)
                told.clear()
            if mode == "light":
                yield from _searched(page, site)
            context.close()
        browser.close()


# Of axe-core: WCAG 2 at level AA. It does not ask for the style sheets once more, which a browser
# refuses to a page that is a file.
RULES = {"runOnly": ["wcag2a", "wcag2aa"], "preload": False}


def _shoot(page: Any, path: Path) -> None:  # noqa: ANN401 (an optional library's)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(path))


def _searched(page: Any, site: Path) -> Iterator[str]:  # noqa: ANN401
    r"""Yields a fault if the search does not find the page of what is certainly there."""
    page.goto((site / "index.html").resolve().as_uri())
    page.click("label[for=__search]:visible, .md-search__input:visible")
    # Typed key by key: the theme listens to keys.
    page.locator(".md-search__input").press_sequentially("collapse")
    try:
        page.wait_for_selector(".md-search-result__link[href*=troubleshooting]", timeout=30_000)
    except Exception as error:  # a class of the optional library
        yield f"the search does not find `collapse`: {type(error).__name__}"


def main(arguments: list[str] | None = None) -> int:
    r"""Prints every fault; returns 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--pictures", type=Path, help="a folder for screenshots")
    chosen = parser.parse_args(arguments)
    wrong = list(faults(chosen.site))
    if chosen.browser:
        wrong += seen_faults(chosen.site, chosen.pictures)
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
