"""What users write who come from another tool, another page or the other interface: each says the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import sightline
from sightline.cli import main
from sightline.cli._output import discard_empty, prepare_folder
from sightline.cli._verbs import with_new_verbs
from sightline.data.class_names import way_out
from sightline.data.classes import match_classes
from sightline.data.items import expand_paths
from sightline.errors import InputError, UnsupportedError, unknown
from sightline.evaluation.audit_report import check_measurable
from sightline.labelling.run import label_files
from sightline.methods.registry import get_method
from sightline.methods.spec import parse_methods
from sightline.models.loading import LoadedModel
from sightline.models.preprocess import Preprocess
from sightline.pictures.panel import LEADING, Cell, panel
from sightline.reports.folder_report import folder_report
from sightline.reports.output_folder import OutputFolder
from sightline.targets import Contrast
from sightline.types import Dataset, Sample

CAPTION = "lite0 · view: whole · heat: minmax · box: largest region ≥ 0.2 of the maximum"


def convolutions() -> nn.Sequential:
    parts = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*parts).eval()


class OneSize(nn.Module):
    """Its linear layer reads every position: another size of image does not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.read = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4 * 16, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.read(torch.relu(self.cut(images)).flatten(1))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    plain = Preprocess((16, 16), 16, (0.5,) * 3, (0.5,) * 3)
    return LoadedModel(convolutions(), "toy", ["tabby", "lynx", "boxer"], plain)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "red.png"
    path.parent.mkdir()
    Image.new("RGB", (20, 16), "red").save(path)
    return path


@pytest.mark.parametrize(
    ("methods", "options", "layers", "message"),
    [
        (
            ["layercam:layer=a"],
            [],
            ["b"],
            "a layer is given twice: a in the method 'layercam layer=a', and b",
        ),
        (["layercam:layer=a", "cam:layer=c"], [], ["b"], "a layer is given twice"),
        (["cam:nwc=true"], ["nwc=false"], [], "option nwc is given twice: in the method 'cam nwc=true' and"),
        (["occlusion:window=4"], ["occlusion.window=8"], [], "option window is given twice"),
        (["localise"], ["nwc=false"], [], "write localise:nwc=false"),
    ],
)
def test_what_would_count_for_no_method_is_given_twice(methods, options, layers, message):
    with pytest.raises(InputError, match=message):
        parse_methods(methods, options, layers)


@pytest.mark.parametrize(
    "twice",
    [
        {"method": "layercam:layer=a", "layers": ["b"]},
        {"method": "cam:nwc=true", "method_options": {"nwc": False}},
    ],
)
def test_a_batch_refuses_what_is_given_twice_before_it_makes_a_folder(twice):
    pytest.importorskip("pyarrow", reason="the extra [batch] is not installed")
    from sightline.batch.worker import BatchOptions

    with pytest.raises(InputError, match="is given twice"):
        BatchOptions(**twice)


def test_a_default_for_several_methods_leaves_those_alone_that_say_otherwise():
    specs = parse_methods(["layercam:layer=a", "cam:nwc=true", "gradcam"], ["nwc=false"], ["b"])
    assert [spec.layers for spec in specs] == [("a",), ("b",), ("b",)]
    assert [spec.options.get("nwc") for spec in specs[1:]] == [True, False]


def test_names_that_hold_the_word_come_first():
    classes = ["crate", "oxcart", "castle", "dough", "hog", "tiger cat", "Maltese dog, Maltese", "vit_l_16"]
    assert "did you mean 'tiger cat', 'crate'" in str(unknown("class", "cat", classes))
    assert "did you mean 'Maltese dog, Maltese'" in str(unknown("class", "DOG", classes))
    assert "did you mean 'vit_b_16'" in str(unknown("model", "ViT_B_16", [*classes, "vit_b_16"]))
    with pytest.raises(InputError, match="did you mean 'gradcam_pp'"):
        get_method("gradcam++")


@pytest.mark.parametrize(
    "address", ["https://a.b/cat.jpg", "http://a.b/cat.jpg?size=2", "https:/a.b/cat.jpg"]
)
def test_a_url_is_not_fetched(address, model):
    with pytest.raises(InputError, match=r"'https?://a\.b/cat\.jpg.*is a URL, and nothing is fetched"):
        expand_paths([address])
    with pytest.raises(InputError, match="is a URL, and nothing is fetched"):
        sightline.explain(model, address)


def test_a_class_as_target_is_named(model):
    image = torch.rand(1, 3, 16, 16)
    with pytest.raises(InputError, match=r"target is an int; .*for a class give classes=1"):
        sightline.explain(model, image, target=1)
    with pytest.raises(InputError, match=r"Contrast.* has the same class twice"):
        sightline.explain(model, image, target=Contrast("tabby", 0))
    found = sightline.explain(model, image, target=Contrast("tabby", "lynx"))
    assert found.category(0, 0) == "tabby − lynx"


def test_a_picture_that_was_not_explained(model):
    found = sightline.explain(model, torch.rand(1, 3, 16, 16), method="gradcam")
    with pytest.raises(IndexError, match="class 5 of 1 explained; expected 0 to 0"):
        found.overlay(0, 5)
    with pytest.raises(IndexError, match="image 2 of 1 explained"):
        found.overlay(2)


