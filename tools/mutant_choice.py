"""Which tests are tried on a mutant, and in what order.

A test that calls the changed function may still say nothing of it: it calls a hundred others, or it is the ninth case
of one that has passed eight times. So those come first that are quick and call little else, and that killed other
mutants of the file; each further case of a test function counts for less.
"""

from __future__ import annotations

import ast
from collections import Counter
from typing import Any

EVERYWHERE = (0, 10**9)  # the lines of a whole file
SLOWEST = 20.0  # a test that takes longer is left out
READERS = (
    "tests/methods/test_defaults.py",
    "tests/metrics/test_defaults.py",
)  # read signatures without a call


def choose(
    file: str, changed: int, tree: ast.Module, tests: dict[str, Any], kills: Counter[str], budget: float
) -> dict[str, float]:
    """The tests to try on a mutant of ``file`` whose line ``changed`` is another, in order, and their seconds.

    They are those that call the changed function, ``budget`` seconds' worth of them. ``kills``: how many mutants of the
    file a test has killed, by its name.

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

    def cost(name: str) -> float:
        """Seconds times the number of functions that a test calls besides the changed one; killers are cheap."""
        return (tests[name]["seconds"] + 0.01) * len(tests[name]["calls"]) / (1 + kills[name])

    chosen, total = {}, 0.0
    costs = {name: cost(name) for name in sorted(tests) if covers(name) and trusted(name)}
    for name in readers + _in_turns(costs):
        if total < budget:
            chosen[name], total = tests[name]["seconds"], total + tests[name]["seconds"]
    return chosen


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


def _in_turns(costs: dict[str, float]) -> list[str]:
    """The cheapest first, where the second case of a test function counts twice its cost, the third three times, ….

    >>> _in_turns({"f[a]": 1.0, "f[b]": 1.5, "g": 2.0, "f[c]": 1.6})
    ['f[a]', 'g', 'f[b]', 'f[c]']
    """
    turns: Counter[str] = Counter()
    weighed = {}
    for name in sorted(costs, key=lambda one: costs[one]):
        turns[name.partition("[")[0]] += 1
        weighed[name] = costs[name] * turns[name.partition("[")[0]]
    return sorted(weighed, key=lambda one: weighed[one])
