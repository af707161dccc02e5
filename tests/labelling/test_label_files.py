"""From photos to annotations: the boxes of `explain`, doubt, resuming, SAM, and the Label Studio backend."""

from __future__ import annotations

import csv
import json
import urllib.error
import urllib.request
from threading import Thread

import numpy as np
import PIL.Image
import pytest

import sightline
from sightline.data import load_dataset
from sightline.errors import InputError
from sightline.labelling import run
from sightline.labelling.backend import Backend, serve
from sightline.labelling.run import label_files
from sightline.labelling.sam import hugging_face_sam, sam_refiner
from sightline.metrics.complexity import gini
from test_explanation import loaded, scene

METHOD = {"method": "cam", "classes": ["red", "azure"], "batch_size": 2}
RED, BLUE = [8, 8, 24, 20], [48, 16, 72, 36]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    for name in ("a.png", "b/c.png", "d.png"):
        scene().save(folder / name)
    return folder


def test_the_boxes_are_those_of_explain(photos, tmp_path) -> None:
    manifest = label_files(loaded(), photos, tmp_path / "out", **METHOD)
    assert (manifest["photos"], manifest["boxes"], manifest["errors"]) == (3, 6, [])
    dataset = load_dataset(tmp_path / "out", "coco", split="all", images=photos)
    assert {sample.id for sample in dataset.samples} >= {"b/c.png:red", "a.png:blue, azure"}
    for sample in dataset.samples:
        assert sample.boxes_xyxy.tolist() == [[RED, BLUE][sample.label]]


def test_the_review_list_is_sorted_by_doubt(photos, tmp_path) -> None:
    label_files(loaded(), photos, tmp_path / "out", **METHOD)
    rows = list(csv.DictReader((tmp_path / "out" / "review.csv").read_text().splitlines()))
    doubts = [float(row["doubt"]) for row in rows]
    assert doubts == sorted(doubts, reverse=True)
    for row in rows:
        assert float(row["doubt"]) == pytest.approx(1 - float(row["score"]) * float(row["gini"]), abs=1e-4)
    with PIL.Image.open(tmp_path / "out" / "review.png") as sheet:
        assert sheet.width > 500


def test_gini_is_that_of_the_heat() -> None:
    found = sightline.explain(loaded(), scene(), method="cam", classes=["red"])
    heat = found.heatmaps()[:, 0]
    label = found.labels().photos[0].labels[0]
    assert label.gini == pytest.approx(float(gini(heat)), abs=1e-4)
    assert 0 < label.gini < 1
    assert label.doubt == pytest.approx(1 - label.score * label.gini)


def test_without_probabilities_doubt_is_the_box_alone() -> None:
    target = sightline.explain(loaded(), scene(), method="gradcam", target=lambda output: output[:, 0])
    label = target.labels().photos[0].labels[0]
    assert (label.category, label.score, label.doubt) == ("target", None, 1 - label.gini)
    assert target.to_coco()["categories"] == [{"id": 1, "name": "target", "supercategory": ""}]


def test_an_explanation_gives_every_format() -> None:
    found = sightline.explain(loaded(), scene(), method="cam", classes=["red"])
    assert found.to_coco()["annotations"][0]["bbox"] == [8, 8, 16, 12]
    assert "<xmin>9</xmin>" in found.to_voc()["000000.xml"]
    assert found.to_yolo()["000000.txt"] == "0 0.200000 0.350000 0.200000 0.300000\n"
    assert found.to_label_studio(prefix="p/")[0]["data"]["image"] == "p/000000.png"
    region = found.labels(masks=True).photos[0].labels[0].rle
    assert sum(region[1::2]) == 16 * 12
    with pytest.raises(InputError, match="marks single pixels"):
        sightline.explain(loaded(), scene(), method="saliency").labels()