def test_a_network_of_one_size_is_told_which_option_shows_it_another():
    images = torch.rand(1, 3, 16, 16)
    for method, size in (("localise", "23 × 23"), ("gradcam:scales=1,2", "32 × 32")):
        with pytest.raises(
            UnsupportedError, match=f"shows the network {size}.*leave out scales.*localise-fast"
        ):
            sightline.explain(OneSize().eval(), images, method=method)
    with pytest.raises(InputError, match=r"^OneSize fails on a batch of 1 × 3 × 12 × 12"):
        sightline.explain(OneSize().eval(), images[..., :12, :12], method="localise")
    assert sightline.explain(OneSize().eval(), images, method="gradcam:layer=cut").maps.shape[0] == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["localise", "gradcam:tencrop", "gradcam:scales=1,1.5"])
def test_half_precision_is_resized_on_the_cpu(dtype, method):
    torch.manual_seed(0)
    network, images = convolutions(), torch.rand(1, 3, 16, 16)
    whole = sightline.explain(network, images, method=method, classes=[0]).heatmaps()
    half = sightline.explain(network.to(dtype), images.to(dtype), method=method, classes=[0])
    assert half.maps.dtype == torch.float32
    assert (half.heatmaps() - whole).abs().mean() < 0.05  # bfloat16 has 8 bits


def test_boxes_and_masks_need_a_folder_each(model, photo, tmp_path):
    out = tmp_path / "labels"
    label_files(model, photo, out, method="gradcam", format="coco")
    with pytest.raises(InputError, match="labels holds boxes, and masks need an output folder of their own"):
        label_files(model, photo, out, method="gradcam", format="voc-png")


def test_a_report_of_the_folder_above_names_those_below(tmp_path):
    with OutputFolder(tmp_path / "out" / "explain", "explain") as folder:
        folder.finish({"images": []})
    with pytest.raises(InputError, match=r"holds no results.*did you mean .*out/explain\?"):
        folder_report(tmp_path / "out")


def test_a_condition_on_boxes_is_refused_before_the_audit(photo):
    data = Dataset("mine", "all", [Sample("red", photo, 0)], ("red",))
    with pytest.raises(InputError, match="--fail-if heat_in_box: mine all has no boxes"):
        check_measurable(["accuracy<0.5", "heat_in_box<0.5"], data)
    check_measurable(["accuracy<0.5", "heat_on_border>0.5"], data)
    boxed = Sample("red", photo, 0, torch.tensor([[0.0, 0.0, 5.0, 5.0]]))
    check_measurable(["heat_in_box<0.5"], Dataset("mine", "all", [boxed], ("red",)))


def test_classes_that_a_model_lacks_name_the_ways_out():
    with pytest.raises(InputError, match="take a model trained on these classes"):
        match_classes(["yeti"], ["tabby", "lynx"], 2)
    assert "--class-names cub-200-2011, or --unknown-classes skip" in way_out(["Laysan Albatross"])


def test_what_a_run_removes_of_the_one_before_is_said(tmp_path, capsys):
    for names in (["a.txt", "b.txt"], ["b.txt"]):
        prepare_folder(tmp_path, "explain")
        with OutputFolder(tmp_path, "explain") as folder:
            for name in names:
                folder.write_text(name, name)
            folder.finish({"complete": True})
        discard_empty()
    assert capsys.readouterr().err == (
        f"sightline: 1 file of the run before removed from {tmp_path}: a.txt (--out keeps runs apart)\n"
    )


def test_methods_that_fuse_layers_of_a_network_without_any_say_what_works():
    bare = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)).eval()
    for method in ("fullycam", "refinecam"):
        with pytest.raises(UnsupportedError) as caught:
            sightline.explain(bare, torch.rand(1, 3, 8, 8), method=method)
        assert ", ," not in str(caught.value)
        assert "e.g. ," not in str(caught.value)
        assert "'rise' or 'occlusion'" in str(caught.value) or "'layercam'" in str(caught.value)


def test_a_url_on_the_command_line_is_one_line(capsys):
    assert main(["explain", "https://a.b/cat.jpg"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("verb", ["explain", "boxes", "evaluate"])
def test_an_old_name_works_and_is_not_in_the_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--relative-to" in shown
    assert "--standard" not in shown
    assert with_new_verbs([verb, "--standard", "max"]) == [verb, "--relative-to", "max"]


def test_a_long_caption_has_two_lines_and_loses_nothing():
    photo, cells = Image.new("RGB", (60, 60), "teal"), [Cell(torch.rand(3, 3), "tabby", 0.1)]
    short, long = (
        "lite0 · view: whole",
        " · ".join(["not sure: none of the 1,000 classes fits well", CAPTION]),
    )
    one, two = (panel(photo, [("cam", cells)], caption=text) for text in (short, long))
    assert two.width == one.width
    assert two.height == one.height + LEADING
    assert CAPTION in " · ".join(shown_words(long))


def shown_words(text):
    """The lines of a caption beneath a panel of one class."""
    from sightline.pictures.panel import _caption_lines, _layout

    return _caption_lines(_layout((60, 60), 1, 1, 288), text)
