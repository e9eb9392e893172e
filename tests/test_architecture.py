"""The house: who may import whom, and how large a piece may be (docs/architecture.md).

A room is a package or a root module of `vardiu`; its floor is one more than the highest floor of what
it imports. Imports within functions and under TYPE_CHECKING count. Each rule returns what breaks it,
and is shown a small package that does.
"""

from __future__ import annotations

import ast
import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
ROOT_MODULES = {"__init__", "__main__", "cite", "errors"}
ROOMS, FLOORS, LINES, METHODS = 28, 12, 60, 15
FILE = 250  # lines of a file of the methods
DUNDERS_FOR_ALL = {"__version__"}

Functions = ast.FunctionDef | ast.AsyncFunctionDef


class Import(NamedTuple):
    """One name that a module takes from another one, or a whole module where the name is empty."""

    module: str
    target: str
    name: str
    bound: str


class House:
    """The modules of a package `vardiu` below a folder, by their dotted names in it."""

    def __init__(self, package: Path) -> None:
        self.package = package
        self.trees: dict[str, ast.Module] = {}
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package).with_suffix("").parts
            name = ".".join(part for part in parts if part != "__init__") or "__init__"
            self.trees[name] = ast.parse(path.read_text())

    def place(self, module: str) -> list[str]:
        """The package that relative imports of a module start from."""
        if module == "__init__":
            return ["vardiu"]
        parts = ["vardiu", *module.split(".")]
        is_package = (self.package / module.replace(".", "/") / "__init__.py").is_file()
        return parts if is_package else parts[:-1]

    def imports_of(self, module: str) -> list[Import]:
        taken = []
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                taken += [Import(module, n[7:], "", n) for n in names if n.startswith("vardiu.")]
            elif isinstance(node, ast.ImportFrom):
                place = self.place(module)
                base = place[: len(place) - node.level + 1] if node.level else []
                source = ".".join([*base, *([node.module] if node.module else [])])
                if source.split(".")[0] != "vardiu":
                    continue
                below = source[7:]
                for alias in node.names:
                    inner = f"{below}.{alias.name}" if below else alias.name
                    target = inner if inner in self.trees else below or "__init__"
                    taken.append(Import(module, target, alias.name, alias.asname or alias.name))
        return taken

    @cached_property
    def imports(self) -> list[Import]:
        return [taken for module in self.trees for taken in self.imports_of(module)]

    @cached_property
    def arrows(self) -> dict[str, set[str]]:
        """The rooms that each room imports.

        The package itself is none of them: it loads names by text when they are asked for, and
        imports nothing.
        """
        found: dict[str, set[str]] = {room_of(module): set() for module in self.trees}
        for taken in self.imports:
            found[room_of(taken.module)].add(room_of(taken.target))
        return {
            room: others - {room, "__init__"}
            for room, others in found.items()
            if room != "__init__"
        }

    def circle(self) -> tuple[str, ...]:
        """Some rooms that import each other in turn; empty where there are none."""

        def search(room: str, path: tuple[str, ...]) -> tuple[str, ...]:
            if room in path:
                return (*path[path.index(room) :], room)
            later = (search(other, (*path, room)) for other in sorted(self.arrows[room]))
            return next((circle for circle in later if circle), ())

        return next((c for room in sorted(self.arrows) if (c := search(room, ()))), ())

    def floors(self) -> dict[str, int]:
        known: dict[str, int] = {}

        def floor(room: str) -> int:
            if room not in known:
                known[room] = 1 + max((floor(other) for other in self.arrows[room]), default=0)
            return known[room]

        return {room: floor(room) for room in self.arrows}

    def nodes(self, *kinds: type[ast.AST]):
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, kinds):
                    yield module, node


def room_of(module: str) -> str:
    return module.split(".")[0]


# ---------------------------------------------------------------------------------- the rules


def upward_imports(house: House, order: list[str]) -> list[str]:
    """Imports of rooms that do not stand above the importing one on the page."""
    place = {room: i for i, room in enumerate(order)}
    return [
        f"{taken.module} imports {taken.target}"
        for taken in house.imports
        if {room_of(taken.module), room_of(taken.target)} <= set(place)
        and place[room_of(taken.target)] > place[room_of(taken.module)]
    ]


def imports_of_the_package(house: House) -> list[str]:
    """Imports of names that the package itself lends from its rooms: their rooms are to be named."""
    return [
        f"{taken.module} imports {taken.name} of vardiu"
        for taken in house.imports
        if taken.target == "__init__" and taken.name not in DUNDERS_FOR_ALL
    ]