def test_a_killed_run_resumes_and_computes_nothing_twice(photos, tmp_path, monkeypatch) -> None:
    whole = label_files(loaded(), photos, tmp_path / "whole", **METHOD)
    seen: list[int] = []
    inner = run.explain

    def explain(model, batch, *rest):
        if seen and len(seen) == 1 and not killed:
            killed.append(True)
            raise KeyboardInterrupt
        seen.append(len(batch))
        return inner(model, batch, *rest)

    killed: list[bool] = []
    monkeypatch.setattr(run, "explain", explain)
    with pytest.raises(KeyboardInterrupt):
        label_files(loaded(), photos, tmp_path / "out", **METHOD)
    log = tmp_path / "out" / run.LOG
    log.write_text(log.read_text() + '{"file": "d.p')  # the kill came in the middle of a line
    steps: list[tuple[int, int]] = []
    manifest = label_files(
        loaded(), photos, tmp_path / "out", **METHOD, progress=lambda *at: steps.append(at)
    )
    assert seen == [2, 1]
    assert steps == [(3, 3)]
    assert manifest["boxes"] == whole["boxes"]
    for name in ("annotations/instances_all.json", run.LOG, "review.csv"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_another_format_of_the_same_boxes_computes_nothing(photos, tmp_path, monkeypatch) -> None:
    label_files(loaded(), photos, tmp_path / "out", **METHOD)
    monkeypatch.setattr(run, "explain", None)
    label_files(loaded(), photos, tmp_path / "out", format="yolo", **METHOD)
    assert (tmp_path / "out" / "labels" / "b" / "c.txt").is_file()


def test_another_method_does_not_go_on_in_the_same_folder(photos, tmp_path) -> None:
    label_files(loaded(), photos, tmp_path / "out", **METHOD)
    with pytest.raises(InputError, match="was begun with another method"):
        label_files(loaded(), photos, tmp_path / "out", **{**METHOD, "method": "gradcam"})


def test_an_unreadable_photo_is_listed(photos, tmp_path) -> None:
    (photos / "bad.png").write_bytes(b"no image")
    manifest = label_files(loaded(), photos, tmp_path / "out", **METHOD)
    assert (manifest["photos"], [one["path"] for one in manifest["errors"]]) == (3, ["bad.png"])


def test_improbable_classes_are_left_out(photos, tmp_path) -> None:
    manifest = label_files(loaded(), photos / "a.png", tmp_path / "out", **METHOD, least_score=0.5)
    assert manifest["boxes"] == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"format": "cocos"}, "did you mean 'coco'"),
        ({"method": "saliency"}, "marks single pixels"),
        ({"least_score": 2}, "expected a probability"),
        ({"formt": "coco"}, "did you mean 'format'"),
        ({"batch_size": 0}, "expected 1 or more"),
    ],
)
def test_wrong_options_are_one_line(wrong, says, photos, tmp_path) -> None:
    with pytest.raises(InputError, match=says):
        label_files(loaded(), photos, tmp_path / "out", **wrong)


class Predictor:
    """A stub with segment-anything's interface: three masks, of which the second fills the box less a pixel."""

    def set_image(self, image: np.ndarray) -> None:
        assert (image.dtype, image.shape) == (np.uint8, (40, 80, 3))

    def predict(self, point_coords, point_labels, box, multimask_output):
        x, y = point_coords[0]
        x0, y0, x1, y1 = box.astype(int)
        assert x0 <= x < x1
        assert y0 <= y < y1
        masks = np.zeros((3, 40, 80), dtype=bool)
        masks[1, y0 : y1 - 1, x0 + 1 : x1] = True
        return masks, np.array([0.1, 0.9, 0.5]), None


def test_sam_replaces_box_and_region(photos, tmp_path) -> None:
    options = {**METHOD, "format": "coco-rle"}
    manifest = label_files(
        loaded(), photos / "a.png", tmp_path / "out", refine=sam_refiner(Predictor()), **options
    )
    assert manifest["options"]["refine"] == "Predictor"
    found = json.loads((tmp_path / "out" / "annotations" / "instances_all.json").read_text())["annotations"]
    assert [one["bbox"] for one in found] == [[9, 8, 15, 11], [49, 16, 23, 19]]
    assert [one["area"] for one in found] == [15 * 11, 23 * 19]


