"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import PIL.Image
import pytest
import torch

from sightline.report import as_json, save_manifest, save_picture, versions, write_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_atomically(tmp_path / "a.txt", "old")

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as half:
            half.write(data[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_very_long_names_can_be_written(tmp_path: Path) -> None:
    name = "x" * 250 + ".png"
    assert save_picture(PIL.Image.new("RGB", (2, 2)), tmp_path / name).name == name


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPG"])
def test_pictures_are_written_in_the_format_of_their_suffix(tmp_path: Path, suffix: str) -> None:
    path = save_picture(PIL.Image.new("RGB", (3, 2), "red"), tmp_path / f"p{suffix}")
    with PIL.Image.open(path) as image:
        assert (image.size, image.format) == ((3, 2), "PNG" if suffix == ".png" else "JPEG")


def test_manifest_is_strict_json(tmp_path: Path) -> None:
    path = save_manifest(tmp_path, {"path": Path("a/b"), "boxes": torch.ones(1, 4), "name": "é"})
    assert path.read_text().endswith("}\n")
    assert json.loads(path.read_text()) == {"path": "a/b", "boxes": [[1.0] * 4], "name": "é"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"score": float("nan")})


def test_versions_are_those_that_run() -> None:
    assert versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert versions()["pillow"] == PIL.__version__
