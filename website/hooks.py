r"""What the site adds to the pages of `docs/`: pages of the repository's root, the reference of
every public name, and formulas as MathML, which browsers draw without a script or a font."""

from __future__ import annotations

import ast
import html
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent


# Files at the root of the repository that are pages of the site.
AT_ROOT = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
}


# ---------------------------------------------------------------- the reference


def public_modules() -> dict[str, list[str]]:
    r"""Returns the modules with an `__all__`, by their room."""
    rooms: dict[str, list[str]] = {"vardiu": []}
    for path in sorted((ROOT / "vardiu").rglob("*.py")):
        words = path.relative_to(ROOT).with_suffix("").parts
        if words[-1] == "__init__" and len(words) > 2:
            words = words[:-1]
        if words[-1] in ("__init__", "__main__") or any(w.startswith("_") for w in words):
            continue
        if names_of(path):
            rooms.setdefault(words[1], []).append(".".join(words))
    return {room: modules for room, modules in rooms.items() if modules}


def names_of(path: Path) -> list[str]:
    r"""Returns the names in a module's `__all__` that the module itself defines."""
    tree = ast.parse(path.read_text())
    listed: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            value = node.value
            listed = [e.value for e in getattr(value, "elts", ()) if isinstance(e, ast.Constant)]
    defined = {getattr(node, "name", "") for node in tree.body}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {getattr(target, "id", "") for target in targets}
    return [name for name in listed if name in defined]


def reference_page(room: str, modules: list[str]) -> str:
    r"""Returns the page of a room: each public module with what it offers."""
    lines = [f"# {room}", "", f"The public names of `vardiu.{room}`, module by module.", ""]
    for module in modules:
        lines += [f"::: {module}", ""]
    return "\n".join(lines)


def reference_index(rooms: dict[str, list[str]]) -> str:
    r"""Returns the first page of the reference: the names at the top, and where each is."""
    tree = ast.parse((ROOT / "vardiu/__init__.py").read_text())
    (table,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_NAMES"
    ]
    names: dict[str, str] = ast.literal_eval(table)
    lines = [
        "# Reference",
        "",
        "Every public name: what it is, its arguments with their shapes, what it returns, and the "
        "errors that it raises. A name that is not on these pages may change without notice.",
        "",
        "These are imported from `vardiu` itself:",
        "",
        "| name | where it is |",
        "|---|---|",
    ]
    for name, where in names.items():
        room = where.partition(".")[0]
        lines.append(f"| `vardiu.{name}` | [`vardiu.{where}`]({room}.md) |")
    lines += ["", "The rooms, in the order of the alphabet:", ""]
    lines += [f"- [`vardiu.{room}`]({room}.md)" for room in sorted(rooms)]
    return "\n".join(lines)


def pages_of_methods() -> list[dict[str, str]]:
    r"""Returns the pages of the methods by their titles: VarDiU's first, how to add one last."""
    pages = {path.stem: path for path in (ROOT / "docs/methods").glob("*.md")}
    order = sorted(pages, key=lambda stem: (stem == "adding", stem != "vardiu", stem))
    return [{title_of(pages[stem]): f"methods/{stem}.md"} for stem in order]


def unlisted(listed: str) -> list[dict[str, str]]:
    r"""Returns the pages at the top and of `docs/usage` that the navigation does not name yet."""
    docs = ROOT / "docs"
    found = [*sorted((docs / "usage").glob("*.md")), *sorted(docs.glob("*.md"))]
    pages = {path.relative_to(docs).as_posix(): path for path in found}
    return [{title_of(path): uri} for uri, path in pages.items() if uri not in listed]


def title_of(path: Path) -> str:
    r"""Returns the first heading of a page."""
    return next(line[2:] for line in path.read_text().splitlines() if line.startswith("# "))


# ---------------------------------------------------------------- hooks of mkdocs


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    r"""Adds the pages of the methods and those of the reference to the navigation."""
    rooms = public_modules()
    made = {
        "Reference": [
            "reference/index.md",
            *({f"vardiu.{room}": f"reference/{room}.md"} for room in sorted(rooms)),
        ],
        "Methods": pages_of_methods(),
    }
    for item in config.nav or ():
        for name in made:
            if isinstance(item, dict) and name in item:
                item[name] = made[name]
        if isinstance(item, dict) and "How to" in item:
            item["How to"] += unlisted(str(config.nav))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    r"""Adds the pages that are not files in `docs/`."""
    rooms = public_modules()
    pages = {f"reference/{room}.md": reference_page(room, rooms[room]) for room in rooms}
    pages["reference/index.md"] = reference_index(rooms)
    for source, page in AT_ROOT.items():
        if (ROOT / source).is_file():
            pages[page] = (ROOT / source).read_text()
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    r"""Leads links to files outside of `docs/` to their pages; those to code lose their link."""
    uri = page.file.src_uri
    at_root = {page: source for source, page in AT_ROOT.items()}.get(uri)
    if uri == "examples.md":
        markdown = with_programs(markdown)
    here = "" if at_root else posixpath.join("docs", posixpath.dirname(uri))

    def led(found: re.Match[str]) -> str:
        text, target, mark, anchor = found["text"], found["target"], found["mark"], found["anchor"]
        if re.match(r"[a-z]+:", target) or not target or target.startswith("<"):
            return found[0]
        path = posixpath.normpath(posixpath.join(here, target))
        if (ROOT / path).is_dir():
            return text
        if path.startswith("docs/"):
            to = path.removeprefix("docs/")
        elif path in AT_ROOT and (ROOT / path).is_file():
            to = AT_ROOT[path]
        elif mark:
            return found[0]
        else:
            return text if text.startswith("`") else f"{text} (`{path}`)"
        near = posixpath.relpath(to, posixpath.dirname(uri) or ".")
        return f"{mark}[{text}]({near}{anchor or ''})"

    pattern = r"(?P<mark>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)"
    return re.sub(pattern, led, markdown)


