"""What is listed of folders, patterns, lists and tars, and what is said of those that are damaged."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sightline.batch.listing import digest, items_of, read_items, tar_items
from sightline.data.items import Item, expand_paths
from sightline.errors import ImageError, InputError


def _ids(*arguments: object) -> list[str]:
    return [item.id for item in items_of(read_items([str(argument) for argument in arguments]))]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """x/a.jpg, x/b.PNG, y/a.jpg, and what is no image."""
    for name in ("x/a.jpg", "x/b.PNG", "y/a.jpg", "x/notes.txt", "x/.hidden.jpg"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "tree"


@pytest.fixture
def tar(tmp_path: Path, tree: Path) -> Path:
    """The three images and a text file, in this order."""
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("x/a.jpg", "x/notes.txt", "x/b.PNG", "y/a.jpg"):
            archive.add(tree / name, name)
    return path


def test_a_folder_gives_its_images_sorted_by_their_path_below_it(tree: Path) -> None:
    assert _ids(tree) == ["x/a.jpg", "x/b.PNG", "y/a.jpg"]
    assert [item.path for item in items_of(read_items([str(tree)]))][2] == str(tree / "y/a.jpg")


def test_patterns_files_and_urls_give_the_same_files(tree: Path) -> None:
    assert _ids(tree / "x" / "*") == ["a.jpg", "b.PNG"]
    assert _ids(tree / "x" / "notes.txt") == ["notes.txt"]  # a file is taken whatever its name
    assert _ids(f"file://{tree}") == ["x/a.jpg", "x/b.PNG", "y/a.jpg"]
    assert _ids(f"file://{tree}/x/*.jpg") == ["a.jpg"]
    (item,) = items_of(read_items([f"file://{tree}/y/a.jpg"]))
    assert (item.id, item.file, item.read()) == ("a.jpg", f"file://{tree}/y/a.jpg", b"y/a.jpg")


def test_two_of_one_name_get_their_whole_paths_and_two_of_one_path_are_refused(tree: Path) -> None:
    assert _ids(tree / "x" / "a.jpg", tree / "y") == [str(tree / "x/a.jpg"), str(tree / "y/a.jpg")]
    with pytest.raises(InputError, match=r"a\.jpg' is listed twice; expected each image once"):
        read_items([str(tree), str(tree / "x" / "a.jpg")])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_list_is_read_relative_to_itself_with_or_without_ids(tree: Path, kind: str) -> None:
    def write(columns: dict[str, list[str]]) -> Path:
        path = tree / f"list.{kind}"
        if kind == "csv":
            rows = [list(columns), *zip(*columns.values(), strict=True)]
            path.write_text("".join(",".join(row) + "\n" for row in rows))
        else:
            pq.write_table(pa.table(columns), path)
        return path

    path = write({"path": ["x/a.jpg", str(tree / "y/a.jpg")], "other": ["1", "2"]})
    assert [tuple(item)[:2] for item in items_of(read_items([str(path)]))] == [
        ("x/a.jpg", str(tree / "x/a.jpg")),
        (str(tree / "y/a.jpg"), str(tree / "y/a.jpg")),
    ]
    assert _ids(write({"id": ["007", "8"], "file": ["x/a.jpg", "y/a.jpg"]})) == ["007", "8"]
    with pytest.raises(InputError, match=r"row 2 has no path"):
        read_items([str(write({"path": ["x/a.jpg", ""], "id": ["1", "2"]}))])
    with pytest.raises(
        InputError, match=r"unknown columns 'paths'; did you mean 'path'\?.*needs one column `path`"
    ):
        read_items([str(write({"paths": ["x/a.jpg"]}))])


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"bad\.parquet cannot be read: .*expected a list of images"):
        read_items([str(tmp_path / "bad.parquet")])
    with pytest.raises(InputError, match=r"no such file or folder: .*gone\.csv"):
        read_items([str(tmp_path / "gone.csv")])


def test_members_of_a_tar_are_read_at_their_place(tar: Path) -> None:
    items = list(items_of(read_items([str(tar)])))
    assert [item.id for item in items] == ["shard.tar/x/a.jpg", "shard.tar/x/b.PNG", "shard.tar/y/a.jpg"]
    assert [item.read() for item in items] == [b"x/a.jpg", b"x/b.PNG", b"y/a.jpg"]
    assert items[1].path == f"{tar}!x/b.PNG"
    assert _ids(tar.parent / "*.tar") == [item.id for item in items]


# Each of the four members is a header of 512 bytes and a block of 512; two blocks of zeros end the archive.
@pytest.mark.parametrize(
    ("length", "whole", "lost"),
    [
        (4 * 1024, 3, "y/a.jpg: it has no end mark"),  # at the end of a member
        (3 * 1024 + 100, 2, "x/b.PNG: it has no end mark"),  # in a header
        (3 * 1024 + 515, 2, "y/a.jpg: unexpected end of data"),  # in the bytes of an image
    ],
)
def test_of_a_cut_tar_the_whole_members_are_read_and_the_cut_is_told(
    tar: Path, length: int, whole: int, lost: str
) -> None:
    tar.write_bytes(tar.read_bytes()[:length])
    items = list(tar_items(str(tar)))
    good = [item for item in items if item.fault is None]
    assert [item.read() for item in good] == [b"x/a.jpg", b"x/b.PNG", b"y/a.jpg"][:whole]
    with pytest.raises(ImageError, match=f"shard.tar is cut off after {lost}"):
        items[-1].read()
    assert items[-1].id == "shard.tar"
    if length == 3 * 1024 + 515:
        assert items[-2].fault == f"{tar}!y/a.jpg is cut off with its tar"
    assert len(items) == whole + 1 + (length == 3 * 1024 + 515)


def test_what_is_no_plain_tar_is_refused(tar: Path) -> None:
    zipped = tar.with_suffix(".tar.gz")
    zipped.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(InputError, match=r"compressed tar.*decompress it to \.tar"):
        read_items([str(zipped)])
    tar.write_bytes(gzip.compress(b"no tar at all"))
    with pytest.raises(InputError, match=r"shard\.tar is not an uncompressed tar"):
        read_items([str(tar)])


def test_what_is_not_there_is_told(tree: Path) -> None:
    with pytest.raises(InputError, match="no images given"):
        read_items([])
    with pytest.raises(InputError, match="holds no image"):
        read_items([str(tree / "*.gif")])
    with pytest.raises(InputError, match=r"no file matches"):
        read_items([str(tree / "*.tar")])
    with pytest.raises(ImageError, match=r"no such file: 'memory://gone\.jpg'"):
        Item("a", "memory://gone.jpg").read()
    with pytest.raises(InputError, match="unheard://x cannot be listed: Protocol not known"):
        read_items(["unheard://x"])


def test_the_digest_tells_listings_apart(tree: Path) -> None:
    assert digest(read_items([str(tree)])) == digest(read_items([str(tree)]))
    assert digest(read_items([str(tree)])) != digest(read_items([str(tree / "x")]))


def test_an_empty_path_is_not_the_current_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unset variable of a shell, as in ``sightline explain "$PHOTO"``."""
    monkeypatch.chdir(tree)
    assert len(expand_paths(["."])) == len(_ids(".")) == 3
    for listed in (expand_paths, read_items):
        with pytest.raises(InputError, match=r"a path is empty; expected a file, a folder or a pattern"):
            listed([""])
