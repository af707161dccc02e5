"""Break one operation of the source at a time and see whether a test notices.

python tools/mutants.py --count 400 --results out/mutants.jsonl      # `make mutants`; run again, it goes on

The tests run once and it is written down which functions each of them calls. A mutant is a source file with one change.
Mutants are drawn by a hash of their text and a seed, so that other changes of the source leave the sample as it is. The
tests that call the changed function run on it, up to a minute's worth (`--budget`), until one fails; `mutant_choice.py`
says which come first. All of this happens in a copy of the repository.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import difflib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mutant_choice import choose
from mutant_runs import Session, in_child, record, run_pytest, say, spread, try_afresh, try_in_place

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = ROOT / "tools" / "mutants_equivalent.txt"
SOURCES = ("engine.py", "inspection", "methods", "boxes.py", "heatmap.py", "scores.py", "targets", "metrics")
TESTS = (  # and each source's doctests
    "tests/evaluation/test_faithfulness.py", "tests/inspection", "tests/methods", "tests/metrics",
    "tests/models/test_preprocess.py", "tests/test_attribution.py",
    "tests/test_box_rule.py", "tests/test_boxes.py", "tests/test_broken_promises.py", "tests/test_classes_by_hand.py",
    "tests/test_contract.py", "tests/test_engine.py", "tests/test_engine_values.py", "tests/test_explanation.py",
    "tests/test_heat_by_hand.py", "tests/test_heatmap.py",
    "tests/test_misleading_refusals.py", "tests/test_numbers_at_the_border.py", "tests/test_once_survived.py",
    "tests/test_one_door.py", "tests/test_registry.py", "tests/test_scores.py", "tests/test_targets.py",
    "tests/test_targets_by_hand.py",
)  # fmt: skip

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

    def key(self, source: bytes) -> str:
        """What is changed, without the number of the line: other changes of the file leave it as it is."""
        first = source.rfind(b"\n", 0, self.start) + 1
        line = source[first:].partition(b"\n")[0]
        place = self.start - first - len(line) + len(line.lstrip())
        return f"{self.file}|{line.decode().strip()}|{place}|{self.text}"

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
    tree, found = ast.parse(source), []
    for whole in tree.body:  # an import, a function, a class: only this is parsed again
        first = starts[min([whole.lineno, *(one.lineno for one in getattr(whole, "decorator_list", ()))]) - 1]
        last = starts[whole.end_lineno or 0]
        for node, changed in _changes(ast.Module([whole], [])):
            start = starts[node.lineno - 1] + node.col_offset
            stop = starts[node.end_lineno - 1] + node.end_col_offset
            text = ast.unparse(changed)
            text = text if isinstance(changed, ast.stmt) else f"({text})"
            with contextlib.suppress(SyntaxError):
                ast.parse(Mutant(file, 0, start - first, stop - first, text).applied(source[first:last]))
                found.append(Mutant(file, node.lineno, start, stop, text))
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


def equivalent() -> dict[str, str]:
    """Mutants that change nothing that can be observed, by their keys, and why."""
    lines = [line for line in EQUIVALENT.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("\t") for line in lines)


def report(rows: list[dict[str, Any]]) -> str:
    """A table by source, and the survivors."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        counts.update((name, row["outcome"]) for name in (row["file"].partition("/")[0], "all"))
    lines = ["| source | mutants | killed | equivalent |", "|---|---|---|---|"]
    for name in (*SOURCES, "all"):
        killed, same = counts[name, "killed"], counts[name, "equivalent"]
        tried = killed + same + counts[name, "survived"]
        if tried:
            lines.append(f"| `{name}` | {tried} | {killed} | {same} |")
            shares = f"{killed / tried:.1%} are killed, {killed / max(tried - same, 1):.1%} of those not equivalent"
    lines += ["", f"{len(rows)} mutants: {shares if rows else 'nothing to show'}"]
    for row in rows:
        if row["outcome"] == "survived":
            lines += ["", f"{row['file']}, line {row['line']} ({row['tests']} tests)", row["difference"]]
    return "\n".join(lines)


