"""`explain_files`: what it writes, what it leaves out, what it refuses; all of it without the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import sightline
import toybatch
from sightline.errors import InputError
from sightline.models.loading import LoadedModel
from sightline.pipeline_files import ExplainOptions, panel_names


@pytest.fixture
def model() -> LoadedModel:
    return toybatch.small_model()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return toybatch.photos(tmp_path / "photos", 3)


def test_the_manifest_is_returned_and_written(model: LoadedModel, photos: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    manifest = sightline.explain_files(
        model,
        [photos],
        tmp_path / "out",
        methods=["cam", "layercam:flip"],
        rule=sightline.BoxRule(0.5),
        classes="top2",
        batch_size=2,
        progress=lambda *now: told.append(now),
    )
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    assert told == [(2, 3), (3, 3)]
    assert (manifest["kind"], manifest["complete"], manifest["errors"]) == ("explain", True, [])
    assert [image["panel"] for image in manifest["images"]] == ["00.png", "01.png", "02.png"]
    for image in manifest["images"]:
        cam = sightline.explain(model, image["path"], method="cam", classes="top2")
        wanted = [box for boxes in cam.boxes(threshold=0.5)[0] for box in boxes.tolist()]
        found = [box for result in image["results"][:2] for box in result["boxes_xyxy"]]
        assert [pytest.approx(box, abs=0.01) for box in found] == wanted
        # The classes are the first method's: the same for every row of the panel.
        assert [r["class_index"] for r in image["results"]] == cam.classes[0].tolist() * 2


def test_named_photos_in_memory(model: LoadedModel, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    named = {"array": array, "image": PIL.Image.fromarray(array), "Array": array}
    manifest = sightline.explain_files(model, named, tmp_path)
    assert [image["path"] for image in manifest["images"]] == list(named)
    assert [image["panel"] for image in manifest["images"]] == ["array.png", "image.png", "Array-2.png"]
    first, second, third = (image["results"] for image in manifest["images"])
    assert first == second == third


def test_what_cannot_be_read_is_listed_and_the_rest_is_done(
    model: LoadedModel, photos: Path, tmp_path: Path
) -> None:
    (photos / "01.png").write_bytes(b"")
    manifest = sightline.explain_files(model, [photos], tmp_path / "out", batch_size=2, workers=2)
    assert [Path(image["path"]).name for image in manifest["images"]] == ["00.png", "02.png"]
    assert manifest["errors"] == [
        {"path": str(photos / "01.png"), "error": f"{photos / '01.png'} is empty (0 bytes)"}
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["gradcan"]}, "unknown method 'gradcan'; did you mean 'gradcam'"),
        ({"methods": []}, "methods is empty; expected at least one method"),
        ({"view": "hole"}, "unknown view 'hole'; did you mean 'whole'"),
        ({"batch_size": 0}, "batch_size=0 and workers=1; expected 1 or more of each"),
        ({"colormap": "trubo"}, "unknown colour map 'trubo'"),
        ({"method": ["cam"]}, "unknown explain_files option 'method'; did you mean 'methods'"),
    ],
)
def test_wrong_options_are_refused_before_a_folder_is_made(
    changes: dict[str, object], message: str, model: LoadedModel, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        sightline.explain_files(model, [photos], tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_options_are_an_object_too(model: LoadedModel, photos: Path, tmp_path: Path) -> None:
    options = ExplainOptions(methods="cam", method_options=["nwc=true"])
    manifest = sightline.explain_files(model, [photos], tmp_path / "out", options, classes=[0])
    assert manifest["methods"]["cam"]["options"]["nwc"] is True
    assert manifest["images"][0]["results"][0]["class_index"] == 0


def test_panels_of_others_of_earlier_runs_and_in_the_input(
    model: LoadedModel, photos: Path, tmp_path: Path
) -> None:
    out = photos / "out"
    out.mkdir()
    (out / "00.png").write_bytes(b"somebody's")
    first = sightline.explain_files(model, [photos / "00.png", photos / "01.png"], out)
    assert first["files"] == ["00-2.png", "01.png"]
    assert (out / "00.png").read_bytes() == b"somebody's"
    (out / "00.png").unlink()
    # The panels are no photos, neither for this folder's next run nor for another's; and those of before go.
    other = sightline.explain_files(model, [photos], photos / "other")
    assert [Path(image["path"]).name for image in other["images"]] == ["00.png", "01.png", "02.png"]
    again = sightline.explain_files(model, [photos / "00.png"], out)
    assert again["files"] == ["00.png"]
    assert {path.name for path in out.iterdir()} == {"00.png", "manifest.json"}


def test_photos_with_long_names_and_names_that_differ_in_case(
    model: LoadedModel, photos: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    names = ["x" * 251 + ".png", "x" * 250 + "y.png", "A.png", "a.png"]
    for name in names:
        (few / name).write_bytes((photos / "00.png").read_bytes())
    manifest = sightline.explain_files(model, [few], tmp_path / "out")
    assert manifest["errors"] == []
    assert len({name.lower() for name in manifest["files"]}) == len(list(few.iterdir())) == 4
    assert all((tmp_path / "out" / name).is_file() for name in manifest["files"])


def test_a_killed_run_is_known_by_its_manifest(model: LoadedModel, photos: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        found = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert found["complete"] is False
        assert found["files"] == ["00.png", "01.png", "02.png"]
        raise Killed

    with pytest.raises(Killed):
        sightline.explain_files(model, [photos], tmp_path / "out", batch_size=1, progress=kill)
    assert sightline.explain_files(model, [photos], tmp_path / "out")["files"] == [
        "00.png",
        "01.png",
        "02.png",
    ]


def test_panel_names_are_never_shared() -> None:
    names = ["a:b", "a_b", "A_B", "a_b-2", ".hidden", ""]
    found = panel_names(names)
    assert len({name.lower() for name in found}) == len(names)
    assert found[:2] == ["a_b.png", "a_b-2.png"]
