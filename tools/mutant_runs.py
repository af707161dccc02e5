"""Run the tests that notice a mutant: the sessions behind tools/mutants.py.

A test session costs ten seconds before its first test (imports, collection). So the tests are collected once, and each
mutant is tried in a fork of that process, where the code of the changed function is replaced. What an import has
already run (defaults, class bodies, decorators and the functions they call) is tried in a new session instead.
"""

from __future__ import annotations

import gc
import inspect
import io
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

SHOWN = os.dup(1)  # what pytest and the children do not redirect


def say(line: str) -> None:
    os.write(SHOWN, f"{line}\n".encode())


class Session:
    """A pytest plugin: the tests are collected, then handed to ``work``, which runs those that it wants."""

    def __init__(self, package: Path, work: Callable[[Session], None]) -> None:
        self.package, self.work, self.failed, self.error = f"{package}/", work, "", ""
        self.items: dict[str, pytest.Item] = {}
        self.functions: dict[CodeType, list[FunctionType]] = defaultdict(list)
        self.imported: list[tuple[str, int]] = []
        self._codes: set[CodeType] = set()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items, self.imported = {item.nodeid: item for item in session.items}, self.called()
        try:
            self.work(self)
        except BaseException:  # pytest would only print it
            self.error = traceback.format_exc()
        return True

    def find_functions(self) -> None:
        """Where the package's code is in use, so that it can be replaced."""
        for one in gc.get_objects():
            if type(one) is FunctionType and one.__code__.co_filename.startswith(self.package):
                self.functions[one.__code__].append(one)
        gc.freeze()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.failed = self.failed or (f"collection of {report.nodeid}" if report.failed else "")

    def watch(self) -> None:
        """From now on it is written down which functions are called."""
        self._codes = set()
        threading.settrace(self._called)
        sys.settrace(self._called)

    def called(self) -> list[tuple[str, int]]:
        """The functions of the package that were called since: their files and first lines."""
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        inside = [code for code in self._codes if code.co_filename.startswith(self.package)]
        return sorted({(c.co_filename.removeprefix(self.package), c.co_firstlineno) for c in inside})

    def _called(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            self._codes.add(frame.f_code)

    def first_failure(self, tests: dict[str, float]) -> str:
        """Run these tests in this order, each for so many seconds at most, until one fails; its name."""
        items = [self.items[name] for name in tests if name in self.items]
        for item, following in zip(items, [*items[1:], None], strict=True):
            signal.setitimer(signal.ITIMER_PROF, 5 * tests[item.nodeid] + 10)
            try:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            except BaseException as error:  # a test cannot catch everything that a mutant does
                self.failed = self.failed or f"{item.nodeid}: {error!r}"
            if self.failed:
                break
        signal.setitimer(signal.ITIMER_PROF, 0)
        return self.failed


def run_pytest(tree: Path, work: Callable[[Session], None], paths: Sequence[str]) -> Session:
    """A pytest session in this process, over the copy of the repository."""
    os.chdir(tree)
    sys.path.insert(0, str(tree / "src"))
    sys.stdout = sys.stderr = io.StringIO()
    session = Session(tree / "src" / "sightline", work)
    session.watch()  # before conftest.py, which imports
    # Plain assertions: pytest would read a source whose doctests it runs by a loader of its own, without the mutant.
    plain = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--timeout", "0", "--assert", "plain"]
    pytest.main([*plain, *paths], [session])
    if session.error:
        raise RuntimeError(session.error)
    return session


def in_child(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` returns in a fork of this process, whose imports it inherits; {} if the fork died."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        if (child := os.fork()) == 0:
            try:
                resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
                nowhere = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(nowhere, stream)
                answer.write_text(json.dumps(work()))
            except BaseException:
                answer.write_text(json.dumps({"error": traceback.format_exc()}))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        found = json.loads(answer.read_text()) if answer.exists() else {}
    if "error" in found:
        raise RuntimeError(found["error"])
    return found


def record(session: Session, names: Sequence[str]) -> dict[str, Any]:
    """Each test's time, result and calls, by its name."""
    found = {}
    for name in names:
        session.failed, started = "", time.process_time()
        session.watch()
        session.first_failure({name: 300.0})
        calls = session.called()
        seconds = round(time.process_time() - started, 3)
        if session.failed:
            say(f"without a mutant: {session.failed} fails")
        found[name] = {"seconds": seconds, "passed": not session.failed, "calls": calls}
    return found


def changed_code(old: CodeType, new: CodeType) -> tuple[CodeType, CodeType] | None:
    """The function in which two versions of a module differ, in both; None if what an import runs differs.

    >>> one, two, three = (compile(f"def f(x=1): return x + {n}", "a.py", "exec") for n in (1, 1, 2))
    >>> changed_code(one, two), [code.co_consts for code in changed_code(one, three)]
    (None, [(None, 1), (None, 2)])
    >>> changed_code(one, compile("def f(x=2): return x + 1", "a.py", "exec"))
    """

    def itself(code: CodeType) -> tuple[Any, ...]:
        return code.co_code, code.co_names, [repr(one) for one in code.co_consts if not inspect.iscode(one)]

    inner = [[one for one in code.co_consts if inspect.iscode(one)] for code in (old, new)]
    if itself(old) != itself(new) or len(inner[0]) != len(inner[1]):
        return None
    for before, after in zip(*inner, strict=True):
        if before.co_flags & inspect.CO_OPTIMIZED and before != after:
            return (before, after) if before.co_freevars == after.co_freevars else None
        if not before.co_flags & inspect.CO_OPTIMIZED and (found := changed_code(before, after)):
            return found
    return None


def outcome(tests: dict[str, float], work: Callable[[], str]) -> dict[str, Any]:
    """Whether a test fails on a mutant, and which; ``work`` names it, in a child."""
    started = time.monotonic()
    answer = in_child(lambda: {"failed": work()}) if tests else {"failed": ""}
    by = answer.get("failed", "it never ended, or ended the process")
    row = {"outcome": "killed" if by else "survived", "tests": len(tests), "by": by}
    return {**row, "seconds": round(time.monotonic() - started, 1)}


def try_in_place(
    session: Session, file: str, old: bytes, new: bytes, tests: dict[str, float]
) -> dict[str, Any]:
    """The outcome with a function's code replaced where it was imported; {} if an import has run it."""
    name = session.package + file
    codes = changed_code(compile(old, name, "exec"), compile(new, name, "exec"))
    functions = session.functions.get(codes[0], []) if codes else []
    if not codes or not functions:
        return {}
    last = max(line for _, _, line in codes[0].co_lines() if line)
    if any(one == file and codes[0].co_firstlineno <= line <= last for one, line in session.imported):
        return {}

    def work() -> str:
        for function in functions:
            function.__code__ = codes[1]
        return session.first_failure(tests)

    return outcome(tests, work)


def try_afresh(tree: Path, file: str, old: bytes, new: bytes, tests: dict[str, float]) -> dict[str, Any]:
    """The outcome where everything is imported again, and the file as if it were changed."""
    path, as_it_is = str(tree / "src" / "sightline" / file), SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> CodeType | None:
        own = self.get_filename(fullname) == path
        return compile(new, path, "exec", dont_inherit=True) if own else as_it_is(self, fullname)

    def first(session: Session) -> None:
        if not session.failed:
            session.first_failure(tests)

    def work() -> str:
        SourceFileLoader.get_code = get_code  # type: ignore[method-assign]
        return run_pytest(tree, first, sorted({name.partition("::")[0] for name in tests})).failed

    return outcome(tests, work)


def spread(jobs: int, over: Sequence[str], work: Callable[[str], None]) -> None:
    """``work`` on each of ``over``, in so many processes."""
    children = []
    for number in range(jobs):
        if (child := os.fork()) == 0:
            try:
                for one in over[number::jobs]:
                    work(one)
            except BaseException:
                say(traceback.format_exc())
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
