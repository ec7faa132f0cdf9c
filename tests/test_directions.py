"""The rooms of the house: each builds on those before it, and keeps its private names to itself."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

import lemoe_lab

HOUSE = Path(lemoe_lab.__file__).parent
# Modules and packages of the library, each importing from its own line and from lines above only.
ROOMS = """
    answers
    joining
    edits
    datasets
    metrics
    host
    planning similarity
    checking
    adaptor
    editors
    evaluation
    memory
    files
    session
    probes
    plots
    sweeps
    widgets
    embedded
"""
LINES = [line.split() for line in ROOMS.strip().splitlines()]
RANKS = {room: rank for rank, rooms in enumerate(LINES) for room in rooms}
DOORS = ("pretrain", "small_host", "storage")  # other names for what is inside


class Imported(NamedTuple):
    """A name that a module imports from the library."""

    line: int
    module: tuple[str, ...]  # below lemoe_lab, ("host", "model"); () is lemoe_lab itself
    name: str


def module_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[Imported]:
    """Everything imported from the library, in functions and for types too."""
    package = path.relative_to(HOUSE).parts[:-1]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, *module = alias.name.split(".")
                if first == "lemoe_lab":
                    yield Imported(node.lineno, tuple(module), "")
        elif isinstance(node, ast.ImportFrom):
            source = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                source = package[: len(package) - node.level + 1] + source
            elif source[0] == "lemoe_lab":
                source = source[1:]
            else:
                continue
            for alias in node.names:
                module = (*source, alias.name)
                inside = HOUSE.joinpath(*module)
                is_module = inside.is_dir() or inside.with_suffix(".py").is_file()
                yield Imported(node.lineno, module if is_module else source, alias.name)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_definitions(path: Path) -> set[str]:
    """Private functions, classes, variables, fields and attributes that a module gives itself."""
    names = set()
    for node in ast.walk(parsed(path)):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                names.add(name)
    return set(filter(is_private, names))


def foreign_attributes(path: Path) -> Iterator[tuple[int, str]]:
    """Private attributes that a module reads or writes on something else than itself."""
    for node in ast.walk(parsed(path)):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
                pass
            case ast.Attribute(attr=name) if is_private(name):
                yield node.lineno, ast.unparse(node)


MODULES = sorted(HOUSE.rglob("*.py"))
NAMES = [path.relative_to(HOUSE).as_posix() for path in MODULES]
each_module = pytest.mark.parametrize("path", MODULES, ids=NAMES)


@pytest.fixture(scope="module")
def house_names() -> set[str]:
    """What some module keeps to itself, without names that PyTorch's objects have as well."""
    pytorch = {*vars(nn.Module()), *dir(torch.Tensor)}
    return set().union(*map(private_definitions, MODULES)) - pytorch


def test_every_room_has_its_place():
    rooms = {module_of(path)[0] for path in MODULES if module_of(path)}
    assert rooms == {*RANKS, *DOORS}


@each_module
def test_modules_build_on_earlier_rooms_only(path):
    room, *_ = *module_of(path), ""
    if room in DOORS or (path.parent == HOUSE and path.stem == "__init__"):
        return
    upward = [
        f"line {found.line}: {'.'.join(found.module) or 'lemoe_lab'}"
        for found in imports_of(path)
        if not found.module
        or (found.module[0] != room and RANKS.get(found.module[0], len(LINES)) > RANKS[room])
    ]
    assert not upward


@each_module
def test_private_names_stay_in_their_module(path, house_names):
    own = private_definitions(path)
    imported = [f"line {i.line}: {i.name}" for i in imports_of(path) if is_private(i.name)]
    used = [
        f"line {line}: {attribute}"
        for line, attribute in foreign_attributes(path)
        if attribute.rpartition(".")[2] in house_names - own
    ]
    assert not imported + used


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from ..session import EditSession", ("session",)),
        ("from .. import metrics", ("metrics",)),
        ("from ..host import Host", ("host",)),
        ("from ..host import model", ("host", "model")),
        ("from . import run", ("files", "run")),
        ("import lemoe_lab.session", ("session",)),
        ("from lemoe_lab import EditSession", ()),
        ("if TYPE_CHECKING:\n    from ..session import EditSession", ("session",)),
        ("def later():\n    from ..session import EditSession", ("session",)),
    ],
)
def test_imports_are_seen_however_they_are_written(source, module, monkeypatch):
    monkeypatch.setitem(globals(), "parsed", lambda _: ast.parse(source))
    (found,) = imports_of(HOUSE / "files" / "written.py")
    assert found.module == module
