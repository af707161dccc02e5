"""Every error message of the source, with blanks for what it fills in: the list at the end of the troubleshooting page.

python tools/messages.py            # prints the list; `make docs` puts it into docs/messages.md
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src" / "sightline"
KINDS = ("InputError", "UnsupportedError", "ImageError", "NetworkError")
PLACE = "<!-- every message -->"
ROOMS = {
    "data": "Data sets and photos", "files.py": "Files", "models": "Networks and weights",
    "inspection": "Layers and heads",
    "engine.py": "The pass through the network", "targets": "Targets", "scores.py": "Scores", "methods": "Methods",
    "heatmap.py": "Heatmaps", "boxes.py": "Boxes", "metrics": "Metrics", "evaluation": "Evaluating",
    "batch": "Batch runs",
    "training": "Training and recipes", "export": "Exporting", "discovery": "Discovering", "app": "The web app",
    "reports": "Output folders and reports", "pictures": "Pictures", "explanation": "Explanations",
    "pipeline": "Explaining folders", "labels": "Labels", "labelling": "Labelling", "cli": "The command line",
}  # fmt: skip


@dataclass(frozen=True)
class Message:
    """One place that raises: the words, and what the code is about, by the nearest docstring."""

    room: str
    words: str
    about: str


def messages(source: Path = SOURCE) -> list[Message]:
    """All messages, each once, in the order of the source."""
    found: dict[str, Message] = {}
    for path in sorted(source.rglob("*.py")):
        room = path.relative_to(source).parts[0]
        for words, about in _of_file(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(words, Message(room, words, about))
    return list(found.values())


def _of_file(tree: ast.Module) -> Iterator[tuple[str, str]]:
    def walk(node: ast.AST, about: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
            first = (ast.get_docstring(node) or "").partition("\n\n")[0]
            about = " ".join(first.split()) or about
        if isinstance(node, ast.Call) and (words := _words(node)):
            yield words, about
        for child in ast.iter_child_nodes(node):
            yield from walk(child, about)

    yield from walk(tree, "")


def _words(call: ast.Call) -> str:
    """The message that a call makes; empty if it is no error of this package or has no words of its own."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name == "unknown" and call.args:
        return f"unknown {_text(call.args[0])} …"
    words = re.sub("…+", "…", _text(call.args[0])) if name in KINDS and call.args else ""
    return words if len(words.replace("…", "").split()) > 1 else ""


def _text(node: Any) -> str:
    """A string with … for what is filled in.

    >>> _text(ast.parse("f'{a} has ' + 'no image'").body[0].value)
    '… has no image'
    """
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
    return "…"


def listing(found: list[Message]) -> str:
    """Markdown: a section for each part of the package, a line for each message."""
    lines = []
    for title in [*ROOMS.values(), "Elsewhere"]:
        some = [one for one in found if ROOMS.get(one.room, "Elsewhere") == title]
        if some:
            lines += [f"## {title}", ""]
            lines += [f"- `{one.words.replace('`', chr(39))}`<br>{_safe(one.about)}" for one in some]
            lines.append("")
    return "\n".join(lines)


def _safe(about: str) -> str:
    return about.replace("<", "&lt;").replace("{", "&#123;").replace("``", "`")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs' hook: the list in the place of its mark."""
    return markdown.replace(PLACE, listing(messages())) if PLACE in markdown else markdown


if __name__ == "__main__":
    print(listing(messages()))
