"""`sightline explain`: every option, every mistake, and what is left on disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

import sightline as library
from sightline.models.loading import load_model
from sightline.pipeline_files import ExplainOptions


def _manifest(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "manifest.json").read_text())
    assert isinstance(content, dict)
    return content


def _results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {image["path"]: image["results"] for image in _manifest(folder)["images"]}


@pytest.fixture
def explain(sightline: Any, model: list[object], tmp_path: Path) -> Any:
    """``explain`` with the small model, into tmp_path/out."""
    return lambda *arguments: sightline("explain", *model, "--out", tmp_path / "out", *arguments)


def test_manifest_holds_what_was_asked_and_found(
    explain: Any, photos: Path, weights: Path, tmp_path: Path
) -> None:
    result = explain(
        photos / "a.png", "--method", "cam", "--method", "gradcam", "--classes", "tabby,3", "--threshold", 0.5
    )
    assert result.code == 0, result.err
    written = _manifest(tmp_path / "out")
    assert written["sightline"] == library.__version__
    assert sorted(written) == sorted(
        "kind sightline versions created model options methods complete images errors files".split()  # noqa: SIM905
    )
    assert written["kind"] == "explain"
    assert written["model"] == {
        "name": "squeezenet1_1",
        "weights": "four.safetensors",
        "weights_sha256": load_model("squeezenet1_1", weights=weights).weights_sha256,
        "classes": 4,
        "trained_on": None,
        "weights_licence": None,
        "trained_head": True,
        "device": "cpu",
        "scores": "auto",
    }
    assert written["options"] == {
        "methods": ["cam", "gradcam"],
        "classes": ["tabby", "3"],
        "layers": [],
        "view": "whole",
        "normalise": "minmax",
        "threshold": 0.5,
        "relative_to": "max",
        "standard": "max",
        "percentile": 90.0,
        "select": "largest",
        "colormap": "turbo",
        "batch_size": 8,
    }
    assert written["methods"] == {
        "cam": {"layers": ["features"], "options": {"nwc": False, "bias": False}, "scores": "softmax"},
        "gradcam": {"layers": ["features"], "options": {"nwc": False}, "scores": "softmax"},
    }
    (image,) = written["images"]
    results = image.pop("results")
    assert image == {
        "path": str(photos / "a.png"),
        "panel": "a.png",
        "photo_hw": [60, 80],
        "input_hw": [224, 224],
        "shown_xyxy": [0.0, 0.0, 80.0, 60.0],
        "sure": None,
    }
    assert [(r["method"], r["class_index"], r["category"]) for r in results] == [
        (method, *named)
        for method in ("cam", "gradcam")
        for named in ((2, "tabby, tabby cat"), (3, "tiger cat"))
    ]
    assert (written["complete"], written["errors"]) == (True, [])


@pytest.mark.parametrize(
    "options",
    [
        {"select": "all", "threshold": 0.6},
        {"normalise": "max"},
        {"normalise": "ivr", "threshold": 0.5},
        {"normalise": "percentile", "percentile": 70.0, "threshold": 0.9},
        {"relative_to": "percentile", "percentile": 80.0, "threshold": 0.8},
    ],
    ids=str,
)
def test_scores_and_boxes_are_those_of_the_library(
    options: dict[str, Any], explain: Any, photos: Path, weights: Path, tmp_path: Path
) -> None:
    typed = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    explain(photos / "b.jpg", "--method", "layercam", "--classes", "top2", *typed)
    loaded = load_model("squeezenet1_1", weights=weights)
    wanted = library.explain(loaded, photos / "b.jpg", method="layercam", classes="top2")
    (results,) = _results(tmp_path / "out").values()
    for result, prediction in zip(results, wanted.predictions(**options)[0], strict=True):
        assert result["class_index"] == prediction.class_index
        assert result["score"] == pytest.approx(prediction.score, abs=1e-5)
        assert [pytest.approx(box, abs=0.01) for box in prediction.boxes_xyxy.tolist()] == result[
            "boxes_xyxy"
        ]


def test_panel_is_a_picture_named_as_its_photo(explain: Any, photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "a.png", photos / "b.png")
    assert explain(photos).code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a.png",
        "b-2.png",
        "b.png",
        "c.png",
        "manifest.json",
    ]
    with PIL.Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.width > 600
        assert picture.height > 250


def test_json_is_the_manifest_and_nothing_else(explain: Any, photos: Path, tmp_path: Path) -> None:
    result = explain(photos / "a.png", photos / "c.png", "--json")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out) == _manifest(tmp_path / "out")
    assert len(json.loads(result.out)["images"]) == 2


def test_what_is_printed_names_class_score_and_box(explain: Any, photos: Path) -> None:
    out = explain(photos / "a.png", "--classes", "bull mastiff").out
    heading, row, model, last = out.splitlines()
    assert heading.split()[:4] == ["photo", "class", "score", "method"]
    assert row.split()[:3] == ["a.png", "bull", "mastiff"]
    assert "gradcam" in row
    assert model == "model: squeezenet1_1, 4 classes"
    assert last.startswith("1 panel and manifest.json in ")


def test_batch_sizes_give_the_same(explain: Any, photos: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 2, 3):
        assert explain(photos, "--batch-size", size, "--classes", "top2").code == 0
        found.append(_results(tmp_path / "out"))
    for other in found[1:]:
        for path, results in found[0].items():
            for one, two in zip(results, other[path], strict=True):
                assert one["class_index"] == two["class_index"]
                assert one["score"] == pytest.approx(two["score"], abs=1e-5)
                assert [pytest.approx(box, abs=0.5) for box in one["boxes_xyxy"]] == two["boxes_xyxy"]


def test_files_folders_and_globs_each_photo_once(explain: Any, photos: Path, tmp_path: Path) -> None:
    explain(photos / "c.png", f"{photos}/*.png", photos, "--json")
    assert [Path(path).name for path in _results(tmp_path / "out")] == ["c.png", "a.png", "b.jpg"]


def test_options_reach_the_method(explain: Any, photos: Path, tmp_path: Path) -> None:
    arguments = (
        "--method",
        "scorecam",
        "--method",
        "cam",
        "--option",
        "channels=4",
        "--option",
        "cam.nwc=true",
    )
    assert explain(photos / "a.png", *arguments).code == 0
    methods = _manifest(tmp_path / "out")["methods"]
    assert methods["scorecam"]["options"]["channels"] == 4
    assert methods["cam"]["options"]["nwc"] is True
    assert explain(photos / "a.png", "--method", "cam:nwc=true").code == 0
    assert _manifest(tmp_path / "out")["methods"]["cam:nwc=true"] == methods["cam"]


def test_layers_reach_the_methods_that_look_at_one(explain: Any, photos: Path, tmp_path: Path) -> None:
    arguments = ("--method", "gradcam", "--method", "saliency", "--layer", "features.7")
    assert explain(photos / "a.png", *arguments).code == 0
    methods = _manifest(tmp_path / "out")["methods"]
    assert methods["gradcam"]["layers"] == ["features.7"]
    assert methods["saliency"]["layers"] == []


def test_the_view_decides_what_the_network_sees(explain: Any, photos: Path, tmp_path: Path) -> None:
    explain(photos / "a.png", "--view", "crop")
    written = _manifest(tmp_path / "out")
    left, top, right, bottom = written["images"][0]["shown_xyxy"]
    assert written["options"]["view"] == "crop"
    assert (right - left, bottom - top) == (pytest.approx(52.5, abs=0.3), pytest.approx(52.5, abs=0.3))


def test_a_higher_threshold_gives_a_smaller_box(explain: Any, photos: Path, tmp_path: Path) -> None:
    areas = []
    for threshold in (0.05, 0.5, 0.9):
        assert explain(photos / "a.png", "--classes", "0", "--threshold", threshold).code == 0
        (results,) = _results(tmp_path / "out").values()
        x0, y0, x1, y1 = results[0]["boxes_xyxy"][0]
        areas.append((x1 - x0) * (y1 - y0))
    assert areas[0] > areas[1] > areas[2] > 0


def test_the_colour_map_colours_the_panel(explain: Any, photos: Path, tmp_path: Path) -> None:
    pictures = []
    for name in ("turbo", "gray"):
        explain(photos / "a.png", "--colormap", name)
        pictures.append((tmp_path / "out" / "a.png").read_bytes())
    assert pictures[0] != pictures[1]


MISTAKES = [
    (["--method", "grad-cam"], "unknown method 'grad-cam'; did you mean 'gradcam'"),
    (["--classes", "bull mastif"], "unknown class 'bull mastif'; did you mean 'bull mastiff'?"),
    (["--classes", "4"], "class 4 is out of range; expected 0 to 3"),
    (["--classes", "top9"], "classes='top9': expected top1 to top4 for 4 classes"),
    (["--classes", "1,,2"], "--classes '1,,2': expected top1, top5, or names and indices such as tabby,243"),
    (["--layer", "features.99"], "unknown layer 'features.99'; did you mean 'features.9'"),
    (["--layer", "classifier"], "layer 'classifier' has no spatial map"),
    (
        ["--method", "saliency", "--layer", "features.7"],
        "layer='features.7' was given, but saliency takes no layer",
    ),
    (["--view", "hole"], "unknown view 'hole'; did you mean 'whole'?"),
    (["--normalise", "min-max"], "unknown normalise 'min-max'; did you mean 'minmax'"),
    (["--standard", "maximum"], "unknown relative_to 'maximum'; did you mean 'max'?"),
    (["--select", "larges"], "unknown select 'larges'; did you mean 'largest'?"),
    (["--colormap", "trubo"], "unknown colour map 'trubo'; did you mean 'turbo'"),
    (["--device", "gpu"], "unknown device 'gpu'"),
    (["--option", "channels"], "option 'channels'; expected NAME=VALUE, e.g. channels=64"),
    (["--option", "nvc=true"], "unknown option of gradcam: 'nvc'; did you mean 'nwc'?"),
    (["--option", "nwc=perhaps"], "option nwc='perhaps' of gradcam: expected true or false"),
    (["--method", "hirescam", "--option", "power=2"], "unknown option 'power': hirescam has no options"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[m[0][1] for m in MISTAKES])
def test_a_mistake_is_one_line(arguments: list[str], message: str, explain: Any, photos: Path) -> None:
    result = explain(photos / "a.png", *arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(f"sightline: {message}")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("photos/d.png", "no such file or folder: "),
        ("photos/*.gif", "no image matches "),
        ("empty", "is a folder without images"),
    ],
)
def test_paths_without_photos(path: str, message: str, explain: Any, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = explain(tmp_path / path)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_bad_photo_is_listed_and_the_others_are_done(explain: Any, photos: Path, tmp_path: Path) -> None:
    (photos / "b.jpg").write_bytes(b"not a picture")
    result = explain(photos)
    assert result.code == 3
    first, second = result.err.splitlines()
    assert first == "sightline: 1 of 3 images could not be read:"
    assert second.startswith(f"  {photos / 'b.jpg'} is not an image")
    written = _manifest(tmp_path / "out")
    assert [Path(image["path"]).name for image in written["images"]] == ["a.png", "c.png"]
    assert [error["path"] for error in written["errors"]] == [str(photos / "b.jpg")]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "c.png", "manifest.json"]


def test_a_single_bad_photo_is_a_mistake(explain: Any, photos: Path) -> None:
    (photos / "a.png").write_bytes(b"")
    result = explain(photos / "a.png")
    assert (result.code, result.out) == (2, "")
    assert result.err == f"sightline: {photos / 'a.png'} is empty (0 bytes)\n"


@pytest.mark.parametrize("size", [(1, 1), (1, 10000), (10000, 1)])
def test_photos_of_odd_sizes(size: tuple[int, int], explain: Any, tmp_path: Path) -> None:
    PIL.Image.new("RGB", size, "orange").save(tmp_path / "odd.png")
    assert explain(tmp_path / "odd.png").code == 0
    with PIL.Image.open(tmp_path / "out" / "odd.png") as picture:
        assert max(picture.size) < 1000


def test_out_below_a_file_is_refused_before_the_work(
    sightline: Any, photos: Path, model: list[object], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    for out in (tmp_path / "taken", tmp_path / "taken" / "deeper"):
        result = sightline("explain", photos, *model, "--out", out)
        assert result.code == 2
        assert result.err == (
            f"sightline: the output folder {out} is a file, or lies below one; expected a folder\n"
        )


def test_a_full_disk_is_one_line_and_leaves_no_half_picture(
    explain: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = PIL.Image.Image.save, []

    def fills_up(self: PIL.Image.Image, file: Any, *arguments: Any, **options: Any) -> None:
        if saved:
            file.write(b"\x89PNG half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved.append(save(self, file, *arguments, **options))

    monkeypatch.setattr(PIL.Image.Image, "save", fills_up)
    result = explain(photos, "--batch-size", 1)
    assert (result.code, result.err) == (2, "sightline: No space left on device\n")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "manifest.json"]
    assert _manifest(tmp_path / "out")["complete"] is False


def test_an_interrupt_keeps_what_is_finished(
    explain: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = library.explain, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr("sightline.pipeline_files.explain", interrupted)
    result = explain(photos, "--batch-size", 1)
    assert (result.code, result.err) == (130, "sightline: interrupted\n")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png", "manifest.json"]
    written = _manifest(tmp_path / "out")
    assert [Path(image["path"]).name for image in written["images"]] == ["a.png", "b.jpg"]
    assert written["complete"] is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"boxer\n\ntabby\n", "line 2 is empty; expected a class name"),
        (b"", "line 1 is empty; expected a class name"),
        (b"\xff\xfe\x00", "is not UTF-8 text (byte 0)"),
        (b"boxer\ntabby\n", "2 categories were given, but"),
    ],
)
def test_wrong_category_files(
    content: bytes, message: str, sightline: Any, photos: Path, weights: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes(content)
    result = sightline("explain", photos, "-m", "squeezenet1_1", "--weights", weights, "--categories", names)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "squeezenet1_l"], "unknown model 'squeezenet1_l'; did you mean 'squeezenet1_1'"),
        (["--weights", "w.pth"], "weights, categories and transform need a model; name one"),
        (["-m", "squeezenet1_1", "--weights", "gone.pth"], "gone.pth"),
        (["-m", "mobilenet_v3_small", "--weights", "none", "--method", "cam"], "use 'gradcam'"),
    ],
)
def test_wrong_models(
    arguments: list[str], message: str, sightline: Any, photos: Path, tmp_path: Path
) -> None:
    result = sightline("explain", photos, *arguments, "--out", tmp_path / "out")
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_method_string_may_hold_combinators(
    explain: Any, photos: Path, weights: Path, tmp_path: Path
) -> None:
    methods = ("--method", "layercam:flip", "--method", "layercam")
    assert explain(photos / "b.jpg", *methods, "--classes", 0).code == 0
    model = load_model("squeezenet1_1", weights=weights)
    wanted = library.explain(model, photos / "b.jpg", method="layercam:flip", classes=[0])
    (results,) = _results(tmp_path / "out").values()
    assert [result["method"] for result in results] == ["layercam:flip", "layercam"]
    assert results[0]["boxes_xyxy"] == [pytest.approx(b, abs=0.01) for b in wanted.boxes()[0][0].tolist()]
    assert results[0]["boxes_xyxy"] != results[1]["boxes_xyxy"]


def test_the_output_folder_is_not_explained_again(
    sightline: Any, photos: Path, model: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    for _ in range(2):
        assert sightline("explain", ".", *model, "--out", "out").code == 0
        assert sorted(_results(Path("out"))) == ["a.png", "b.jpg", "c.png"]


def test_panels_beside_their_photos_overwrite_none_and_are_not_explained(
    sightline: Any, photos: Path, model: list[object]
) -> None:
    before = (photos / "a.png").read_bytes()
    for _ in range(2):
        assert sightline("explain", photos, *model, "--out", photos).code == 0
        assert [image["panel"] for image in _manifest(photos)["images"]] == ["a-2.png", "b-2.png", "c-2.png"]
    assert (photos / "a.png").read_bytes() == before


def test_a_failed_run_leaves_no_folder(explain: Any, photos: Path, tmp_path: Path) -> None:
    for arguments in (["--classes", "unheard"], ["--layer", "features.99"]):
        assert explain(photos, *arguments).code == 2
    assert not (tmp_path / "out").exists()
    assert explain(photos, "--out", tmp_path / "deep" / "er", "--classes", "unheard").code == 2
    assert not (tmp_path / "deep").exists()


def test_the_results_of_another_verb_are_not_overwritten(explain: Any, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text('{"kind": "evaluate"}')
    result = explain(photos)
    assert result.code == 2
    assert result.err == (
        f"sightline: {tmp_path / 'out'} holds the results of `sightline evaluate`; give another output folder\n"
    )


def test_file_names_stay_whole_at_80_columns(
    explain: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a-photo-with-a-long-name-from-a-camera-2024-05-01.png"
    shutil.copy(photos / "a.png", photos / name)
    monkeypatch.setenv("COLUMNS", "80")
    assert name in explain(photos / name, "--classes", "top2").out


def test_pixel_methods_report_no_boxes(explain: Any, photos: Path, tmp_path: Path) -> None:
    result = explain(photos / "a.png", "--method", "saliency", "--method", "gradcam")
    pixels, region = _results(tmp_path / "out")[str(photos / "a.png")]
    assert pixels["boxes_xyxy"] == []
    assert region["boxes_xyxy"]
    assert "none: single pixels" in result.out


def test_a_target_instead_of_classes(explain: Any, photos: Path, tmp_path: Path) -> None:
    result = explain(photos / "a.png", "--method", "gradcam:flip", "--target", "contrast:tabby,boxer")
    assert result.code == 0
    assert "tabby − boxer" in " ".join(result.out.split())
    manifest = _manifest(tmp_path / "out")
    (found,) = manifest["images"][0]["results"]
    assert (found["class_index"], found["score"]) == (-1, None)
    assert manifest["options"]["target"] == "Contrast(a='tabby', b='boxer')"


def test_localise_cuts_at_its_own_threshold(explain: Any, photos: Path, tmp_path: Path) -> None:
    assert explain(photos / "a.png", "--method", "localise-fast").code == 0
    own = _results(tmp_path / "out")
    assert explain(photos / "a.png", "--method", "localise-fast", "--threshold", 0.4).code == 0
    assert _results(tmp_path / "out") == own
    assert explain(photos / "a.png", "--method", "localise-fast", "--threshold", 1).code == 0
    assert _results(tmp_path / "out") != own
    assert ExplainOptions(["localise-fast", "localise"]).common_threshold is None  # each has its own
    assert ExplainOptions(["localise-fast", "cam"]).common_threshold is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "contrst:1,2"], "did you mean 'contrast'"),
        (["--target", "contrast:tabby,boxr"], "did you mean 'boxer'"),
        (["--target", "regression:-1"], "explains one output per image"),
        (["--target", "class:1", "--classes", "top2"], "either classes or target"),
        (["--target", "class:1", "--engine", "local"], "--target is for `sightline explain`"),
    ],
)
def test_a_target_typed_wrongly(arguments: list[str], message: str, explain: Any, photos: Path) -> None:
    result = explain(photos / "a.png", *arguments)
    assert result.code == 2
    assert message in " ".join(result.err.split())
