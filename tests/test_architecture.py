"""The floor plan: which room may import which, read from the source without running it.

Data flows one way (design, "The house"). Every rule has a test that shows it fail on a small tree made for it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sightline"
LONGEST = 420  # lines of a module

# A room (a folder or a file of src/sightline) imports only from rooms above it.
ORDER = (
    "errors", "runtime", "files", "plugins", "registry", "options", "types", "demo_photos", "progress", "heatmap",
    "components",
    "boxes", "scores", "targets", "data", "inspection", "models", "engine", "methods", "metrics", "pictures",
    "reports", "labels", "explanation", "pipeline", "attribution", "pipeline_files", "pipeline_watch", "labelling",
    "evaluation", "batch", "training", "export", "discovery", "app", "cli",
)  # fmt: skip
# The package itself hands out names of every room, at first use; __main__ starts the command line.
DOORS = ("", "__main__")

# The packages of an optional extra, and the rooms or modules that may import them at module level. Everywhere else a
# function imports them when it needs them, and says in one line what to install.
EXTRAS = {
    "numba": ("metrics", "evaluation"),
    "cv2": (),
    "scipy": ("metrics", "evaluation", "discovery"),
    "lightning": ("training",),
    "torchmetrics": ("training", "metrics.torch_metrics"),
    "tensorboard": ("training",),
    "pyarrow": ("batch",),
    "fsspec": ("batch",),
    "ray": ("batch",),
    "sklearn": ("discovery",),
    "skimage": (),
    "transformers": (),
    "open_clip": (),
    "onnx": ("export",),
    "onnxscript": ("export",),
    "onnxruntime": ("export",),
    "gradio": ("app",),
    "pycocotools": (),
    "ipywidgets": (),
    "IPython": (),
    "pandas": (),
    "supervision": (),
    "fiftyone": (),
}
# What the command line may import before a verb runs: `sightline --help` must not wait for torch.
LIGHT = {"typer", "click", "rich", "sightline", *sys.stdlib_module_names}
# What a base install runs: nothing that these import, however indirectly, may need an extra.
BASE = (
    "pipeline",
    "explanation",
    "models.loading",
    "cli",
    "pictures",
    "reports.manifest",
    "heatmap",
    "boxes",
)

# What is wrong today, by rule and owner. Nothing may be added; an entry whose fault is mended must be taken out.
KNOWN: dict[str, set[str]] = {}


@dataclass(frozen=True)
class Import:
    """One name that a module imports: ``target`` is the module that it comes from, ``name`` what is taken."""

    target: str
    name: str | None
    line: int
    top: bool  # at module level, and run
    bound: str  # what it is called here


@dataclass
class Module:
    name: str  # below the package: "data.photos"; "" is the package itself
    is_package: bool
    tree: ast.Module
    lines: int
    imports: list[Import] = field(default_factory=list)

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]


class Package:
    """All modules of a folder, parsed; ``root`` is the package's name in imports."""

    def __init__(self, folder: Path, root: str = "sightline") -> None:
        self.root = root
        self.modules: dict[str, Module] = {}
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            text = path.read_text(encoding="utf-8")
            self.modules[name] = Module(name, is_package, ast.parse(text), text.count("\n"))
        for module in self.modules.values():
            module.imports = list(self._imports(module))

    def __iter__(self) -> Iterator[Module]:
        return iter(self.modules.values())

    def _imports(self, module: Module) -> Iterator[Import]:
        def walk(node: ast.AST, top: bool) -> Iterator[Import]:
            for child in ast.iter_child_nodes(node):
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                    for one in child.body:
                        yield from found(one, False)
                        yield from walk(one, False)
                    for one in child.orelse:
                        yield from found(one, top)
                        yield from walk(one, top)
                    continue
                yield from found(child, top and not inside)
                yield from walk(child, top and not inside)

        def found(node: ast.AST, top: bool) -> Iterator[Import]:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    yield Import(alias.name, None, node.lineno, top, bound)
            elif isinstance(node, ast.ImportFrom):
                origin = self._origin(module, node)
                for alias in node.names:
                    target, name = self._resolve(origin, alias.name)
                    yield Import(target, name, node.lineno, top, alias.asname or alias.name)

        return walk(module.tree, True)

    def _origin(self, module: Module, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.name.split(".") if module.name else []
        parts = parts[: len(parts) - node.level + module.is_package]
        return ".".join([self.root, *parts, *([node.module] if node.module else [])])

    def _resolve(self, origin: str, name: str) -> tuple[str, str | None]:
        """A submodule is a module; a name of the package itself is that of the room which it hands out."""
        if self.below(f"{origin}.{name}") in self.modules:
            return f"{origin}.{name}", None
        if origin == self.root and name in self.homes:
            return self.homes[name], name
        return origin, name

    @cached_property
    def homes(self) -> dict[str, str]:
        """The table of public names in the package's own file."""
        for node in self.modules[""].tree.body if "" in self.modules else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME":
                return dict(ast.literal_eval(node.value))
        return {}

    def below(self, target: str) -> str | None:
        """``sightline.data.photos`` -> ``data.photos``; None for another package."""
        if target == self.root:
            return ""
        return target.removeprefix(f"{self.root}.") if target.startswith(f"{self.root}.") else None

    def reached(self, start: str) -> dict[str, list[str]]:
        """Every module that importing ``start`` runs, with the way there; parents' own files run as well."""
        ways = {start: [start]}
        todo = [start]
        while todo:
            name = todo.pop()
            targets = [self.below(i.target) for i in self.modules[name].imports if i.top]
            targets += [name.rpartition(".")[0]]
            for target in targets:
                if target is not None and target in self.modules and target not in ways:
                    ways[target] = [*ways[name], target]
                    todo.append(target)
        return ways


# ------------------------------------------------------------------------------------------------ the rules


def unplaced(package: Package) -> set[str]:
    """Rooms that the order does not name."""
    return {f"{m.room} has no place in ORDER" for m in package if m.room not in (*ORDER, *DOORS)}


def upward(package: Package) -> set[str]:
    """Imports from a room below or beside, wherever they stand: in a function and for type checkers too."""
    wrong = set()
    for module in package:
        for one in module.imports:
            target = package.below(one.target)
            if target is None or module.room in DOORS or module.room not in ORDER:
                continue
            room = target.partition(".")[0]
            version = room == "" and one.name == "__version__"
            if room == module.room or version or (room in ORDER and place(room) < place(module.room)):
                continue
            wrong.add(f"{module.name} -> {target or package.root}")
    return wrong


def place(room: str) -> int:
    return ORDER.index(room)


def circles(package: Package) -> set[str]:
    """Modules that import each other at module level, directly or through others."""
    ahead: dict[str, set[str]] = {}
    for module in package:
        targets = {package.below(i.target) for i in module.imports if i.top}
        ahead[module.name] = {t for t in targets if t in package.modules and t != module.name} - {None}
    reach = {name: _closure(name, ahead) for name in ahead}
    groups = {frozenset(n for n in reach[name] if name in reach[n]) for name in ahead if name in reach[name]}
    return {" <-> ".join(sorted(group)) for group in groups}


def _closure(start: str, ahead: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for name in ahead[todo.pop()] - seen:
            seen.add(name)
            todo.append(name)
    return seen


def private_names(package: Package) -> set[str]:
    """Private names of another room: imported, taken from its modules, or from its objects.

    An object's private attribute counts as another room's where that room defines it and this one does not.
    """
    owners: dict[str, set[str]] = {}
    for module in package:
        for name in _private_definitions(module.tree):
            owners.setdefault(name, set()).add(module.room)
    wrong = set()
    for module in package:
        foreign: dict[str, str] = {}
        for one in module.imports:
            target = package.below(one.target)
            if target is None or target.partition(".")[0] == module.room or module.room in DOORS:
                continue
            if one.name is None:
                foreign[one.bound] = target
            parts = [*target.split("."), one.name or ""]
            if any(_is_private(part) for part in parts):
                wrong.add(f"{module.name} imports {'.'.join(parts).rstrip('.')}")
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Attribute) or not _is_private(node.attr):
                continue
            of = node.value.id if isinstance(node.value, ast.Name) else ""
            rooms = owners.get(node.attr, set())
            if of in foreign or (of not in ("self", "cls") and rooms and module.room not in rooms):
                wrong.add(
                    f"{module.name} takes {ast.unparse(node)} of {', '.join(sorted(rooms)) or foreign[of]}"
                )
    return wrong


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _private_definitions(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        name = None
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        if name is not None and _is_private(name):
            yield name


def extras_at_module_level(package: Package) -> set[str]:
    """Packages of an extra, imported when a module of another room is imported."""
    return {
        f"{module.name} imports {root}"
        for module in package
        for one in module.imports
        if one.top
        and (root := one.target.partition(".")[0]) in EXTRAS
        and not {module.room, module.name} & {*EXTRAS[root]}
    }


def extras_in_the_base(package: Package, base: tuple[str, ...] = BASE) -> set[str]:
    """Extras that importing a module of the base install, or one inside it, would run into."""
    wrong = set()
    for part in base:
        starts = [name for name in package.modules if name == part or name.startswith(f"{part}.")]
        if not starts:
            wrong.add(f"{part} of BASE does not exist")
        for start in starts if part != "cli" else [part]:
            for name in package.reached(start):
                for one in package.modules[name].imports:
                    if one.top and (root := one.target.partition(".")[0]) in EXTRAS:
                        wrong.add(f"{start} needs {root} for {name}")
    return wrong


def heavy_command_line(package: Package) -> set[str]:
    """Verbs, and what all verbs share, that load something heavy when imported, themselves or through others.

    A module whose name begins with ``_`` is imported by a verb when it runs, unless it is found on the way.
    """
    wrong = set()
    for module in package:
        if module.room != "cli" or any(_is_private(part) for part in module.name.split(".")):
            continue
        for name, way in package.reached(module.name).items():
            for one in package.modules[name].imports:
                if one.top and (root := one.target.partition(".")[0]) not in {*LIGHT, package.root}:
                    wrong.add(f"{way[0]} loads {root} at module level")
    return wrong


def shape(package: Package) -> set[str]:
    """Modules without a docstring, and those that are too long."""
    silent = {f"{m.name or package.root} has no docstring" for m in package if not ast.get_docstring(m.tree)}
    return silent | {f"{m.name} is over {LONGEST} lines" for m in package if m.lines > LONGEST}


RULES = {
    rule.__name__: rule
    for rule in (
        unplaced,
        upward,
        circles,
        private_names,
        extras_at_module_level,
        extras_in_the_base,
        heavy_command_line,
        shape,
    )
}


@pytest.fixture(scope="module")
def package() -> Package:
    return Package(SOURCE)


@pytest.mark.parametrize("rule", RULES)
def test_the_house(rule, package):
    found, known = RULES[rule](package), KNOWN.get(rule, set())
    assert not found - known, f"{rule}: {sorted(found - known)}"
    assert not known - found, f"{rule}: mended, so take it out of KNOWN: {sorted(known - found)}"


def test_known_faults_belong_to_rules():
    assert set(KNOWN) <= set(RULES)


def test_the_order_names_rooms_once_and_most_of_them_exist(package):
    assert len(set(ORDER)) == len(ORDER)
    assert {m.room for m in package} >= {"errors", "boxes", "data", "engine", "methods", "pipeline", "cli"}


# ------------------------------------------------------------------- each rule fails where it should


def tree(folder: Path, **files: str) -> Package:
    """A package of these files, ``a__b`` being a/b.py; a docstring is put before each."""
    top = folder / "sightline"
    for name, text in {"__init__": "", **files}.items():
        path = (
            top / "__init__.py"
            if name == "__init__"
            else top.joinpath(*name.split("__", 1)).with_suffix(".py")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name("__init__.py").touch()
        path.write_text(f'"""A file."""\n{text}\n', encoding="utf-8")
    return Package(folder / "sightline")


def test_a_room_without_a_place_is_found(tmp_path):
    assert unplaced(tree(tmp_path, attic="", errors="")) == {"attic has no place in ORDER"}


@pytest.mark.parametrize(
    "text",
    [
        "from sightline.cli import run",
        "import sightline.cli.run",
        "from sightline import cli",
        "from .cli import run",
        "def f():\n    from sightline.cli.run import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sightline.cli.run import x",
        "try:\n    from sightline.cli.run import x\nexcept ImportError:\n    pass",
    ],
)
def test_an_import_from_below_is_found_wherever_it_stands(tmp_path, text):
    found = upward(tree(tmp_path, boxes=text, cli__run="x = 1"))
    assert len(found) == 1
    assert found.pop().startswith("boxes -> cli")


def test_imports_from_above_and_beside_are_free(tmp_path):
    files = {"cli__a": "from sightline.boxes import y\nfrom sightline.cli.b import z", "cli__b": "z = 1"}
    assert upward(tree(tmp_path, boxes="from sightline import __version__\ny = 1", **files)) == set()


def test_a_name_of_the_package_counts_as_that_of_its_room(tmp_path):
    package = tree(tmp_path, boxes="from sightline import explain", pipeline="def explain(): ...")
    (tmp_path / "sightline" / "__init__.py").write_text(
        '"""A."""\n_HOME = {"explain": "sightline.pipeline"}', "utf-8"
    )
    assert upward(package) == {"boxes -> sightline"}
    assert upward(Package(tmp_path / "sightline")) == {"boxes -> pipeline"}


def test_a_circle_is_found_and_one_through_a_function_is_none(tmp_path):
    a, b = (
        "from sightline.data.b import y",
        "from sightline.data import c",
    )
    package = tree(tmp_path, data__a=a, data__b=b, data__c="import sightline.data.a")
    assert circles(package) == {"data.a <-> data.b <-> data.c"}
    late = "def f():\n    import sightline.data.a"
    assert circles(tree(tmp_path, data__a=a, data__b=b, data__c=late)) == set()


@pytest.mark.parametrize(
    "text",
    [
        "from sightline.boxes import _cut",
        "from sightline import boxes\nboxes._cut()",
        "from sightline import boxes as b\ndef f():\n    return b._cut",
        "def f(rule):\n    return rule._kept",
        "from sightline.heatmap._inner import x",
    ],
)
def test_a_private_name_of_another_room_is_found(tmp_path, text):
    boxes = "def _cut(): ...\nclass Rule:\n    def __init__(self):\n        self._kept = 1"
    files = {"boxes": boxes, "heatmap___inner": "x = 1"}
    assert len(private_names(tree(tmp_path, pipeline=text, **files))) == 1


def test_private_names_of_the_same_room_and_of_other_packages_are_free(tmp_path):
    text = "from sightline.data.b import _x\nimport torch\ntorch._C\ndef f(node):\n    return node._saved, _x"
    assert private_names(tree(tmp_path, data__a=text, data__b="_x = 1")) == set()


def test_an_extra_at_module_level_is_found_outside_its_room(tmp_path):
    late = "def f():\n    import numba"
    package = tree(tmp_path, boxes="import numba.core", heatmap=late, metrics__a="from numba import njit")
    assert extras_at_module_level(package) == {"boxes imports numba"}


def test_an_extra_that_the_base_would_run_into_is_found(tmp_path):
    files = {"metrics__a": "import numba", "pictures": "from sightline.metrics.a import x"}
    package = tree(tmp_path, pipeline="from sightline.pictures import y", **files)
    assert extras_in_the_base(package, ("pipeline",)) == {"pipeline needs numba for metrics.a"}
    assert extras_in_the_base(package, ("metrics",)) == {"metrics.a needs numba for metrics.a"}
    assert extras_in_the_base(package, ("cellar",)) == {"cellar of BASE does not exist"}


def test_a_heavy_command_line_is_found_through_others(tmp_path):
    late = "def f():\n    import torch"
    package = tree(
        tmp_path,
        cli__a="from sightline.boxes import y",
        cli__b=late,
        cli__c="import torch",
        boxes="import torch",
    )
    assert heavy_command_line(package) == {
        "cli.a loads torch at module level",
        "cli.c loads torch at module level",
    }


def test_a_silent_and_a_long_module_are_found(tmp_path):
    package = tree(tmp_path, boxes="\n" * LONGEST)
    (tmp_path / "sightline" / "errors.py").write_text("x = 1\n", "utf-8")
    assert shape(package) == {f"boxes is over {LONGEST} lines"}
    assert shape(Package(tmp_path / "sightline")) == {
        f"boxes is over {LONGEST} lines",
        "errors has no docstring",
    }
