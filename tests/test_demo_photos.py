"""The demo's photos are in the package, small, and with their licences."""

from __future__ import annotations

from PIL import Image

from sightline.demo_photos import NAMES, photo_path, photo_paths


def test_they_are_small_photos():
    for path in photo_paths():
        assert path.stat().st_size <= 120_000
        with Image.open(path) as photo:
            assert photo.format == "JPEG"
            assert photo.mode == "RGB"
            assert min(photo.size) >= 300


def test_each_has_its_licence():
    licences = (photo_path(NAMES[0]).parent / "LICENCES.txt").read_text()
    for name in NAMES:
        assert f"{name}.jpg" in licences
