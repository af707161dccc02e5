"""`sightline boxes`, `masks` and `label-studio`, as a user runs them."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from sightline.labels.files import BOX_FORMATS, MASK_FORMATS

FAST = ["--method", "cam"]


@pytest.mark.parametrize("format", BOX_FORMATS)
def test_boxes_in_every_format(format: str, sightline: Any, photos: Any, model: Any, tmp_path: Any) -> None:
    done = sightline("boxes", photos, *model, *FAST, "--format", format, "--out", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert "boxes in 3 photos" in done.out or "box in 3 photos" in done.out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["kind"] == "labels"
    assert all((tmp_path / "out" / name).is_file() for name in manifest["files"])


@pytest.mark.parametrize("format", MASK_FORMATS)
def test_masks_in_every_format(format: str, sightline: Any, photos: Any, model: Any, tmp_path: Any) -> None:
    done = sightline("masks", photos, *model, *FAST, "--format", format, "--json", "--out", tmp_path)
    assert done.code == 0
    assert json.loads(done.out)["options"]["masks"] is True


def test_each_verb_has_its_formats(sightline: Any, photos: Any, model: Any, tmp_path: Any) -> None:
    done = sightline("boxes", photos, *model, "--format", "voc-png", "--out", tmp_path / "out")
    assert done.code == 2
    assert done.err.startswith("sightline: unknown format 'voc-png'")
    assert not (tmp_path / "out").exists()


def test_a_bad_photo_is_listed(sightline: Any, photos: Any, model: Any, tmp_path: Any) -> None:
    (photos / "bad.png").write_bytes(b"no")
    done = sightline("boxes", photos, *model, *FAST, "--out", tmp_path / "out")
    assert done.code == 3
    assert "1 of 4 images could not be read" in done.err


def test_the_backend_says_its_process_and_stops(
    sightline: Any, photos: Any, model: Any, monkeypatch: Any
) -> None:
    from sightline.labelling import backend

    monkeypatch.setattr("signal.signal", lambda *_: None)

    def stop_at_once(self: Any, *_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backend.ThreadingHTTPServer, "serve_forever", stop_at_once)
    done = sightline("label-studio", photos, *model, "--port", 0)
    assert done.code == 0
    assert done.out.startswith("listening on http://127.0.0.1:")
    assert threading.active_count() >= 1
    assert sightline("label-studio", photos / "a.png", *model, "--port", 0).code == 2


@pytest.mark.parametrize("name", ["dog", "\udcff"])
def test_a_class_that_does_not_exist_leaves_no_folder_behind(
    sightline: Any, photos: Any, model: Any, tmp_path: Any, name: str
) -> None:
    result = sightline("boxes", photos, *model, "--classes", name, "--out", tmp_path / "out")
    assert result.code == 2
    assert result.err.startswith("sightline: unknown class ")
    assert not (tmp_path / "out").exists()
    assert sightline("boxes", photos, *model, "--classes", "boxer", "--out", tmp_path / "out").code == 0
