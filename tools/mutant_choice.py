"""Which tests are tried on a mutant, and in what order.

A test that calls the changed function may still say nothing of it: it calls a hundred others, or it is the ninth case
of one that has passed eight times. So the tests take turns, one case of each test function after another, and within a
turn those come first that are quick and call little else.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

SLOWEST = 20.0  # a test that takes longer is left out
READERS = (
    "tests/methods/test_defaults.py",
    "tests/metrics/test_defaults.py",
)  # read signatures without a call


def choose(
    file: str, changed: int, tree: ast.Module, tests: dict[str, Any], kills: Counter[str], budget: float
) -> dict[str, float]:
    """The tests to try on a mutant of ``file`` whose line ``changed`` is another, in order, and their seconds.

    They are those that call the changed function, ``budget`` seconds' worth of them: one case of each test function,
    then a second one, …; within each turn first those that killed other mutants of the file (``kills``, by name).

    >>> calls = {"seconds": 1.0, "passed": True, "calls": [["a.py", 1]]}
    >>> tests = {"t.py::f[0]": calls, "t.py::f[1]": calls, "t.py::g": {**calls, "seconds": 2.0}, "t.py::h": calls}
    >>> tree = ast.parse("def f(x):\\n    return x + 1")
    >>> list(choose("a.py", 2, tree, tests, Counter(["t.py::f[1]"]), 3.5))
    ['t.py::f[1]', 't.py::h', 't.py::g']
    """
    first, last = lines_of_function(file, changed, tree, tests)
    readers = [name for name in tests if (first, last) == EVERYWHERE and name.startswith(READERS)]

    def covers(name: str) -> bool:
        return any(one == file and first <= line <= last for one, line in tests[name]["calls"])

    def trusted(name: str) -> bool:  # autograd's threads do not survive a fork
        return tests[name]["passed"] and "thread" not in name and tests[name]["seconds"] < SLOWEST

    def cost(name: str) -> tuple[int, float, str]:
        """Killers first, then by seconds and by how many functions a test calls besides the changed one."""
        return -kills[name], (tests[name]["seconds"] + 0.01) * len(tests[name]["calls"]), name

    chosen, total = {}, 0.0
    for name in readers + _turns(sorted(filter(trusted, filter(covers, tests)), key=cost)):
        if total < budget:
            chosen[name], total = tests[name]["seconds"], total + tests[name]["seconds"]
    return chosen


EVERYWHERE = (0, 10**9)


def lines_of_function(file: str, changed: int, tree: ast.Module, tests: dict[str, Any]) -> tuple[int, int]:
    """The first and last line of the function in which a line lies; of the file if only an import runs it.

    An import runs constants, defaults, decorators and the functions that they call.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.body[0].lineno <= changed <= (node.end_lineno or 0):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            inside = (first, node.end_lineno or 0)
            calls = {call[1] for test in tests.values() for call in test["calls"] if call[0] == file}
            return inside if any(inside[0] <= line <= inside[1] for line in calls) else EVERYWHERE
    return EVERYWHERE


def _turns(names: Iterable[str]) -> list[str]:
    """In this order, but no second case of a test function before every function's first."""
    turns: dict[str, int] = defaultdict(int)
    placed = []
    for name in names:
        function = name.partition("[")[0]
        placed.append((turns[function], len(placed), name))
        turns[function] += 1
    return [name for _, _, name in sorted(placed)]
