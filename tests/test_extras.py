"""Without an extra: the base works, and what needs the extra says in one line how to install it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sightline.demo_photos import photo_path

EXTRAS = {
    "evaluate": ["numba", "llvmlite", "scipy", "cv2"],
    "train": ["lightning", "pytorch_lightning", "lightning_utilities", "torchmetrics", "tensorboard"],
    "batch": ["pyarrow", "fsspec"],
    "ray": ["ray"],
    "discovery": ["sklearn", "joblib"],
    "onnx": ["onnx", "onnxruntime", "onnxscript"],
    "notebook": ["ipywidgets", "pandas"],
    "export": ["pycocotools"],
    "hf": ["transformers"],
    "clip": ["open_clip"],
}
ALL = [package for packages in EXTRAS.values() for package in packages]
PHOTO = str(photo_path("coffee"))

# What runs on the base alone.
BASE = {
    "explain": ["explain", PHOTO, "--out", "{out}"],
    "demo": ["demo", "--out", "{out}"],
    "methods": ["methods"],
    "models": ["models", "resnet1*"],
    "annotations": ["boxes", PHOTO, "--method", "gradcam", "--format", "voc", "--out", "{out}"],
    "help of evaluate": ["evaluate", "--help"],
    "boxes": f"""
import sightline
e = sightline.explain(sightline.load_model(), {PHOTO!r}, method="gradcam")
assert len(e.boxes()[0][0]) == 1 and e.masks().any() and e.overlay(0, 0).width
e.save("{{out}}")
""",
}

# A verb or a Python call, without this package (and, where it is "everything", without any): the extra.
NEEDS = [
    ("numba", "evaluate", ["evaluate", "--data", "{out}", "--model", "resnet18"]),
    ("cv2", "evaluate", ["evaluate", "--data", "{out}", "--model", "resnet18"]),
    ("everything", "evaluate", ["evaluate", "--data", "{out}", "--model", "resnet18"]),
    ("numba", "evaluate", ["faithfulness", "--data", "{out}", "--model", "resnet18"]),
    ("ray", "ray", "from sightline.batch.ray_engine import RayEngine; RayEngine()"),
    ("lightning", "train", ["train", "recipe.yaml"]),
    ("lightning", "train", ["refine", "recipe.yaml"]),
    ("pyarrow", "batch", ["batch", PHOTO, "--out", "{out}"]),
    ("everything", "ray", ["batch", PHOTO, "--engine", "ray", "--out", "{out}"]),
    ("fsspec", "batch", ["batch", PHOTO, "--out", "{out}"]),
    ("ray", "ray", ["batch", PHOTO, "--engine", "ray", "--out", "{out}"]),
    ("onnx", "onnx", ["export", "--out", "{out}/m.onnx"]),
    ("onnxruntime", "onnx", ["export", "--out", "{out}/m.onnx"]),
    ("onnxscript", "onnx", ["export", "--out", "{out}/m.onnx"]),
    ("numba", "evaluate", ["audit", "--data", "{out}", "-m", "resnet18", "--out", "{out}"]),
    ("pycocotools", "export", ["masks", PHOTO, "--method", "gradcam", "--out", "{out}"]),
    ("ipywidgets", "notebook", "from sightline.explanation import example; example().explore()"),
    ("pandas", "notebook", "from sightline.explanation import example; example().to_dataframe()"),
    ("torchmetrics", "train", "import sightline.metrics.torch_metrics"),
    ("sklearn", "discovery", "from sightline.discovery.generic_features import generic_features"),
    ("sklearn", "discovery", ["discover", "finegrained", "--data", "{out}", "--out", "{out}"]),
    ("sklearn", "discovery", ["discover", "objects", "--data", "{out}", "--out", "{out}"]),
    ("sklearn", "discovery", ["discover", "concept", "captions.json", "--phrase", "sea", "--out", "{out}"]),
    ("sklearn", "discovery", ["discover", "text", "--data", "{out}", "--out", "{out}"]),
    ("sklearn", "discovery", ["discover", "vqa", "--data", "{out}", "--out", "{out}"]),
    ("numba", "evaluate", "import sightline; sightline.evaluate"),
    ("numba", "evaluate", "import sightline; sightline.evaluate_faithfulness"),
    ("pyarrow", "batch", "import sightline; sightline.explain_batch"),
    ("numba", "evaluate", "from sightline.evaluation import evaluate"),
    ("lightning", "train", "from sightline.training.run import train_recipe"),
    ("pyarrow", "batch", "from sightline.batch.run import explain_batch"),
    ("pyarrow", "batch", "from sightline.batch.listing import read_items"),
    ("sklearn", "discovery", "from sightline.discovery.linear import fit_linear"),
    ("transformers", "hf", "import sightline; sightline.load_model('hf/microsoft/resnet-18')"),
]
INSTALLED_AS = {"cv2": "opencv-python-headless", "sklearn": "scikit-learn"}


def run_all(cases, folder):
    """The result of each (missing packages, command line or code), each with a folder of its own."""
    described = []
    for number, (missing, run) in enumerate(cases):
        out = folder / str(number)
        out.mkdir()
        filled = run.replace("{out}", str(out)) if isinstance(run, str) else fill(run, out)
        described.append({"missing": missing, "run": filled})
    script = Path(__file__).with_name("missing_extras.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        input=json.dumps({"hide": ALL, "cases": described}),
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def fill(arguments, out):
    return [argument.replace("{out}", str(out)) for argument in arguments]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All cases in one process, which imports torch once."""
    base = [(ALL, run) for run in BASE.values()]
    needs = [(ALL if package == "everything" else [package], run) for package, _, run in NEEDS]
    return run_all([*base, *needs], tmp_path_factory.mktemp("extras"))


@pytest.fixture(scope="module")
def base(results):
    return dict(zip(BASE, results, strict=False))


@pytest.fixture(scope="module")
def needs(results):
    return results[len(BASE) :]


@pytest.mark.parametrize("name", BASE)
def test_the_base_alone(base, name):
    assert base[name]["code"] == 0, base[name]["err"]


@pytest.mark.parametrize("case", range(len(NEEDS)))
def test_a_missing_extra_is_one_line(needs, case):
    package, extra, run = NEEDS[case]
    found = needs[case]
    install = f"is not installed: pip install 'sightline-cam[{extra}]'"
    lines = found["err"].splitlines()
    if isinstance(run, str):  # the error's own line, below a traceback
        assert found["code"] == 1
        assert lines[-1].startswith("sightline.errors.MissingExtraError: ")
    else:
        assert (found["code"], len(lines)) == (2, 1), found["err"]
        assert lines[0].startswith("sightline: ")
    assert lines[-1].endswith(install)
    if package != "everything":
        named = lines[-1].removesuffix(f" {install}").rpartition(" ")[2]
        # or one of the same extra that is not there at all
        assert named == INSTALLED_AS.get(package, package) or find_spec(named) is None