def other_root_modules(house: House) -> set[str]:
    return {path.stem for path in house.package.glob("*.py")} - ROOT_MODULES


def foreign_private_names(house: House) -> list[str]:
    """Private names that are imported, or asked of an imported module, from another module."""
    imported = [
        f"{taken.module} imports {taken.name} of {taken.target}"
        for taken in house.imports
        if is_private(taken.name)
    ]
    asked = []
    for module, tree in house.trees.items():
        modules = {
            taken.bound
            for taken in house.imports_of(module)
            if taken.name and taken.target.split(".")[-1] == taken.name
        }
        for node in ast.walk(tree):
            owner = node.value if isinstance(node, ast.Attribute) else None
            if isinstance(owner, ast.Name) and owner.id in modules and is_private(node.attr):
                asked.append(f"{module} asks {owner.id} for {node.attr}")
    return imported + asked


def is_private(name: str) -> bool:
    return name.startswith("_") and name not in DUNDERS_FOR_ALL


def long_functions(house: House) -> list[str]:
    """Functions of more than 60 lines: decorators left out, the docstring counted."""
    sizes = {
        f"{module}.{node.name}": node.end_lineno - node.lineno + 1
        for module, node in house.nodes(*Functions.__args__)
    }
    return [f"{name}: {lines} lines" for name, lines in sizes.items() if lines > LINES]


def large_classes(house: House) -> list[str]:
    """Classes of more than 15 public methods; a property and its setter are one."""
    found = []
    for module, node in house.nodes(ast.ClassDef):
        methods = [m.name for m in node.body if isinstance(m, Functions)]
        public = {name for name in methods if not name.startswith("_")}
        if len(public) > METHODS:
            found.append(f"{module}.{node.name}: {len(public)} methods")
    return found


def long_method_files(house: House) -> list[str]:
    """Files of the methods of more than 250 lines, docstrings and presets counted."""
    sizes = {
        path.relative_to(house.package): len(path.read_text().splitlines())
        for path in sorted((house.package / "methods").rglob("*.py"))
    }
    return [f"{path}: {lines} lines" for path, lines in sizes.items() if lines > FILE]


