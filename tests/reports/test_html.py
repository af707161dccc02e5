"""One file, nothing fetched, and everything in it that the folder holds."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import PIL.Image
import pytest

from sightline.errors import InputError
from sightline.reports import html
from sightline.reports.folder_report import folder_report


class Page(HTMLParser):
    """The tags, the text and the addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.alternatives: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        self.alternatives += [found["alt"]] if "alt" in found else []

    def handle_data(self, data):
        self.text += data


def checked(text: str) -> Page:
    """The page; it fetches nothing, and every picture has a text."""
    page = Page(text)
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(page.alternatives) == page.tags.count("img")
    assert all(page.alternatives)
    assert 'name="viewport"' in text
    for needed in ("prefers-color-scheme:dark", "@media print"):
        assert needed in text
    return page


def test_text_stays_text() -> None:
    hostile = '<script>alert("x")</script>'
    page = html.page(hostile, hostile, [(hostile, [html.table([hostile], [[hostile]], hostile)])])
    assert page.count("<script>") == 1  # our own
    assert "&lt;script&gt;" in page


def test_tables_sort_numbers_as_numbers() -> None:
    text = html.table(["class", "share", "box"], [["cat", "5.0 [4.1, 6.0]", ""], ["dog", "10.5 %", None]])
    assert text.count('<th class="n">') == 1
    assert 'class="sortable"' in text
    script = html.page("a", "b", [("c", [text])])
    assert "aria-sort" in script


def test_the_markdown_of_our_tables() -> None:
    text = "# Title\n\n- one\n- two\n\n| a \\| b | c |\n| --- | --- |\n| x | 1.5 |\n\n## More\n\nWords."
    page = Page(html.markdown(text))
    assert page.tags.count("li") == 2
    assert page.tags.count("td") == 2
    assert "a | b" in page.text


@pytest.fixture
def folder(tmp_path):
    def make(kind, manifest=None, **texts):
        root = tmp_path / kind
        root.mkdir()
        for name, text in texts.items():
            (root / name.replace("__", ".")).write_text(text)
        about = {
            "kind": kind,
            "created": "2026-01-01",
            "versions": {"torch": "2.6"},
            "options": {"a": {"b": 1}},
        }
        (root / "manifest.json").write_text(json.dumps({**about, **(manifest or {})}))
        return root

    return make


def test_explain(folder) -> None:
    result = {"method": "cam", "category": "tabby", "score": 0.5, "boxes_xyxy": [[1, 2, 3, 4]]}
    root = folder("explain", {"images": [{"path": "p/cat.jpg", "panel": "cat.png", "results": [result]}]})
    PIL.Image.new("RGB", (2000, 10)).save(root / "cat.png")
    page = checked(folder_report(root))
    assert page.alternatives == ["cat.jpg: where the network looks for tabby"]
    for text in ("50.0 %", "1 2 3 4", "a.b", "torch"):
        assert text in page.text
    assert 'width="1400"' in folder_report(root)


def test_evaluate_and_discover(folder) -> None:
    root = folder(
        "evaluate", table__md="# T\n\n| method | score |\n| --- | --- |\n| cam | 5 |\n", table__csv="a\n1\n"
    )
    PIL.Image.new("RGB", (9, 9)).save(root / "contact_sheet_01.png")
    (root / "per_class.csv").write_text("category,images\ntabby,3\n")
    page = checked(folder_report(root))
    assert page.alternatives == ["contact sheet 01"]
    assert page.tags.count("table") == 4  # the results, per class, options, run
    assert "tabby" in page.text


def test_train(folder) -> None:
    root = folder("train", log__csv="epoch,loss,accuracy\n0,2.0,0.5\n1,1.0,\n")
    page = checked(folder_report(root))
    assert page.alternatives == ["loss by epoch: from 2 to 1", "accuracy by epoch: from 0.5 to 0.5"]


def test_batch(folder) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    root = folder("batch", {"images": 1, "errors": 0})
    (root / "results").mkdir()
    parquet.write_table(
        pyarrow.table({"id": ["a"], "score": [0.123456], "heatmap": [b"x"]}), root / "results" / "0.parquet"
    )
    page = checked(folder_report(root))
    assert "0.1235" in page.text
    assert "heatmap" not in page.text


def test_what_could_not_be_read(folder) -> None:
    root = folder(
        "labels", {"errors": [{"path": "a", "error": "a is <no> image"}], "skipped": {"b": "no box"}}
    )
    page = checked(folder_report(root))
    assert "a is <no> image" in page.text
    assert "b: no box" in page.text


def test_a_broken_picture_is_said(folder) -> None:
    root = folder("evaluate")
    (root / "curve.png").write_bytes(b"no")
    assert "curve.png cannot be read" in checked(folder_report(root)).text


def test_a_folder_without_results_is_one_line(tmp_path) -> None:
    with pytest.raises(InputError, match="holds no results"):
        folder_report(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        folder_report(tmp_path / "gone")