def test_a_random_sam_of_hugging_face(photos, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 16,
        "mlp_dim": 16, "output_channels": 16, "num_pos_feats": 8, "window_size": 2, "global_attn_indexes": [0],
    }  # fmt: skip
    config = transformers.SamConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    model = transformers.SamModel(config)
    images = transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    refine = hugging_face_sam(model, transformers.SamProcessor(images))
    masks = refine(scene(), np.array([RED, BLUE], np.float32), np.array([[12, 12], [50, 20]], np.float32))
    assert (masks.shape, masks.dtype) == ((2, 40, 80), bool)
    manifest = label_files(loaded(), photos / "a.png", tmp_path / "out", refine=refine, **METHOD)
    assert (manifest["boxes"], manifest["options"]["refine"]) == (2, "SamModel")


def test_a_sam_that_cannot_be_loaded_is_one_line(tmp_path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(InputError, match="cannot be loaded"):
        hugging_face_sam(str(tmp_path / "nothing"))


# ---------------------------------------------------------------------------- Label Studio asks over HTTP


CONFIG = (
    '<View><Image name="photo" value="$image"/><RectangleLabels name="kind" toName="photo">'
    '<Label value="red"/><Label value="other"/></RectangleLabels></View>'
)


@pytest.fixture
def ask(photos):
    server = serve(Backend(loaded(), photos, method="cam"), port=0)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def ask(path, content=None, data=None):
        body = data if data is not None or content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}", data=body)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    yield ask
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_backend_is_up(ask) -> None:
    assert ask("/health")[1]["status"] == "UP"
    assert ask("/setup", {"project": "1", "schema": CONFIG}) == (200, {"model_version": "sightline"})
    assert ask("/webhook", {"action": "ANNOTATION_CREATED"})[0] == 200
    assert ask("/nothing")[0] == 404


def test_the_backend_boxes_the_tasks(ask) -> None:
    tasks = [{"id": 1, "data": {"image": "/data/local-files/?d=b/c.png"}}]
    code, answer = ask("/predict", {"tasks": tasks, "label_config": CONFIG})
    assert code == 200
    result = answer["results"][0]["result"][0]
    assert (result["from_name"], result["to_name"], result["type"]) == ("kind", "photo", "rectanglelabels")
    value = result["value"]
    assert value["rectanglelabels"] == ["red"]
    assert (value["x"], value["y"], value["width"], value["height"]) == pytest.approx((10, 20, 20, 30))
    both = CONFIG.replace('"other"', '"blue, azure"')
    best = ask("/predict", {"tasks": tasks, "label_config": both})[1]["results"][0]["result"]
    assert [one["value"]["rectanglelabels"] for one in best] == [["red"]]  # the more probable of the two
    assert ask("/predict", {"tasks": tasks})[1]["results"][0]["result"][0]["from_name"] == "label"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("/data/local-files/?d=../secret.png", "no photo"),
        ("/data/local-files/?d=/etc/passwd", "no photo"),
        ("http://example.org/a.png", "is elsewhere"),
        ("/data/gone.png", "no photo"),
    ],
)
def test_the_backend_reads_only_its_folder(ask, photos, url, says) -> None:
    scene().save(photos.parent / "secret.png")
    code, answer = ask("/predict", {"tasks": [{"data": {"image": url}}]})
    assert code == 400
    assert says in answer["error"]


def test_what_is_not_a_request_is_refused(ask) -> None:
    assert ask("/predict", data=b"{")[0] == 400
    assert ask("/predict", data=b"[]")[0] == 400
    assert "no tasks" in ask("/predict", {})[1]["error"]
    assert "without an image" in ask("/predict", {"tasks": [{}]})[1]["error"]


def test_media_of_label_studio_itself(photos) -> None:
    backend = Backend(loaded(), photos)
    assert backend.path_of({"data": {"image": "/data/b/c.png"}}) == (photos / "b" / "c.png").resolve()
    with pytest.raises(InputError, match="is not a folder"):
        Backend(loaded(), photos / "a.png")