class Trial:
    """The sampled mutants of a copy of the repository, and what is known of them."""

    def __init__(self, tree: Path, given: argparse.Namespace) -> None:
        self.tree, self.given = tree, given
        package = tree / "src" / "sightline"
        files = _files(package, SOURCES, "*.py")
        self.sources = {file: (package / file).read_bytes() for file in files}
        every: dict[str, Mutant] = {}
        for file, source in self.sources.items():
            for mutant in mutants_of(file, source):
                key = mutant.key(source)
                every[key if key not in every else f"{key}|{mutant.line}"] = mutant
        drawn = sorted(every, key=lambda key: hashlib.sha256(f"{given.seed} {key}".encode()).digest())
        self.chosen = {key: every[key] for key in drawn[: given.count]}
        self.paths = [*_files(tree, TESTS, "test_*.py"), *_files(package, SOURCES, "*.py", tree)]
        self.equivalent = equivalent()
        rows = self.rows()
        self.done = {row["key"] for row in rows if row["outcome"] != "survived" or not given.again}
        self.before = {row["key"]: row for row in rows}
        say(f"{len(every)} mutants are possible, {len(self.chosen)} are tried")

    def rows(self) -> list[dict[str, Any]]:
        """What was last found of each sampled mutant; those that are equivalent are not tried."""
        last = {row["key"]: row for row in read_rows(self.given.results)}
        for key in self.equivalent.keys() & self.chosen.keys():
            last[key] = {"key": key, "file": self.chosen[key].file, "outcome": "equivalent"}
        return [last[key] for key in self.chosen if key in last]

    def records(self) -> dict[str, Any]:
        """The record of each test file, where neither it nor any source has changed."""
        sources, last = b"".join(self.sources.values()), {}
        for row in read_rows(self.given.tests):
            last[row["path"], row["digest"]] = row
        self.digests = {
            path: hashlib.sha256(sources + (self.tree / path).read_bytes()).hexdigest() for path in self.paths
        }
        return {path: last[path, digest] for path, digest in self.digests.items() if (path, digest) in last}

    def record(self, session: Session) -> None:
        """Make the records that are missing."""
        known = self.records()
        missing = [path for path in self.paths if path not in known]

        def one(path: str) -> None:
            names = [name for name in session.items if name.partition("::")[0] == path]
            found = in_child(partial(record, session, names))
            append_row(self.given.tests, {"path": path, "digest": self.digests[path], "tests": found})
            say(f"{len(names)} tests in {path}")

        spread(self.given.jobs, missing, one)

    def each(self, run: Callable[[str, bytes, bytes, dict[str, float]], dict[str, Any]]) -> None:
        """Try the mutants that are left by ``run``, which answers {} where it cannot."""
        tests = {name: test for row in self.records().values() for name, test in row["tests"].items()}
        new = {row["key"] for row in self.rows() if self.before.get(row["key"]) != row}  # by the first way
        left = [key for key in self.chosen if key not in self.done | new]

        def one(key: str) -> None:
            mutant = self.chosen[key]
            old = self.sources[mutant.file]
            kills = Counter(row["by"] for row in read_rows(self.given.results) if row["file"] == mutant.file)
            chosen = choose(mutant.file, mutant.line, ast.parse(old), tests, kills, self.given.budget)
            if found := run(mutant.file, old, mutant.applied(old), chosen):
                row = {
                    "key": key,
                    "file": mutant.file,
                    "line": mutant.line,
                    "difference": difference(mutant, old),
                }
                append_row(self.given.results, row | found)
                say(f"{found['outcome']} {found['seconds']} s {mutant.file}:{mutant.line} {found['by']}")

        spread(
            self.given.jobs,
            [key for key in left if self.chosen[key].file.startswith(tuple(self.given.only))],
            one,
        )

    def in_one_session(self, session: Session) -> None:
        """Collected once: most mutants."""
        if session.failed:
            raise RuntimeError(session.failed)
        session.find_functions()
        self.record(session)
        self.each(partial(try_in_place, session))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[""], help="only mutants of files that begin so")
    parser.add_argument("--results", type=Path, default=Path("out/mutants.jsonl"))
    parser.add_argument("--again", action="store_true", help="try those again that have survived")
    parser.add_argument("--report", action="store_true", help="print what is known; try nothing")
    parser.add_argument(
        "--budget", type=float, default=60.0, help="seconds of tests per mutant, as without it"
    )
    parser.add_argument("--jobs", type=int, default=1, help="mutants tried at the same time")
    given = parser.parse_args()
    given.results = given.results.resolve()
    given.tests = given.results.with_suffix(".tests.jsonl")
    os.environ.update(NUMBA_DISABLE_JIT="1", OMP_NUM_THREADS="1", PYTEST_ADDOPTS="")
    import numpy, scipy, timm, torchvision, transformers  # noqa: E401, F401, I001 (every child inherits them)

    given.results.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(Path(folder))
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        trial = Trial(tree, given)
        if given.report:
            print(report(trial.rows()))
            return 0
        in_child(lambda: {"failed": run_pytest(tree, trial.in_one_session, trial.paths).failed})
        trial.each(partial(try_afresh, tree))
        print(report(trial.rows()))
    return 0


def read_rows(path: Path) -> list[dict[str, Any]]:
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


def append_row(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of several processes
        file.write(json.dumps(row) + "\n")


def _files(root: Path, names: Sequence[str], pattern: str, relative: Path | None = None) -> list[str]:
    """Files, and those of folders that match."""
    found: list[Path] = []
    for name in names:
        path = root / name
        found += sorted(path.rglob(pattern)) if path.is_dir() else [path]
    return [file.relative_to(relative or root).as_posix() for file in found]


if __name__ == "__main__":
    raise SystemExit(main())
