"""Break one operation of the source at a time and see whether a test notices.

python tools/mutants.py --count 400 --results out/mutants.jsonl      # `make mutants`; run again, it goes on

The tests run once and it is written down which functions each of them calls. A mutant is a copy of a source file with
one change, sampled with a fixed seed; the tests that call the changed function run on it, quickest first, up to a
minute's worth, until one fails. All of this happens in a copy of the repository.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import difflib
import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ONCE = "tests/test_once_survived.py"
HOME = {  # source -> the tests that are its own; each source's doctests are added
    "methods": ("tests/methods", ONCE),
    "metrics": ("tests/metrics", "tests/evaluation/test_faithfulness.py", ONCE),
    "engine.py": (
        "tests/test_engine.py",
        "tests/methods/test_gradcam.py",
        "tests/inspection/test_wrappers.py",
        ONCE,
    ),
    "boxes.py": ("tests/test_boxes.py", "tests/test_box_rule.py", "tests/metrics/test_ilsvrc.py"),
    "heatmap.py": ("tests/test_heatmap.py", "tests/test_numbers_at_the_border.py", ONCE),
    "scores.py": ("tests/test_scores.py", "tests/test_contract.py"),
    "targets": ("tests/test_targets.py", "tests/test_explanation.py", "tests/test_one_door.py", ONCE),
    "inspection": ("tests/inspection", "tests/test_engine.py", "tests/methods/test_attention.py"),
}
SOURCES = tuple(HOME)
BUDGET = 60.0  # seconds of tests per mutant, as they took without it
SLOWEST = 15.0  # a test that takes longer is left out

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult, ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
SWAPS = [
    ("max", "min"), ("amax", "amin"), ("maximum", "minimum"), ("argmax", "argmin"), ("sum", "mean"), ("any", "all"),
    ("floor", "ceil"), ("floor_", "ceil_"), ("zeros_like", "ones_like"), ("zeros", "ones"), ("append", "extend"),
    ("clamp_min", "clamp_max"), ("softmax", "sigmoid"), ("cumsum", "cumprod"), ("sqrt", "square"),
]  # fmt: skip
# What no test can see: devices on a machine that has one, tolerances, and checks of this code's own mistakes.
UNSEEN = ("device", "rtol", "atol", "strict", "stacklevel", "maxsize")
NAMES = {**dict(SWAPS), **{second: first for first, second in SWAPS}}


@dataclass(frozen=True)
class Mutant:
    """A change of one source file: the bytes from ``start`` to ``stop`` become ``text``."""

    file: str
    line: int
    start: int
    stop: int
    text: str

    @property
    def key(self) -> str:
        return f"{self.file}:{self.start}-{self.stop}:{self.text}"

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.stop :]


def mutants_of(file: str, source: bytes) -> list[Mutant]:
    """Every change that this tool knows of one file.

    >>> [one.text for one in mutants_of("a.py", b"def f(x):\\n    return x + 1")]
    ['(x - 1)', '(2)']
    """
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, changed in _changes(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        stop = starts[node.end_lineno - 1] + node.end_col_offset
        text = ast.unparse(changed)
        text = text if isinstance(changed, ast.stmt) else f"({text})"
        mutant = Mutant(file, node.lineno, start, stop, text)
        with contextlib.suppress(SyntaxError):
            ast.parse(mutant.applied(source))
            found.append(mutant)
    return found


def _changes(tree: ast.AST) -> Iterator[tuple[Any, ast.AST]]:
    """(node, what stands in its place), in the order of the source."""
    for field, value in ast.iter_fields(tree):
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or field in ("annotation", "returns", "decorator_list"):
                continue
            if isinstance(node, ast.keyword) and node.arg in UNSEEN:
                continue
            if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)):
                if isinstance(node, ast.Raise) and node.exc is not None:
                    yield node, ast.Pass()
                continue  # the words of a message are no behaviour
            for changed in _changed(node):
                yield node, changed
            yield from _changes(node)


def _changed(node: ast.AST) -> Iterator[ast.AST]:
    def with_(**fields: Any) -> ast.AST:
        other = copy.copy(node)
        for name, value in fields.items():
            setattr(other, name, value)
        return other

    match node:
        case ast.Compare(ops=ops) if type(ops[0]) in COMPARISONS:
            yield with_(ops=[COMPARISONS[type(ops[0])](), *ops[1:]])
        case ast.BinOp(op=op) if type(op) in ARITHMETIC:
            yield with_(op=ARITHMETIC[type(op)]())
        case ast.BoolOp(op=op):
            yield with_(op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield with_(value=not value)
        case ast.Constant(value=int() | float() as value):
            yield with_(value=value + 1 if isinstance(value, int) else value * 2 or 1.0)
        case ast.IfExp(body=body, orelse=orelse):
            yield with_(body=orelse, orelse=body)
        case ast.Attribute(attr=name) if name in NAMES:
            yield with_(attr=NAMES[name])
        case ast.Name(id=name) if name in ("max", "min", "any", "all"):
            yield with_(id=NAMES[name])
        case ast.Call(keywords=keywords):
            for number, keyword in enumerate(keywords):
                if keyword.arg is not None and keyword.arg not in UNSEEN:
                    yield with_(keywords=keywords[:number] + keywords[number + 1 :])
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.AugAssign(op=op) if type(op) in ARITHMETIC:
            yield with_(op=ARITHMETIC[type(op)]())


class Calls:
    """A pytest plugin: which functions of the sources each test calls, how long it takes, whether it passes."""

    def __init__(self, package: Path) -> None:
        self.package, self.found, self._codes = f"{package}/", {}, set()

    def _called(self, frame: Any, event: str, _: object) -> None:
        if event == "call":
            self._codes.add(frame.f_code)

    def pytest_runtest_protocol(self, item: Any, nextitem: object) -> None:
        self._codes, self._started, self._passed = set(), time.process_time(), True
        sys.settrace(self._called)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._passed &= report.outcome != "failed"

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        sys.settrace(None)
        inside = [code for code in self._codes if code.co_filename.startswith(self.package)]
        self.found[nodeid] = {
            "seconds": time.process_time() - self._started,
            "passed": self._passed,
            "calls": sorted({(c.co_filename.removeprefix(self.package), c.co_firstlineno) for c in inside}),
        }


class Only:
    """A pytest plugin: run these tests, the quickest first, and remember which failed."""

    def __init__(self, order: dict[str, float]) -> None:
        self.order, self.failed = order, ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.order), key=lambda item: self.order[item.nodeid]
        )

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.outcome == "failed" and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.outcome == "failed" and not self.failed:
            self.failed = f"collection of {report.nodeid}"


def in_child(work: Callable[[], dict[str, Any]], cpu_seconds: int) -> dict[str, Any]:
    """What ``work`` returns in a fork of this process, whose imports it inherits; {} if it died or took too long."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        if (child := os.fork()) == 0:
            try:
                resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
                resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
                quiet = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(quiet, stream)
                answer.write_text(json.dumps(work()))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        return json.loads(answer.read_text()) if answer.exists() else {}