def with_programs(markdown: str) -> str:
    r"""Returns the page of examples with each program below its picture."""
    parts = re.split(r"(?m)^(?=## )", markdown)
    for i, part in enumerate(parts):
        named = re.search(r"`(examples/\w+\.py)`", part)
        if named is not None and part.startswith("## "):
            code = (ROOT / named[1]).read_text()
            parts[i] = f"{part.rstrip()}\n\n```python\n{code}```\n\n"
    return "".join(parts)


def on_page_content(content: str, **_: Any) -> str:  # noqa: ANN401 (mkdocs gives more)
    r"""Draws the formulas of docstrings, and keeps options and numbers on one line."""
    content = re.sub(r":math:<code>(.*?)</code>", lambda m: formula(m[1]), content, flags=re.S)
    pattern = r":mathblock:<code>(.*?)</code>"
    content = re.sub(pattern, lambda m: formula(m[1], "block"), content, flags=re.S)
    parts = re.split(r"(<pre\b.*?</pre>)", content, flags=re.S)
    parts[::2] = [WHOLE.sub(r'<span class="whole">\1</span>', part) for part in parts[::2]]
    return "".join(parts)


# A browser breaks lines at hyphens: not within `--an-option` and `1.5e-03`. Not in a tag.
WHOLE = re.compile(r"(?<![\w.-])(--[a-z][\w.-]*\w|-?\d[\d.]*e-\d+)(?![^<>]*>)")


def on_post_page(output: str, page: Page, **_: Any) -> str:  # noqa: ANN401
    r"""Takes the one script that the theme asks another host for from the site itself."""
    near = posixpath.relpath("assets/iframe-worker.js", posixpath.dirname(page.url) or ".")
    return output.replace("https://unpkg.com/iframe-worker/shim", near)


# Signs whose names the converter leaves as they are at the size of `\Big`.
FENCES = {
    r"\lfloor": "⌊",
    r"\rfloor": "⌋",
    r"\lceil": "⌈",
    r"\rceil": "⌉",
    r"\langle": "⟨",
    r"\rangle": "⟩",
    r"\{": "{",
    r"\}": "}",
    r"\|": "‖",
}


def formula(text: str, display: str = "inline") -> str:
    r"""Returns MathML of a formula in LaTeX, as it stands in a page's HTML.

    Raises:
        PluginError: A command would stand in the page as it is.
    """
    source = re.sub(r"\\(arg)\b", r"\\operatorname{\1}", " ".join(html.unescape(text).split()))
    for name, sign in FENCES.items():
        source = re.sub(
            rf"(\\[bB]igg?[lr]?) ?{re.escape(name)}(?![a-zA-Z])", rf"\1 {sign}", source
        )
    if "&" in source or r"\\" in source:
        source = rf"\begin{{aligned}}{source}\end{{aligned}}"
    drawn: str = convert(source, display=display)
    for name, sign in FENCES.items():
        drawn = drawn.replace(f">{name}</mo>", f">{sign}</mo>")
    if "\\" in drawn:
        raise PluginError(f"a formula has a command that is not drawn: {source}")
    return drawn


class Formulas(griffe.Extension):
    r"""Turns the marks of docstrings into those of Markdown: formulas, and lines of references."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:  # noqa: ANN401
        r"""Changes one docstring, once."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    r"""Returns a docstring whose formulas are code that `on_page_content` draws."""
    lines: list[str] = []
    block: list[str] | None = None
    indent = ""
    for line in [*text.split("\n"), ""]:
        if block is not None:
            if line.strip():
                block.append(line.strip())
                continue
            lines += [f"{indent}:mathblock:`{' '.join(block)}`"]
            block = None
        if ".. math::" in line:
            indent = line[: len(line) - len(line.lstrip())]
            block = [line.split(".. math::")[1].strip()]
            continue
        # Griffe's name of the section whose text is a session of Python.
        line = re.sub(r"^( *)Example:$", r"\1Examples:", line)
        # Two spaces at the end keep a line of references whole.
        lines.append(re.sub(r"^( *)\| (.*)$", r"\1\2  ", line))
    return "\n".join(lines[:-1] if lines and not lines[-1] else lines)
