"""Self-contained HTML: one file with its style, its pictures and a few lines of script; nothing is fetched."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

WIDEST = 1400  # pixels of a picture in a page


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def page(title: str, subtitle: str, sections: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A whole page: ``sections`` are (heading, blocks of HTML); those without a block are left out.

    >>> text = page("Report", "of a run", [("Numbers", [paragraph("one & two")]), ("Nothing", [])])
    >>> "one &amp; two" in text, "Nothing" in text, "http" in text
    (True, False, False)
    """
    body = "".join(
        f"<section><h2>{html.escape(heading)}</h2>\n{''.join(blocks)}</section>\n"
        for heading, blocks in sections
        if blocks
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_asset('page.css')}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{html.escape(title)}</h1>\n<p class="note">{html.escape(subtitle)}</p>\n{body}</main>\n'
        f"<script>{_asset('page.js')}</script>\n</body>\n</html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; ``kind``: "note", "bad" or "good"."""
    return f'<p class="{kind}">{html.escape(text)}</p>\n' if kind else f"<p>{html.escape(text)}</p>\n"


def bullets(lines: Sequence[str]) -> str:
    """A list of sentences."""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>\n" if lines else ""


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """A table that sorts at a click on a heading; columns of numbers are aligned to the right.

    >>> table(["class", "images"], [["<cat>", 3]]).count('class="n"'), "&lt;cat&gt;" in table(["a"], [["<cat>"]])
    (2, True)
    """
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    columns = [[row[place] for row in texts if row[place]] for place in range(len(headings))]
    numeric = [bool(column) and all(map(_is_number, column)) for column in columns]
    mark = [' class="n"' if one else "" for one in numeric]
    head = "".join(f"<th{m}>{html.escape(text)}</th>" for m, text in zip(mark, headings, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{m}>{html.escape(cell)}</td>' for m, cell in zip(mark, row, strict=True))}</tr>\n"
        for row in texts
    )
    under = f'<p class="note">{html.escape(caption)}</p>\n' if caption else ""
    return (
        f'<div class="wide" tabindex="0"><table class="sortable"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n{under}"
    )


def _is_number(text: str) -> bool:
    """Whether a cell is a number, perhaps with its interval; a sentence that begins with a number is not.

    >>> [_is_number(text) for text in ("39.4 [36.1, 42.7]", "0.2% of the heat is in the object", "−3", "")]
    [True, False, True, False]
    """
    if sum(letter.isalpha() for letter in text) > 5:
        return False
    first = text.split()[0].rstrip("%") if text.split() else ""
    try:
        float(first.replace(",", "").replace("−", "-"))
    except ValueError:
        return False
    return True


def facts(values: Mapping[str, Any]) -> str:
    """Names and values, nested ones by dotted names, as a table of two columns."""
    rows = [[name, value] for name, value in _flat(values)]
    return table(["", "value"], rows) if rows else ""


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            found.append((f"{before}{name}", text if len(text) <= 300 else f"{text[:300]} …"))
    return found


def numbers(values: Mapping[str, str]) -> str:
    """Large numbers with their names below, side by side."""
    cells = "".join(
        f"<li><b>{html.escape(value)}</b><span>{html.escape(name)}</span></li>"
        for name, value in values.items()
    )
    return f'<ul class="big">{cells}</ul>\n'


def picture(image: PIL.Image.Image, alternative: str, caption: str = "") -> str:
    """A picture inside the page, at most 1,400 pixels wide; ``alternative`` is read to those who cannot see it."""
    if image.width > WIDEST:
        image = image.resize((WIDEST, max(round(image.height * WIDEST / image.width), 1)))
    file = io.BytesIO()
    plain = image.convert("RGB")
    plain.save(file, format="JPEG", quality=88)
    under = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<figure><img width="{plain.width}" height="{plain.height}" alt="{html.escape(alternative, quote=True)}" '
        f'src="data:image/jpeg;base64,{data}">{under}</figure>\n'
    )


def markdown(text: str) -> str:
    """The few forms of Markdown that our table.md has: headings, lists, tables; everything else is text.

    >>> markdown("# A\\n\\n- one\\n\\n| a |\\n| --- |\\n| 1 |\\n").count("<tr>")
    2
    """
    found: list[str] = []
    for block in text.split("\n\n"):
        lines = [line for line in block.strip("\n").split("\n") if line]
        if not lines:
            continue
        if lines[0].startswith("#"):
            found.append(f"<h2>{html.escape(lines[0].lstrip('# '))}</h2>\n")
            lines = lines[1:]
        if lines and all(line.startswith("|") for line in lines):
            cells = [_cells(line) for line in lines]
            found.append(table(cells[0], [row for row in cells[2:] if len(row) == len(cells[0])]))
        elif lines and all(line.startswith("- ") for line in lines):
            found.append(bullets([line[2:] for line in lines]))
        elif lines:
            found.append(paragraph(" ".join(lines)))
    return "".join(found)


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|").replace("\\|", "\0")
    return [cell.strip().replace("\0", "|") for cell in inner.split("|")]