def stated_floors(page: str) -> list[tuple[str, int]]:
    """The rows `| floor | room | one line |` of the page, from the ground up."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)(?:/|\.py)` \| \S.* \|$", page, flags=re.MULTILINE)
    return [(room, int(floor)) for floor, room in rows]


# ---------------------------------------------------------------------------------- this house


@pytest.fixture(scope="module")
def house() -> House:
    return House(ROOT / "vardiu")


@pytest.fixture(scope="module")
def stated() -> list[tuple[str, int]]:
    return stated_floors(PAGE.read_text())


def test_the_page_lists_every_room_once_and_its_floor(house, stated):
    assert len(dict(stated)) == len(stated)
    assert dict(stated) == house.floors()
    assert [floor for _, floor in stated] == sorted(floor for _, floor in stated)


def test_imports_go_down(house, stated):
    assert not house.circle()
    assert not upward_imports(house, [room for room, _ in stated])
    assert not imports_of_the_package(house)


def test_the_skeleton_is_moved_into_the_library_as_it_is(house, stated, tmp_path):
    """A copy of the house with the skeleton among its methods holds the rules of imports."""
    skeleton = ROOT / "docs" / "methods" / "skeleton.py"
    moved = House(tmp_path)
    moved.package = house.package
    moved.trees = {**house.trees, "methods.skeleton": ast.parse(skeleton.read_text())}
    assert not moved.circle() and not imports_of_the_package(moved)
    assert not upward_imports(moved, [room for room, _ in stated])
    assert not foreign_private_names(moved)


def test_the_house_is_no_tower(house):
    assert len(house.arrows) + 1 <= ROOMS  # and the package itself
    assert max(house.floors().values()) <= FLOORS


def test_a_root_module_is_one_of_four(house):
    assert not other_root_modules(house)


def test_private_names_stay_in_their_module(house):
    assert not foreign_private_names(house)


def test_no_function_is_longer_than_a_screen(house):
    assert not long_functions(house)


def test_no_class_has_more_methods_than_a_reader_keeps_in_mind(house):
    assert not large_classes(house)


def test_no_file_of_the_methods_is_too_long_to_be_read_at_once(house):
    assert not long_method_files(house)


# ---------------------------------------------------------------------------- each rule can fail


def built(folder: Path, **files: str) -> House:
    """A package of these modules: `high__module` is `vardiu/high/module.py`."""
    package = folder / "vardiu"
    for name, text in {"__init__": "", **files}.items():
        path = package.joinpath(*name.split("__")) if not name.startswith("__") else package / name
        path = path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent != package:
            (path.parent / "__init__.py").touch()
        path.write_text(text)
    return House(package)


ORDER = ["low", "high", "roof"]

UPWARD = {
    "at the top": "from ..high.module import thing",
    "absolute": "import vardiu.high.module",
    "absolute from": "from vardiu.high import module",
    "in a function": "def f():\n    from ..high import module\n    return module",
    "for types": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..high.module import thing"
    ),
    "a room": "from .. import high",
}


@pytest.mark.parametrize("text", UPWARD.values(), ids=UPWARD)
def test_an_upward_import_is_seen(tmp_path, text):
    seen = built(tmp_path, low__module=text, high__module="thing = 1")
    assert seen.arrows == {"low": {"high"}, "high": set()}
    assert len(upward_imports(seen, ORDER)) == 1
    assert not upward_imports(built(tmp_path, low__module="import os"), ORDER)


def test_a_circle_is_seen(tmp_path):
    seen = built(
        tmp_path,
        low__module="from ..roof.module import a",
        high__module="from ..low import module",
        roof__module="def a():\n    from ..high.module import b\n    return b",
    )
    assert set(seen.circle()) == {"low", "high", "roof"}
    assert not built(tmp_path, roof__module="import os").circle()


def test_floors_are_counted(tmp_path):
    seen = built(
        tmp_path,
        low__module="",
        high__module="from ..low import module",
        roof__module="from ..low import module\nfrom ..high import module as other",
        __main__="from .roof.module import main",
    )
    assert seen.floors() == {"low": 1, "high": 2, "roof": 3, "__main__": 4}


def test_a_name_taken_from_the_package_itself_is_seen(tmp_path):
    seen = built(tmp_path, low__module="from vardiu import Denoiser\nfrom .. import __version__")
    assert imports_of_the_package(seen) == ["low.module imports Denoiser of vardiu"]


def test_another_root_module_is_seen(tmp_path):
    assert other_root_modules(built(tmp_path, errors="", utils="")) == {"utils"}


@pytest.mark.parametrize(
    "text",
    ["from .other import _hidden", "from . import other as o\nx = o._hidden"],
)
def test_a_private_name_of_another_module_is_seen(tmp_path, text):
    seen = built(tmp_path, low__module=text, low__other="_hidden = 1")
    assert len(foreign_private_names(seen)) == 1
    plain = built(tmp_path, low__module="from .other import shown\nself._x = shown.y")
    assert not foreign_private_names(plain)


@pytest.mark.parametrize("first", ["def f():", "async def f():"])
def test_a_long_function_is_seen(tmp_path, first):
    body = '    """Says what it does."""\n' + "    x = 1\n" * (LINES - 2)
    assert not long_functions(built(tmp_path, low__module=f"{first}\n{body}"))
    longer = f"class C:\n    {first}\n" + "        x = 1\n" * LINES
    assert long_functions(built(tmp_path, low__module=longer)) == [
        f"low.module.f: {LINES + 1} lines"
    ]


def test_a_large_class_is_seen(tmp_path):
    def text(number: int) -> str:
        methods = [f"    def m{i}(self): ..." for i in range(number)]
        return "\n".join(["class C:", "    def _private(self): ...", *methods])

    assert not large_classes(built(tmp_path, low__module=text(METHODS)))
    found = large_classes(built(tmp_path, low__module=text(METHODS + 1)))
    assert found == [f"low.module.C: {METHODS + 1} methods"]


def test_a_long_file_of_a_method_is_seen(tmp_path):
    assert not long_method_files(
        built(tmp_path, methods__mine="x = 1\n" * FILE, other="y = 1\n" * 999)
    )
    longer = built(tmp_path, methods__mine__objective="x = 1\n" * (FILE + 1))
    assert long_method_files(longer) == [f"methods/mine/objective.py: {FILE + 1} lines"]


def test_a_row_of_the_page_needs_its_line():
    page = "| 1 | `errors.py` | every error |\n| 2 | `nn/` | |\n| 3 | `low/` | what is low |\n"
    assert stated_floors(page) == [("errors", 1), ("low", 3)]
