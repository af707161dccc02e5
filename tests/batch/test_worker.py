"""One batch: its rows are those of `explain` on the photos themselves, and its heatmaps are theirs in 8 or 16 bits."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import sightline
from sightline.batch import places
from sightline.batch.decode import Prepared, prepare
from sightline.batch.overlays import overlay_name
from sightline.batch.places import Disk, ignores_case
from sightline.batch.worker import BatchOptions, explain_prepared, quantise, ready
from sightline.boxes import cutoffs
from sightline.data.items import Item
from sightline.errors import InputError
from sightline.models.loading import LoadedModel
from sightline.types import BoxRule


def _prepared(model: LoadedModel, photos: Path, view: str = "whole") -> Prepared:
    items = [Item(path.name, str(path)) for path in sorted(photos.iterdir())[:4]]
    assert model.preprocess is not None
    return prepare([*items[:2], Item("bad", "gone.png"), *items[2:]], model.preprocess, view)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "gradcam", "classes": "top2"},
        {"method": "layercam", "classes": ["b", "e"], "rule": BoxRule(0.6, select="all")},
        {"method": "cam", "rule": BoxRule(0.2, "percentile", "max", percentile=80.0), "view": "crop"},
    ],
)
def test_rows_and_heatmaps_are_those_of_explain_to_the_last_bit(
    model: LoadedModel, photos: Path, options: dict[str, Any]
) -> None:
    work = BatchOptions(**options, heatmap_bits=16, channels_last=False)
    batch = _prepared(model, photos, work.view)
    done = explain_prepared(ready(model, work), batch, work)
    assert [(item.id, reason) for item, reason in done.errors] == [
        ("bad", "no such file or folder: 'gone.png'")
    ]

    paths = [Path(item.file) for item in batch.items]
    expected = sightline.explain(model, paths, work.method, work.classes, view=work.view)
    rows = iter(done.rows.to_pylist())
    heatmaps = expected.heatmaps(normalise=work.rule.normalise, percentile=work.rule.percentile)
    cuts = cutoffs(heatmaps, work.rule)
    for i, predictions in enumerate(expected.predictions(work.rule)):
        for k, prediction in enumerate(predictions):
            row = next(rows)
            assert (row["image_id"], row["rank"]) == (paths[i].name, k)
            assert (row["class_index"], row["category"]) == (prediction.class_index, prediction.category)
            assert row["score"] == prediction.score
            assert row["boxes_xyxy"] == prediction.boxes_xyxy.tolist()
            assert row["threshold"] == float(cuts[i, k])
            geometry = expected.geometries[i]
            assert (row["photo_height"], row["photo_width"]) == geometry.photo_hw
            assert row["shown_xyxy"] == pytest.approx(geometry.shown_xyxy)
    assert next(rows, None) is None
    assert done.heatmaps is not None
    assert np.array_equal(done.heatmaps, quantise(heatmaps.flatten(0, 1), 16))
    assert np.abs(done.heatmaps / 65535 - heatmaps.flatten(0, 1).numpy()).max() <= 0.5 / 65535 + 1e-7


def test_channels_last_changes_no_more_than_rounding(model: LoadedModel, photos: Path) -> None:
    found = []
    for channels_last in (False, True):
        work = BatchOptions(channels_last=channels_last, heatmap_bits=16)
        found.append(explain_prepared(ready(model, work), _prepared(model, photos), work))
    plain, fast = found
    assert fast.heatmaps is not None
    assert plain.heatmaps is not None
    assert np.abs(plain.heatmaps.astype(int) - fast.heatmaps.astype(int)).max() <= 1
    assert fast.rows["score"].to_pylist() == pytest.approx(plain.rows["score"].to_pylist(), abs=1e-6)
    assert fast.rows["boxes_xyxy"] == plain.rows["boxes_xyxy"]


def test_another_thread_count_changes_no_more_than_rounding(model: LoadedModel, photos: Path) -> None:
    found, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(explain_prepared(model, _prepared(model, photos), BatchOptions(heatmap_bits=16)))
    torch.set_num_threads(before)
    one, two = found
    assert one.heatmaps is not None
    assert two.heatmaps is not None
    assert np.abs(one.heatmaps.astype(int) - two.heatmaps.astype(int)).max() <= 1  # a step is 1.5e-5
    assert one.rows["score"].to_pylist() == pytest.approx(two.rows["score"].to_pylist(), abs=1e-5)
    assert one.rows["boxes_xyxy"] == two.rows["boxes_xyxy"]


def test_heatmaps_may_be_left_out_or_kept_at_the_size_of_the_map(model: LoadedModel, photos: Path) -> None:
    batch = _prepared(model, photos)
    assert explain_prepared(model, batch, BatchOptions(heatmap_bits=0)).heatmaps is None
    small = torch.nn.Sequential(torch.nn.AvgPool2d(2), *model.network)
    pooled = sightline.load_model(small, categories=model.categories, transform=model.preprocess)
    kept = explain_prepared(pooled, batch, BatchOptions(heatmap_size="map", channels_last=False)).heatmaps
    expected = sightline.explain(pooled, batch.photos.images).heatmaps((8, 8))[:, 0]
    assert kept is not None
    assert np.array_equal(kept, (expected * 255).round().to(torch.uint8).numpy())


def test_a_batch_without_a_readable_image_has_no_rows(model: LoadedModel) -> None:
    assert model.preprocess is not None
    done = explain_prepared(
        model, prepare([Item("a", "gone.png")], model.preprocess, "whole"), BatchOptions()
    )
    assert (len(done.rows), done.heatmaps, len(done.errors)) == (0, None, 1)


def test_quantising_rounds_to_the_nearest_step() -> None:
    steps = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0])
    assert quantise(steps, 8).tolist() == [0, 0, 1, 255]
    assert quantise(steps, 16).tolist() == [0, 103, 154, 65535]  # 0.4 · 257 = 102.8, 0.6 · 257 = 154.2


def test_an_overlay_is_the_explanation_s_own(model: LoadedModel, photos: Path, tmp_path: Path) -> None:
    work, batch = BatchOptions(channels_last=False, rule=BoxRule(0.5)), _prepared(model, photos)
    explain_prepared(model, batch, work, Disk(tmp_path))
    expected = sightline.explain(model, Path(batch.items[2].file))
    name = overlay_name(batch.items[2].id, int(expected.classes[0, 0]))
    with PIL.Image.open(tmp_path / name) as picture:
        assert np.abs(np.asarray(picture, int) - np.asarray(expected.overlay(threshold=0.5), int)).max() <= 2
    assert len(list(tmp_path.iterdir())) == 4


def test_an_overlay_that_has_no_place_is_that_image_s_failure_and_the_others_are_done(
    model: LoadedModel, photos: Path, tmp_path: Path
) -> None:
    batch, work = _prepared(model, photos), BatchOptions(classes="top2", heatmap_bits=8)
    whole = explain_prepared(model, batch, work)
    first = whole.rows["class_index"][2].as_py()
    (tmp_path / overlay_name(batch.items[1].id, first)).mkdir()  # as the photos of another id would
    done = explain_prepared(model, batch, work, Disk(tmp_path))
    assert [item.id for item, _ in done.errors] == ["bad", batch.items[1].id]
    assert done.errors[1][1] == (f"the overlay of {batch.items[1].path} cannot be written: Is a directory")
    stays = [0, 1, *range(4, len(whole.rows))]
    assert done.rows.equals(whole.rows.take(stays))
    assert whole.heatmaps is not None
    assert done.heatmaps is not None
    assert np.array_equal(done.heatmaps, whole.heatmaps[stays])


def test_a_full_disk_is_no_failure_of_one_image(
    model: LoadedModel, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, write: Any, durable: bool) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(places, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        explain_prepared(model, _prepared(model, photos), BatchOptions(), Disk(tmp_path))


def test_ids_that_differ_in_case_have_overlays_of_their_own_where_case_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ["a.jpg", "A.jpg", "A.JPG", "n01/a.jpg", "N01/a.jpg", "a.jpg%~c88c8fcaab74"]
    names = [overlay_name(one, 3, caseless=True).lower() for one in ids]
    assert len(set(names)) == len(ids)
    assert not ignores_case(tmp_path) or os.name == "nt"
    ignores_case.cache_clear()
    monkeypatch.setattr(Path, "exists", lambda path: True)
    assert ignores_case(tmp_path)
    ignores_case.cache_clear()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heatmap_bits": 12}, "heatmap_bits=12; expected 0 .none., 8 or 16"),
        ({"heatmap_size": "large"}, "heatmap_size='large'; expected input or map"),
        ({"shard_size": 0}, "batch_size=32 and shard_size=0; expected 1 or more"),
    ],
)
def test_choices_that_do_not_exist_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BatchOptions(**options)
