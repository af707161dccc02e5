"""`sightline explain` on the batch road: when it is taken, what is said, exit codes, a full disk."""

from __future__ import annotations

import json
import multiprocessing
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import toybatch


@pytest.fixture
def explain(sightline: Any, model: list[object], tmp_path: Path) -> Any:
    """``explain`` with the small model, into tmp_path/out, decoding in this process."""
    return lambda *arguments: sightline("explain", *model, "--out", tmp_path / "out", *arguments)


LOCAL = ("--engine", "local", "--workers", 0)


def test_an_engine_makes_shards_of_what_the_panels_show(explain: Any, photos: Path, tmp_path: Path) -> None:
    assert explain(photos, "--classes", "top2").code == 0
    panels = json.loads((tmp_path / "out" / "manifest.json").read_text())
    result = explain(
        photos, "--classes", "top2", *LOCAL, "--out", tmp_path / "road", "--contiguous", "--batch-size", 8
    )
    assert (result.code, result.err) == (0, "")
    assert result.out == f"3 images, 6 rows in 1 shard: {tmp_path / 'road' / 'results'}\n"
    table = pd.read_parquet(tmp_path / "road" / "results")
    shown = [(r["category"], r["score"], r["boxes_xyxy"]) for i in panels["images"] for r in i["results"]]
    for (category, score, boxes), row in zip(shown, table.itertuples(), strict=True):
        assert row.category == category
        assert row.score == pytest.approx(score, abs=1e-6)
        assert [list(box) for box in row.boxes_xyxy] == [pytest.approx(box, abs=0.01) for box in boxes]
    assert not list((tmp_path / "road").glob("*.png"))


def test_a_list_or_a_tar_takes_the_batch_road_by_itself(explain: Any, photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "some.tar", "w") as archive:
        archive.add(photos / "a.png", "a.png")
    (tmp_path / "list.csv").write_text("path\nphotos/b.jpg\n")
    result = explain(
        tmp_path / "some.tar",
        tmp_path / "list.csv",
        "--workers",
        0,
        "--heatmap-bits",
        16,
        "--overlays",
        "--json",
    )
    assert result.code == 0
    manifest = json.loads(result.out)
    assert (manifest["images"], manifest["options"]["heatmap_bits"], manifest["engine"]["name"]) == (
        2,
        16,
        "local",
    )
    table = pd.read_parquet(tmp_path / "out" / "results")
    assert table.image_id.tolist() == ["some.tar/a.png", "photos/b.jpg"]
    overlays = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png"))
    by_id = dict(zip(table.image_id, table.class_index, strict=True))
    assert overlays == sorted(f"overlays/{image}_{index}.png" for image, index in by_id.items())


def test_a_bad_image_is_told_and_the_code_is_3_or_2_where_all_are_bad(
    explain: Any, photos: Path, tmp_path: Path
) -> None:
    (photos / "bad.jpg").write_bytes(b"no image")
    result = explain(photos, *LOCAL)
    assert result.code == 3
    assert result.err == (
        "sightline: 1 of 4 images could not be read:\n"
        f"  {photos / 'bad.jpg'} is not an image of a known format, whatever its name says\n"
    )
    again = explain(photos, *LOCAL)
    assert (again.code, again.out, again.err) == (3, result.out, result.err)
    assert explain(photos / "bad.jpg", *LOCAL, "--out", tmp_path / "none").code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "rai"], "unknown engine 'rai'; did you mean 'ray'?"),
        (
            ["--overlays", "--shard-size", 5],
            "--overlays, --shard-size belongs to the batch road; add --engine local",
        ),
        ([*LOCAL, "-x"], "No such option"),
        ([*LOCAL, "--address", "auto"], "--address belongs to --engine ray"),
        (
            [*LOCAL, "--method", "cam", "--method", "gradcam"],
            "takes one --method; got cam, gradcam",
        ),
        ([*LOCAL, "--heatmap-bits", 4], "heatmap_bits=4; expected 0 (none), 8 or 16"),
        ([*LOCAL, "--heatmap-size", "big"], "heatmap_size='big'; expected input or map"),
    ],
)
def test_mistakes_are_told_in_one_line(
    explain: Any, photos: Path, arguments: list[object], message: str
) -> None:
    result = explain(photos, *arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_another_run_s_folder_is_refused_in_one_line(explain: Any, photos: Path, tmp_path: Path) -> None:
    assert explain(photos, *LOCAL).code == 0
    result = explain(photos, *LOCAL, "--view", "crop")
    assert result.code == 2
    assert result.err == (
        f"sightline: {tmp_path / 'out'} holds another run: view is 'whole' there and 'crop' here; "
        "give another --out, or the same options\n"
    )


def test_panels_are_not_laid_over_a_batch_run(explain: Any, photos: Path, tmp_path: Path) -> None:
    assert explain(photos, *LOCAL).code == 0
    result = explain(photos)
    assert result.code == 2
    assert "holds a batch run; give another --out, or --engine to go on with it" in result.err
    assert explain(photos, *LOCAL).code == 0


def test_a_full_disk_is_told_in_one_line_and_the_run_goes_on_later(
    explain: Any, model: list[object], photos: Path, tmp_path: Path
) -> None:
    out, report = tmp_path / "out", tmp_path / "report.txt"
    arguments = [
        "explain",
        str(photos),
        *map(str, model),
        "--out",
        str(out),
        "--engine",
        "local",
        "--workers",
        "0",
    ]
    process = multiprocessing.get_context("spawn").Process(
        target=toybatch.main_with_full_disk, args=(100_000, [*arguments, "--shard-size", "1"], report)
    )
    process.start()  # heatmaps of 224 × 224 bytes fit below the limit, those of 16 bits would not
    process.join()
    assert report.read_text().splitlines()[-1] == "0"
    (out / "results" / "part-00001.parquet").unlink()
    process = multiprocessing.get_context("spawn").Process(
        target=toybatch.main_with_full_disk, args=(20_000, [*arguments, "--shard-size", "1"], report)
    )
    process.start()
    process.join()
    assert report.read_text().splitlines() == ["sightline: File too large", "2"]
    assert [path.name for path in sorted(out.rglob(".*part"))] == []
    assert explain(photos, *LOCAL, "--shard-size", 1).code == 0
    assert pd.read_parquet(out / "results").image_id.tolist() == ["a.png", "b.jpg", "c.png"]
