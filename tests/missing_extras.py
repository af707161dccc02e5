"""Runs command lines and Python code as if packages were not installed: a child process for each case.

    python tests/missing_extras.py < cases.json    # {"hide": [...], "cases": [{"missing": [...], "run": ...}, ...]}

``run`` is a list (a command line) or a text (Python code). Prints a JSON list of {"code", "out", "err"}. The children
are forks of a process that has imported what the base imports, while every package of "hide" was hidden from it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import traceback

BASE = ("torch", "sightline.cli", "sightline.pipeline_files", "sightline.models.loading", "rich.markdown")
hidden: set[str] = set()


class Hiding:
    """Another finder, to which the packages in ``hidden`` are not installed."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in hidden:
            return None
        return self.finder.find_spec(fullname, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)  # what else finders do, such as finding distributions


def call(run):
    if isinstance(run, str):
        exec(run, {})
        return 0
    from sightline.cli import main

    return main(run)


def child(case, out, err):
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    hidden.clear()
    hidden.update(case["missing"])
    importlib.invalidate_caches()
    try:
        code = call(case["run"])
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def result(case):
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = os.fork()
        if process == 0:
            child(case, out, err)
        _, status = os.waitpid(process, 0)
        out.seek(0)
        err.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "out": out.read(), "err": err.read()}


def main():
    told = json.load(sys.stdin)
    hidden.update(told["hide"])
    sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
    for module in BASE:
        importlib.import_module(module)
    sys.modules["torch"].set_num_threads(1)
    sys.modules["sightline.cli"].build_app()  # imports every verb, for all children
    print(json.dumps([result(case) for case in told["cases"]]))


if __name__ == "__main__":
    main()