def run_pytest(tree: Path, plugin: Any, arguments: list[str]) -> None:
    import pytest

    os.chdir(tree)
    sys.path.insert(0, str(tree / "src"))
    sys.stdout = sys.stderr = io.StringIO()
    plain = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--timeout",
        "0",
    ]  # the processor time is limited
    pytest.main([*plain, "-W", "ignore::pytest.PytestAssertRewriteWarning", *arguments], [plugin])


def baseline(tree: Path, source: str, known: Path) -> dict[str, Any]:
    """Each test's time, result and calls, by its id: `Calls` over the tests of a source; kept in the file ``known``."""
    found = json.loads(known.read_text()) if known.exists() else {}
    paths = _files(tree, [*HOME[source], f"src/sightline/{source}"], "test_*.py")
    for path in paths:
        if path in found:
            continue

        def work(path: str = path) -> dict[str, Any]:
            plugin = Calls(tree / "src" / "sightline")
            run_pytest(tree, plugin, [path])
            return plugin.found

        found[path] = in_child(work, 3600)
        known.write_text(json.dumps(found))
        print(f"{path}: {len(found[path])} tests", flush=True)
    return {name: test for path in paths for name, test in found[path].items()}


def covering(mutant: Mutant, tree: ast.Module, tests: dict[str, Any]) -> dict[str, float]:
    """The tests that call the function in which the mutant lies (else any of its file), and their seconds."""
    inside = (0, 10**9)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
            if first <= mutant.line <= (node.end_lineno or 0) and inside[1] == 10**9:
                inside = (first, node.end_lineno or 0)
    chosen, total = {}, 0.0
    for name, test in sorted(tests.items(), key=lambda one: one[1]["seconds"]):
        called = any(file == mutant.file and inside[0] <= line <= inside[1] for file, line in test["calls"])
        if called and test["passed"] and test["seconds"] < SLOWEST and total < BUDGET:
            chosen[name], total = test["seconds"], total + test["seconds"]
    return chosen


