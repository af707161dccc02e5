"""GAP features: their values, the cache that goes on where a run stopped, files, and mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from colournet import PLAIN, patch, random_photos
from sightline.discovery import cache as cache_module
from sightline.discovery.features import FeatureExtractor, extract_features, load_features
from sightline.errors import InputError, UnsupportedError
from sightline.models.loading import LoadedModel, load_model
from sightline.types import Sample


def test_values_by_hand(colours: LoadedModel) -> None:
    """A quarter of the photo in (255, 51, 0): the means of its channels are 1/4, 0.05 and 0."""
    found = extract_features(colours, [patch((255, 51, 0), (0, 0, 4, 4)), patch((0, 0, 255))], progress=False)
    np.testing.assert_allclose(found.values, [[0.25, 0.05, 0], [0, 0, 1]], atol=1e-7)
    assert found.values.dtype == np.float32


def test_they_are_the_heads_input() -> None:
    """W·f + b is the network's own score, where the head is linear after average pooling."""
    transform = replace(PLAIN, input_hw=(40, 40))
    model = load_model("small-gap", weights="none", categories=list("abc"), transform=transform)
    photos = random_photos(3)
    found = extract_features(model, photos, batch_size=2, progress=False)
    images = torch.stack([transform.prepare(photo)[0] for photo in photos])
    expected = model(images).detach().numpy()
    weight, bias = (p.detach().numpy() for p in model.network.fc.parameters())
    np.testing.assert_allclose(found.values @ weight.T + bias, expected, rtol=1e-4, atol=1e-5)


def test_a_box_is_cut_out_first(colours: LoadedModel) -> None:
    photo = patch((255, 51, 0), (0, 0, 4, 4))
    boxes = [torch.tensor([0.4, 0.0, 3.7, 20.0]), None]  # outwards to (0, 0, 4, 8): half of it is the patch
    found = extract_features(colours, [photo, photo], boxes=boxes, progress=False)
    np.testing.assert_allclose(found.values, [[0.5, 0.1, 0], [0.25, 0.05, 0]], atol=1e-6)


