"""Break valid files a little and read them: each reader gives a value or one `InputError`, never anything else.

python tools/fuzz.py --seconds 3600 --keep fuzz-failures     # `make fuzz`

The corpus is generated: one small valid file for each reader. Every case has a number, from which it is made again.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tarfile
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sightline.batch.listing import items_of, read_items
from sightline.data.adapters.captions import read_captions
from sightline.data.adapters.coco import read_coco
from sightline.data.adapters.cub import read_cub
from sightline.data.adapters.cvat import read_cvat
from sightline.data.adapters.folder import read_folder
from sightline.data.adapters.label_studio import read_label_studio
from sightline.data.adapters.labelme import read_polygons
from sightline.data.adapters.mat import read_structs
from sightline.data.adapters.voc_xml import read_voc_xml
from sightline.data.adapters.yolo import read_yolo
from sightline.data.images import decode_image
from sightline.data.saved_maps import read_map
from sightline.errors import InputError
from sightline.models.families import torchvision
from sightline.models.families.gapnet import build_classifier
from sightline.models.loading import load_model
from sightline.models.weights import read_weights
from sightline.training.checkpoint import save_checkpoint
from sightline.training.pseudo_boxes import COLUMNS, read_pseudo_boxes
from sightline.training.recipe import make_recipe, read_yaml

# What a damaged text is likely to hold where it held something else.
TOKENS = (
    b"", b"\0", b"\xff\xfe", b"-1", b"1e999", b"9" * 400, b"NaN", b"null", b"[]", b"{}", b"[[[[", b"2020-99-99",
    b"~nosuchuser", b"\"", b"\r", b"&a *a", b"!!python/name:os.system", b"true", b"0x10", b"\xc2\xa0", b"<a>" * 90,
)  # fmt: skip
SMALL: dict[str, Any] = {"stem": 4, "widths": [4, 4], "blocks": [1, 1], "strides": [1, 2]}
SLOW = 10.0  # seconds for one case: more counts as a failure


@dataclass(frozen=True)
class Format:
    """A reader and the files that it is given: name below the folder -> content; ``broken``: those that are broken."""

    read: Callable[[Path], object]
    files: dict[str, bytes]
    broken: tuple[str, ...]


def corpus() -> dict[str, Format]:
    """One small valid input for each reader."""
    photo = _picture("JPEG")
    one = lambda name, content, read: Format(lambda root: read(root / name), {name: content}, (name,))  # noqa: E731
    formats = {
        f"picture {form}": one(
            "a.jpg", _picture(form), lambda path: decode_image(path.read_bytes(), str(path))
        )
        for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM")
    }
    xml = (
        b"<annotation><size><width>8</width><height>6</height></size><object><name>cat</name><difficult>0</difficult>"
        b"<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>5</ymax></bndbox></object></annotation>"
    )
    polygon = (
        b"<annotation><object><name>cat</name><deleted>0</deleted><polygon><pt><x>1</x><y>1</y></pt>"
        b"<pt><x>4</x><y>1</y></pt><pt><x>4</x><y>5</y></pt></polygon></object></annotation>"
    )
    yaml = b"name: a\ndata: {root: x, train: train}\noptimiser:\n  lr: 0.1\n  epochs: 3\naugment: {sizes: {0: 64}}\n"
    coco = json.dumps({
        "images": [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 3, 4], "iscrowd": 0}],
        "categories": [{"id": 3, "name": "cat"}],
    }).encode()  # fmt: skip
    captions = json.dumps({
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}],
    }).encode()  # fmt: skip
    cvat = (
        b"<annotations><meta><task><labels><label><name>cat</name></label></labels></task></meta>"
        b'<image id="0" name="a.jpg" width="8" height="6"><box label="cat" xtl="1" ytl="1" xbr="4" ybr="5"/>'
        b'<polygon label="cat" points="1,1;4,1;4,5"></polygon></image></annotations>'
    )
    value = {"x": 10, "y": 10, "width": 50, "height": 50, "rotation": 9, "rectanglelabels": ["cat"]}
    shape = {"type": "rectanglelabels", "value": value, "original_width": 8, "original_height": 6}
    task = {"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"ground_truth": True, "result": [shape]}]}
    tasks = json.dumps([task]).encode()
    pseudo = f"{','.join(COLUMNS)}\na,0,0.1,0.1,0.5,0.5,0.9,1\n".encode()
    cub = {
        "images.txt": b"1 a.jpg\n", "classes.txt": b"1 001.Cat\n", "image_class_labels.txt": b"1 1\n",
        "train_test_split.txt": b"1 0\n", "bounding_boxes.txt": b"1 1.0 1.0 3.0 4.0\n",
    }  # fmt: skip
    return {
        **formats,
        "VOC XML": one("a.xml", xml, read_voc_xml),
        "LabelMe XML": one("a.xml", polygon, read_polygons),
        "recipe": one("a.yaml", yaml, lambda path: make_recipe(read_yaml(path))),
        "COCO": Format(
            read_coco,
            {"annotations/instances_val2017.json": coco, "val2017/a.jpg": photo},
            ("annotations/instances_val2017.json",),
        ),
        "captions": Format(
            lambda root: read_captions(root / "a.json", root), {"a.json": captions, "a.jpg": photo}, ("a.json",)
        ),
        "class folders": Format(
            read_folder,
            {"cat/a.jpg": photo, "boxes.csv": b"file,x0,y0,x1,y1,class\ncat/a.jpg,1,1,4,5,cat\n"},
            ("boxes.csv",),
        ),
        "YOLO": Format(
            read_yolo,
            {
                "data.yaml": b"path: .\nval: images\nnames: [cat]\n",
                "images/a.jpg": photo,
                "labels/a.txt": b"0 0.5 0.5 0.5 0.5\n0 0.1 0.1 0.5 0.1 0.3 0.6\n",
            },
            ("data.yaml", "labels/a.txt"),
        ),
        "CVAT": Format(read_cvat, {"annotations.xml": cvat, "images/a.jpg": photo}, ("annotations.xml",)),
        "Label Studio": Format(
            read_label_studio, {"tasks.json": tasks, "images/a.jpg": photo}, ("tasks.json",)
        ),
        "CUB": Format(read_cub, {**cub, "images/a.jpg": photo}, tuple(cub)),
        "MATLAB": one("meta.mat", _mat(), lambda path: read_structs(path, "synsets")),
        "map .npy": one("a.npy", _saved(lambda f: np.save(f, np.ones((6, 8), np.float32))), read_map),
        "map .npz": one("a.npz", _saved(lambda f: np.savez(f, a=np.ones((6, 8), np.float32))), read_map),
        "weights .pth": one("a.pth", _saved(lambda f: torch.save({"w": torch.ones(3)}, f)), read_weights),
        "checkpoint": one("a.safetensors", _checkpoint(), load_model),
        "list CSV": one("list.csv", b"path,id\na.jpg,1\nb.jpg,2\n", _read_list),
        "list Parquet": one("list.parquet", _parquet(), _read_list),
        "tar": one("a.tar", _tar(photo), _read_list),
        "pseudo-boxes": one("a.csv", pseudo, read_pseudo_boxes),
    }  # fmt: skip


def _picture(form: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return _saved(lambda file: Image.fromarray(pixels).save(file, form))


def _saved(write: Callable[[Any], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _mat() -> bytes:
    from scipy.io import savemat

    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    return _saved(lambda file: savemat(file, {"synsets": np.array([(1, "n01", "cat", 0)], dtype=fields)}))


def _checkpoint() -> bytes:
    description = {
        "architecture": "small-gap", "architecture_options": SMALL, "categories": ["cat", "dog"],
        "preprocess": {"input_hw": [64, 64], "resize": 64, "mean": [0.5], "std": [0.5], "interpolation": "box"},
        "scores": "softmax",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        save_checkpoint(path, build_classifier("small-gap", 2, **SMALL), description)
        return path.read_bytes()


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return _saved(lambda file: pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"]}), file))


def _tar(photo: bytes) -> bytes:
    def write(file: Any) -> None:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name in ("a.jpg", "b.jpg"):
                member = tarfile.TarInfo(name)
                member.size = len(photo)
                archive.addfile(member, io.BytesIO(photo))

    return _saved(write)


def _read_list(path: Path) -> list[bytes]:
    found = []
    for item in items_of(read_items([path])):
        try:
            found.append(item.read())
        except InputError:
            continue
    return found


def broken(content: bytes, chance: random.Random) -> bytes:
    """The content with one to three faults: bytes changed, cut, doubled, or a token in the place of another."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(data) + 1)
        stop = min(len(data), start + chance.choice((0, 1, 1, 2, 4, 8, 40)))
        how = chance.randrange(6)
        if how == 0:
            del data[start:]
        elif how == 1:
            del data[start:stop]
        elif how == 2:
            data[start:start] = data[start:stop] * chance.choice((1, 2, 200))
        elif how == 3 and start < len(data):
            data[start] ^= 1 << chance.randrange(8)
        elif how == 4 and start < len(data):
            data[start] = chance.choice((0, 1, 127, 128, 255))
        else:
            data[start:stop] = chance.choice(TOKENS)
    return bytes(data)


