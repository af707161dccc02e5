"""`sightline batch`, and `sightline explain` where it stands for it: what is said, exit codes, a full disk."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

import toybatch


@pytest.fixture
def explain(sightline: Any, model: list[object], tmp_path: Path) -> Any:
    """``explain`` with the small model, into tmp_path/out, decoding in this process."""
    return lambda *arguments: sightline("explain", *model, "--out", tmp_path / "out", *arguments)


@pytest.fixture
def batch(sightline: Any, model: list[object], tmp_path: Path) -> Any:
    """``batch`` with the small model, into tmp_path/out, decoding in this process."""
    return lambda *arguments: sightline(
        "batch", *model, "--out", tmp_path / "out", "--workers", 0, *arguments
    )


LOCAL = ("--engine", "local", "--workers", 0)
OLD = "sightline: warning: `sightline explain` {} is now `sightline batch`\n"


def test_batch_makes_shards_of_what_the_panels_show(
    explain: Any, batch: Any, photos: Path, tmp_path: Path
) -> None:
    assert explain(photos, "--classes", "top2").code == 0
    panels = json.loads((tmp_path / "out" / "manifest.json").read_text())
    result = batch(photos, "--classes", "top2", "--out", tmp_path / "road", "--contiguous", "--batch-size", 8)
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        f"model: squeezenet1_1, 4 classes\n3 images, 6 rows in 1 shard: {tmp_path / 'road' / 'results'}\n"
    )
    table = pd.read_parquet(tmp_path / "road" / "results")
    shown = [(r["category"], r["score"], r["boxes_xyxy"]) for i in panels["images"] for r in i["results"]]
    for (category, score, boxes), row in zip(shown, table.itertuples(), strict=True):
        assert row.category == category
        assert row.score == pytest.approx(score, abs=1e-6)
        assert [list(box) for box in row.boxes_xyxy] == [pytest.approx(box, abs=0.01) for box in boxes]
    assert not list((tmp_path / "road").glob("*.png"))


class Bucket(MemoryFileSystem):  # type: ignore[misc]
    """A store in memory that is called gs."""

    protocol, store, pseudo_dirs = "gs", {}, [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.removeprefix("gs://")))


@pytest.fixture
def bucket() -> Iterator[str]:
    fsspec.register_implementation("gs", Bucket, clobber=True)
    yield "gs://bucket"
    _registry.pop("gs")
    Bucket.store.clear()


def test_results_in_an_object_store(batch: Any, photos: Path, tmp_path: Path, bucket: str) -> None:
    (photos / "broken.png").write_bytes(b"text")
    for _ in range(2):  # the second finds all of it done
        result = batch(photos, "--overlays", "--out", f"{bucket}/run")
        assert result.code == 3
        assert result.out.endswith("3 images, 3 rows in 1 shard: gs://bucket/run/results\n")
        assert result.err.startswith("sightline: 1 of 4 images could not be read:\n")
    result = batch(photos, "--view", "crop", "--out", f"{bucket}/run")
    assert result.code == 2
    assert result.err.startswith("sightline: gs://bucket/run holds another run: view is 'whole' there")
    result = batch(photos, "--out", "ftp://host/run")
    assert result.code == 2
    assert result.err.startswith("sightline: 'ftp://host/run' is no place for results; expected a folder")
    result = batch(photos, "--out", "memory://bucket/run")
    assert result.code == 2
    assert result.err.startswith(
        "sightline: memory://bucket/run is gone when this command ends; expected a folder"
    )
    assert not list(Path.cwd().glob("*:*"))
    Bucket.store["/bucket/mine/results/mine.parquet"] = Bucket.store.pop("/bucket/run/errors.parquet")
    result = batch(photos, "--out", f"{bucket}/mine")
    said = (
        "sightline: gs://bucket/mine/results is there already and was not written by `sightline batch`; give"
    )
    assert (result.code, result.err.startswith(said)) == (2, True)
    assert [name for name in Bucket.store if "/mine/" in name] == ["/bucket/mine/results/mine.parquet"]


def test_explain_of_a_list_or_a_tar_is_batch(explain: Any, photos: Path, tmp_path: Path) -> None:
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
    assert (result.code, result.err) == (0, OLD.format("of some.tar"))
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
    batch: Any, photos: Path, tmp_path: Path
) -> None:
    (photos / "bad.jpg").write_bytes(b"no image")
    result = batch(photos)
    assert result.code == 3
    assert result.err.partition("; expected")[0] == (
        "sightline: 1 of 4 images could not be read:\n"
        f"  {photos / 'bad.jpg'} is not an image of a known format, whatever its name says"
    )
    assert result.err.count("\n") == 2
    again = batch(photos)
    assert (again.code, again.out, again.err) == (3, result.out, result.err)
    assert batch(photos / "bad.jpg", "--out", tmp_path / "none").code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "rai"], "unknown engine 'rai'; did you mean 'ray'?"),
        (["-x"], "No such option"),
        (["--address", "auto"], "a cluster address belongs to engine ray"),
        (["--heatmap-bits", 4], "heatmap_bits=4; expected 0 (none), 8 or 16"),
        (["--heatmap-size", "big"], "heatmap_size='big'; expected input or map"),
        (["--method", "layercam:flop"], "option 'flop'; expected NAME=VALUE"),
    ],
)
def test_mistakes_are_told_in_one_line(
    batch: Any, photos: Path, tmp_path: Path, arguments: list[object], message: str
) -> None:
    result = batch(photos, *arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_explain_refuses_options_of_batch_without_an_engine(explain: Any, photos: Path) -> None:
    result = explain(photos, "--overlays", "--shard-size", 5)
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "sightline: --shard-size, --overlays: an option of `sightline batch`, which writes shards, not panels\n"
    )


def test_explain_with_an_engine_is_batch_and_says_so(
    explain: Any, batch: Any, photos: Path, tmp_path: Path
) -> None:
    old = explain(
        photos, *LOCAL, "--method", "gradcam:flip", "--option", "nwc=true", "--out", tmp_path / "old"
    )
    assert (old.code, old.err) == (0, OLD.format("with --engine"))
    assert batch(photos, "--method", "gradcam:flip", "--option", "nwc=true").code == 0
    for part in ("results", "heatmaps"):
        assert [f.read_bytes() for f in sorted((tmp_path / "old" / part).iterdir())] == [
            f.read_bytes() for f in sorted((tmp_path / "out" / part).iterdir())
        ]
    several = explain(photos, *LOCAL, "--method", "cam", "--method", "gradcam")
    assert several.code == 2
    assert "takes one --method; got cam, gradcam" in several.err


def test_a_name_that_is_not_text_is_told_and_the_others_are_done(
    batch: Any, photos: Path, tmp_path: Path
) -> None:
    try:
        (photos / os.fsdecode(b"caf\xe9.png")).write_bytes((photos / "a.png").read_bytes())
    except OSError:
        pytest.skip("this file system holds only UTF-8 names")
    result = batch(photos, "--overlays")
    assert (result.code, result.err.count("\n")) == (3, 2)
    assert r"caf\xe9.png" in result.err
    assert pd.read_parquet(tmp_path / "out" / "results").image_id.tolist() == ["a.png", "b.jpg", "c.png"]
    assert pd.read_parquet(tmp_path / "out" / "errors.parquet").image_id.tolist() == [r"caf\xe9.png"]


def test_an_overlay_that_cannot_be_written_is_told_and_the_others_are_done(
    batch: Any, photos: Path, tmp_path: Path
) -> None:
    for _ in range(2):  # the second has nothing left to do
        assert batch(photos, "--overlays").code == 0
    (drawn,) = (tmp_path / "out" / "overlays").glob("b.jpg_*.png")
    (photos / drawn.name).mkdir()  # its photo's overlay wants a folder where b.jpg's wants a file
    (photos / drawn.name / "d.png").write_bytes((photos / "c.png").read_bytes())
    result = batch(photos, "--overlays", "--out", tmp_path / "again")
    assert (result.code, result.err.count("\n")) == (3, 2)
    assert "cannot be written: " in result.err
    assert pd.read_parquet(tmp_path / "again" / "results").image_id.tolist() == ["a.png", "b.jpg", "c.png"]


def test_help_shows_whole_commands(sightline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = sightline("batch", "--help").out
    assert "sightline batch s3://bucket/list.parquet --engine ray" in text
    assert "--shard-size" in text
    assert "--shard-size" not in sightline("explain", "--help").out


def test_another_run_s_folder_is_refused_in_one_line(batch: Any, photos: Path, tmp_path: Path) -> None:
    assert batch(photos).code == 0
    result = batch(photos, "--view", "crop")
    assert result.code == 2
    assert result.err == (
        f"sightline: {tmp_path / 'out'} holds another run: view is 'whole' there and 'crop' here; "
        "give another output folder, or the same options\n"
    )


def test_panels_are_not_laid_over_a_batch_run(explain: Any, batch: Any, photos: Path) -> None:
    assert batch(photos).code == 0
    result = explain(photos)
    assert result.code == 2
    assert "holds the results of `sightline batch`; give another output folder" in result.err
    assert batch(photos).code == 0


def test_a_full_disk_is_told_in_one_line_and_the_run_goes_on_later(
    batch: Any, model: list[object], photos: Path, tmp_path: Path
) -> None:
    out, report = tmp_path / "out", tmp_path / "report.txt"
    arguments = [
        "batch",
        str(photos),
        *map(str, model),
        "--out",
        str(out),
        "--workers",
        "0",
    ]
    process = toybatch.processes().Process(
        target=toybatch.main_with_full_disk, args=(100_000, [*arguments, "--shard-size", "1"], report)
    )
    process.start()  # heatmaps of 224 × 224 bytes fit below the limit, those of 16 bits would not
    process.join()
    assert report.read_text().splitlines()[-1] == "0"
    (out / "results" / "part-00001.parquet").unlink()
    process = toybatch.processes().Process(
        target=toybatch.main_with_full_disk, args=(20_000, [*arguments, "--shard-size", "1"], report)
    )
    process.start()
    process.join()
    assert report.read_text().splitlines() == ["sightline: File too large", "2"]
    assert [path.name for path in sorted(out.rglob(".*part"))] == []
    assert batch(photos, "--shard-size", 1).code == 0
    assert pd.read_parquet(out / "results").image_id.tolist() == ["a.png", "b.jpg", "c.png"]


@pytest.mark.parametrize(
    ("method", "pays_from", "hinted"), [("cam", 3, True), ("cam", 4, False), ("layercam", 3, False)]
)
def test_a_long_run_that_onnxruntime_could_do_faster_says_so(
    batch: Any, photos: Path, monkeypatch: pytest.MonkeyPatch, method: str, pays_from: int, hinted: bool
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    monkeypatch.setattr("sightline.cli.batch.ONNX_PAYS", pays_from)
    result = batch(photos, "--method", method)
    assert result.code == 0
    assert ("hint: --engine onnx is mostly faster" in result.err) is hinted