def outcome(tree: Path, mutant: Mutant, tests: dict[str, Any]) -> dict[str, Any]:
    """Whether a test fails on the mutant, and which."""
    path = tree / "src" / "sightline" / mutant.file
    source = path.read_bytes()
    chosen = covering(mutant, ast.parse(source), tests)
    if not chosen:
        return {"outcome": "survived", "tests": 0, "by": "", "seconds": 0.0}

    def work() -> dict[str, Any]:
        sys.dont_write_bytecode = True
        plugin = Only(chosen)
        run_pytest(tree, plugin, ["-x", *sorted({name.partition("::")[0] for name in chosen})])
        return {"failed": plugin.failed}

    started, times = time.monotonic(), path.stat()
    path.write_bytes(mutant.applied(source))
    try:
        answer = in_child(work, int(3 * sum(chosen.values()) + 60))
    finally:
        path.write_bytes(source)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    by = answer.get("failed", "it never ended, or ended the process")
    seconds = time.monotonic() - started
    return {
        "outcome": "killed" if by else "survived",
        "tests": len(chosen),
        "by": by,
        "seconds": round(seconds, 1),
    }


def copied(folder: Path) -> Path:
    """The repository's files, copied; the compiled ones are made anew there."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in os.fsdecode(names).strip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, folder / name)
    return folder


def difference(mutant: Mutant, source: bytes) -> str:
    """The changed lines."""
    old, new = (text.decode().splitlines() for text in (source, mutant.applied(source)))
    lines = list(difflib.unified_diff(old, new, n=0, lineterm=""))[3:]
    return "\n".join(line[0] + " " + line[1:].strip() for line in lines)


def report(rows: list[dict[str, Any]]) -> str:
    """A table by source, and the survivors."""
    counts = Counter((row["file"].partition("/")[0], row["outcome"]) for row in rows)
    lines = ["| source | mutants | killed |", "|---|---|---|"]
    for name in SOURCES:
        killed, survived = counts[name, "killed"], counts[name, "survived"]
        if killed + survived:
            lines.append(f"| `{name}` | {killed + survived} | {killed} |")
    killed = sum(row["outcome"] == "killed" for row in rows)
    lines += ["", f"{len(rows)} mutants, {killed} killed ({killed / max(len(rows), 1):.1%})"]
    for row in rows:
        if row["outcome"] == "survived":
            lines += ["", f"{row['file']}, line {row['line']} ({row['tests']} tests)", row["difference"]]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only mutants of files that begin so")
    parser.add_argument("--results", type=Path, default=Path("out/mutants.jsonl"))
    parser.add_argument(
        "--tests", type=Path, help="where to keep the record of the tests (default: beside the results)"
    )
    given = parser.parse_args()
    os.environ.update(NUMBA_DISABLE_JIT="1", OMP_NUM_THREADS="1", PYTEST_ADDOPTS="")
    import numpy, pytest, scipy, timm, torchvision  # noqa: E401, F401, I001 (every child inherits them)

    given.results.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in given.results.open()] if given.results.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder))
        package = tree / "src" / "sightline"
        known = given.tests or given.results.with_suffix(".tests.json")
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(package)], check=True)
        files = _files(package, SOURCES, "*.py")
        every = [one for file in files for one in mutants_of(file, (package / file).read_bytes())]
        random.Random(given.seed).shuffle(every)
        chosen = every[: given.count]
        print(f"{len(every)} mutants are possible, {len(chosen)} are tried", flush=True)
        done = {row["key"] for row in rows}
        for mutant in chosen:
            if mutant.key in done or not mutant.file.startswith(given.only):
                continue
            shown = difference(mutant, (package / mutant.file).read_bytes())
            row = {"key": mutant.key, "file": mutant.file, "line": mutant.line, "difference": shown}
            row |= outcome(tree, mutant, baseline(tree, mutant.file.partition("/")[0], known))
            rows.append(row)
            with given.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(
                f"{len(rows)} {row['outcome']} {row['seconds']} s {mutant.file}:{mutant.line} {row['by']}",
                flush=True,
            )
    print(report(rows))
    return 0


def _files(root: Path, names: Sequence[str], pattern: str) -> list[str]:
    """Files, and those of folders that match; a folder without any stands for itself."""
    found: list[Path] = []
    for name in names:
        path = root / name
        found += (sorted(path.rglob(pattern)) if path.is_dir() else []) or [path]
    return [file.relative_to(root).as_posix() for file in found]


if __name__ == "__main__":
    raise SystemExit(main())