def case(number: int, formats: dict[str, Format], name: str = "") -> tuple[str, Format, dict[str, bytes]]:
    """The reader and the files of one case; the readers take turns unless one is named."""
    chance = random.Random(number)
    name = name or list(formats)[number % len(formats)]
    form = formats[name]
    changed = chance.choice(form.broken)
    return name, form, {**form.files, changed: broken(form.files[changed], chance)}


def outcome(form: Format, files: dict[str, bytes], folder: Path, slow: float = SLOW) -> str:
    """ "read", "refused", or what went wrong; more than ``slow`` seconds is wrong too."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            form.read(folder)
        found = "read"
    except InputError as error:
        one_line = "\n" not in str(error) and len(str(error)) < 2000
        found = "refused" if one_line else f"not one line: {str(error)[:200]!r}"
    except Exception as error:
        found = f"{type(error).__name__}: {error}"[:300]
    taken = time.process_time() - started
    return found if taken < slow else f"{taken:.0f} s"


def run(
    numbers: Iterator[int], folder: Path, until: float = float("inf")
) -> tuple[Counter[str], dict[int, str]]:
    """The outcomes of these cases, counted by reader and outcome, and the failures by number."""
    # Advice on weights that do not fit compares them with every network of torchvision: here with one.
    torchvision.torchvision_names, kept = (lambda: ("squeezenet1_1",)), torchvision.torchvision_names
    try:
        return _run(numbers, folder, until)
    finally:
        torchvision.torchvision_names = kept


def _run(numbers: Iterator[int], folder: Path, until: float) -> tuple[Counter[str], dict[int, str]]:
    formats, counts, failures = corpus(), Counter[str](), dict[int, str]()
    for name, form in formats.items():  # whole files are read
        found = outcome(form, form.files, folder / name.replace(" ", "-"), slow=float("inf"))
        if found != "read":
            raise RuntimeError(f"{name}: a valid file is {found}")
    for number in numbers:
        if time.monotonic() > until:
            break
        name, form, files = case(number, formats)
        found = outcome(form, files, folder / name.replace(" ", "-"))
        good = found in ("read", "refused")
        counts[f"{name} {found if good else 'failed'}"] += 1
        if not good:
            failures[number] = f"{name}: {found}"
    return counts, failures


def table(counts: Counter[str]) -> str:
    """One row per reader."""
    lines = ["| reader | read | refused in one line | failed |", "|---|---|---|---|"]
    for name in corpus():
        shown = " | ".join(str(counts[f"{name} {how}"]) for how in ("read", "refused", "failed"))
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=10**12)
    parser.add_argument("--keep", type=Path, help="folder for the files of failing cases")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(given.first, given.first + given.cases))
        counts, failures = run(numbers, Path(folder), time.monotonic() + given.seconds)
    print(table(counts))
    print(f"\n{sum(counts.values()):,} cases, {len(failures)} failed")
    for number, what in failures.items():
        print(f"case {number}: {what}", file=sys.stderr)
        for name, content in case(number, corpus())[2].items() if given.keep else ():
            path = given.keep / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return int(bool(failures))


if __name__ == "__main__":
    raise SystemExit(main())