def _counting(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """The numbers of photos that the network is really shown; it is interrupted after so many of them."""
    shown: list[int] = []
    features = FeatureExtractor.features

    def counted(self: FeatureExtractor, photos: list[PIL.Image.Image]) -> Any:
        if stop_after is not None and sum(shown) >= stop_after:
            raise KeyboardInterrupt
        shown.append(len(photos))
        return features(self, photos)

    monkeypatch.setattr(FeatureExtractor, "features", counted)
    return shown


def test_a_second_run_computes_what_is_missing(
    colours: LoadedModel, folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = folder([patch((10 * n, 0, 0), (0, 0, 4, 4)) for n in range(1, 7)])
    shown = _counting(monkeypatch)
    options: dict[str, Any] = {"cache": tmp_path / "cache", "progress": False, "batch_size": 4}
    first = extract_features(colours, paths[:4], **options)
    assert sum(shown) == 4
    again = extract_features(colours, paths, **options)
    assert sum(shown) == 6
    np.testing.assert_array_equal(again.values[:4], first.values)
    np.testing.assert_allclose(again.values[:, 0], [n / 102 for n in range(1, 7)], atol=1e-6)
    extract_features(colours, [*paths, paths[0]], **options)
    assert sum(shown) == 6


@pytest.mark.parametrize("rows", [1, 512])
def test_ctrl_c_leaves_what_was_done(
    colours: LoadedModel, folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    paths = folder([patch((10 * n, 0, 0), (0, 0, 4, 4)) for n in range(1, 7)])
    monkeypatch.setattr(cache_module, "ROWS", rows)
    options: dict[str, Any] = {"cache": tmp_path / "cache", "progress": False, "batch_size": 2}
    with monkeypatch.context() as patched:
        _counting(patched, stop_after=4)
        with pytest.raises(KeyboardInterrupt):
            extract_features(colours, paths, **options)
    (made,) = (tmp_path / "cache").iterdir()
    (made / ".shard-killed.npy.123.part").write_bytes(b"half of a sh")  # what a kill leaves behind
    shown = _counting(monkeypatch)
    assert len(extract_features(colours, paths, **options)) == 6
    assert sum(shown) == 2


def test_the_cache_knows_what_a_feature_depends_on(
    colours: LoadedModel, folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = folder([patch((100, 0, 0), (0, 0, 4, 4))])
    options: dict[str, Any] = {"cache": tmp_path / "cache", "progress": False}
    values = [extract_features(colours, [path], **options).values]
    values.append(extract_features(colours, [path], boxes=[torch.tensor([0.0, 0, 4, 4])], **options).values)
    patch((50, 0, 0), (0, 0, 4, 4)).save(path)  # other pixels under the same name
    values.append(extract_features(colours, [path], **options).values)
    colours.network.conv.weight.data *= 2
    values.append(extract_features(colours, [path], **options).values)
    brighter = LoadedModel(colours.network, "colours", None, replace(PLAIN, std=(0.5,) * 3))
    values.append(extract_features(brighter, [path], **options).values)
    np.testing.assert_allclose(
        [v[0, 0] for v in values], [25 / 255, 100 / 255, 12.5 / 255, 25 / 255, 50 / 255], atol=1e-6
    )


def test_one_bad_image_is_named_and_the_others_done(
    colours: LoadedModel, folder: Any, tmp_path: Path
) -> None:
    paths = folder([patch((255, 0, 0)), patch((0, 255, 0)), patch((0, 0, 255))])
    paths[1].write_bytes(b"no image")
    found = extract_features(colours, [*paths, tmp_path / "absent.png"], progress=False)
    assert found.ids == (str(paths[0]), str(paths[2]))
    assert found.rows.tolist() == [0, 2]
    assert found.of(["a", "b", "c", "d"]) == ["a", "c"]
    assert list(found.errors) == [str(paths[1]), str(tmp_path / "absent.png")]
    np.testing.assert_allclose(found.values, [[1, 0, 0], [0, 0, 1]], atol=1e-6)
    with pytest.raises(
        InputError, match=r"none of the 1 images can be read; first error: .*1\.png is not an image"
    ):
        extract_features(colours, [paths[1]], progress=False)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_files(colours: LoadedModel, tmp_path: Path, suffix: str) -> None:
    samples = [Sample("één", patch((255, 0, 0))), Sample("b", patch((0, 51, 0)))]  # type: ignore[arg-type]
    found = extract_features(colours, samples, progress=False)
    path = found.save(tmp_path / f"f.{suffix}", category=["x", "y"])
    back = load_features(path)
    assert (back.ids, back.key) == (("één", "b"), found.key)
    np.testing.assert_array_equal(back.values, found.values)
    if suffix == "parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
        assert table.column_names == ["id", "features", "category"]
        assert table["features"][0].as_py() == [1.0, 0.0, 0.0]
        assert table["category"].to_pylist() == ["x", "y"]


def test_mistakes(colours: LoadedModel, tmp_path: Path) -> None:
    photo = patch((255, 0, 0))
    with pytest.raises(InputError, match="no images to extract features from"):
        extract_features(colours, [])
    with pytest.raises(InputError, match="2 boxes for 1 images"):
        extract_features(colours, [photo], boxes=torch.zeros(2, 4))
    with pytest.raises(InputError, match=r"no area inside the photo of 8×8"):
        extract_features(colours, [photo], boxes=[torch.tensor([9.0, 0, 12, 4])], progress=False)
    with pytest.raises(InputError, match=r"saved as \.parquet or \.npz"):
        extract_features(colours, [photo], progress=False).save(tmp_path / "f.csv")
    (tmp_path / "f.npz").write_bytes(b"nothing")
    with pytest.raises(
        InputError, match=r"f\.npz cannot be read: .+; expected a feature file written by sightline"
    ):
        load_features(tmp_path / "f.npz")
    flat = LoadedModel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)), "flat", None, PLAIN)
    with pytest.raises(UnsupportedError, match="no target layer was found"):
        extract_features(flat, [photo])
    file = tmp_path / "cache"
    file.write_text("a file")
    with pytest.raises(InputError, match=r"cache .* is a file"):
        extract_features(colours, [photo], cache=file)


def test_a_damaged_shard_is_named(colours: LoadedModel, tmp_path: Path) -> None:
    options: dict[str, Any] = {"cache": tmp_path, "progress": False}
    extract_features(colours, [patch((255, 0, 0))], **options)
    (shard,) = tmp_path.glob("*/shard-*.npy")
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(InputError, match=rf"{shard.name} is damaged or not a shard .*delete it"):
        extract_features(colours, [PIL.Image.new("RGB", (8, 8))], **options)
