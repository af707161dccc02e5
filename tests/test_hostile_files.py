"""Files that nobody should have written: each the smallest case, each one clear line or simply read."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, features
from safetensors.torch import save_file

import sightline
from sightline import files
from sightline.batch.listing import read_items
from sightline.data.adapters.folder import read_folder
from sightline.data.adapters.labelme import read_polygons
from sightline.data.adapters.mat import read_structs
from sightline.data.adapters.voc_xml import read_voc_xml
from sightline.data.images import decode_image, open_picture, photo_size, read_image
from sightline.data.items import Item, images_below
from sightline.data.records import read_json
from sightline.data.saved_maps import read_map
from sightline.errors import ImageError, InputError
from sightline.models.loading import load_model
from sightline.models.preprocess import Preprocess
from sightline.models.weights import read_weights
from sightline.training.recipe import make_recipe, read_recipe, read_yaml
from sightline.types import ZipMember

posix = pytest.mark.skipif(os.name == "nt", reason="pipes and devices of POSIX")


def refused(read: Callable[[], object], *words: str) -> str:
    """The one line with which ``read`` is refused."""
    with pytest.raises(InputError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    for word in words:
        assert word in message, message
    return message


def png(mode: str = "RGB", value: object = 0) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (8, 6), value).save(file, "PNG")
    return file.getvalue()


# ------------------------------------------------------------------------------------------- what is no file

READERS: dict[str, Callable[[Path], object]] = {
    "x.jpg": read_image,
    "x.png": photo_size,
    "x.xml": read_voc_xml,
    "y.xml": read_polygons,
    "x.json": read_json,
    "x.yaml": read_recipe,
    "x.npy": read_map,
    "map.png": read_map,
    "x.pth": read_weights,
    "x.safetensors": read_weights,
    "x.mat": lambda path: read_structs(path, "synsets"),
    "list.csv": lambda path: read_items([path]),
}


@posix
@pytest.mark.parametrize("name", READERS)
def test_pipes_devices_folders_and_dead_links(tmp_path: Path, name: str) -> None:
    read = READERS[name]
    pipe, device, dead = (tmp_path / folder / name for folder in ("pipe", "device", "dead"))
    for path in (pipe, device, dead):
        path.parent.mkdir()
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    dead.symlink_to(tmp_path / "gone")
    if name != "list.csv":  # a listing takes only files
        refused(lambda: read(pipe), "is a named pipe")
        refused(lambda: read(device), "leads to a device")
    folder = tmp_path / "folder" / name
    folder.mkdir(parents=True)
    refused(lambda: read(folder), name)
    refused(lambda: read(dead), "is a link to" if name != "list.csv" else name)


def test_a_home_of_nobody_and_a_name_with_nul() -> None:
    refused(lambda: read_items(["~nosuchuser/a.jpg"]), "~nosuchuser")
    refused(lambda: read_image("a\0b.jpg"))


def test_sizes_have_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "big.jpg"
    with path.open("wb") as file:
        file.truncate(2 * files.GIB)
    refused(lambda: read_image(path), "2,147,483,648 bytes; expected at most 1,073,741,824")
    refused(lambda: photo_size(path), "2,147,483,648 bytes")
    recipe = tmp_path / "big.yaml"
    recipe.write_bytes(b"#" * (files.MOST_RECIPE_BYTES + 1))
    refused(lambda: read_recipe(recipe), "expected at most 1,048,576")


@posix
def test_an_unreadable_subfolder_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").write_bytes(png())
    scandir = os.scandir

    def refuse(path: object) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)
    closed, photo = sorted(images_below(tmp_path), key=lambda path: path.name == "a.png")
    assert photo.name == "a.png"
    refused(lambda: read_image(closed), "closed cannot be opened: Permission denied")
    rows = read_items([tmp_path]).to_pylist()
    assert sorted(row["id"] for row in rows) == ["a.png", "closed"]


# ------------------------------------------------------------------------------------------- pictures


def test_only_the_documented_formats_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    refused(lambda: decode_image(postscript, "a.jpg"), "a.jpg is not an image of a known format", "JPEG")
    for form in ("ICO", "TGA", "PCX", "SGI", "IM", "DDS", "ICNS"):
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, form)
        refused(lambda content=file.getvalue(): decode_image(content, "a.jpg"), "is not an image of a known")


def test_files_are_opened_in_one_place() -> None:
    package = Path(sightline.__file__).parent
    opening = [p.name for p in package.rglob("*.py") if re.search(r"\bImage\.open\(", p.read_text())]
    assert opening == ["images.py"]


def test_the_documented_formats_are_read() -> None:
    for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF"):
        if form == "AVIF" and not features.check("avif"):
            continue
        file = io.BytesIO()
        Image.new("RGB", (16, 16), "red").save(file, form)
        assert decode_image(file.getvalue(), form).size == (16, 16)


def test_a_format_that_somebody_registered_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Image.Image):
        pass

    def opened(file: object, name: object) -> Image.Image:
        return Image.new("RGB", (3, 2))

    opened.__module__ = "pillow_own"
    monkeypatch.setitem(Image.OPEN, "OWN", (opened, lambda start: start.startswith(b"own")))
    monkeypatch.setattr(Image, "ID", [*Image.ID, "OWN"])
    assert open_picture(b"own format").size == (3, 2)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_dark_16_bit_picture_stays_dark(form: str) -> None:
    # The range is the format's, 0 to 65535: a picture whose brightest value is 255 is nearly black.
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 255, np.uint16)).save(file, form)
    assert decode_image(file.getvalue(), "a").getpixel((0, 0)) == (1, 1, 1)


def test_a_wide_png_is_scaled_by_its_16_bits() -> None:
    picture = Image.fromarray(np.full((4, 4), 255, np.int32))
    picture.format = "PNG"  # what older versions of Pillow make of a 16-bit PNG
    assert read_image(picture).getpixel((0, 0)) == (1, 1, 1)


# ------------------------------------------------------------------------------------------- archives


def test_members_of_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", png())
    content = bytearray(path.read_bytes())
    flags = content.index(b"PK\x01\x02") + 8
    content[flags] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    refused(lambda: read_image(ZipMember(tmp_path / "locked.zip", "a.png")), "locked.zip!a.png is encrypted")
    content[flags] &= ~1
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<I", 0xF0000000)
    (tmp_path / "huge.zip").write_bytes(content)
    refused(lambda: read_image(ZipMember(tmp_path / "huge.zip", "a.png")), "4,026,531,840 bytes")
    assert read_image(ZipMember(path, "a.png")).size == (8, 6)


def tar_of(path: Path, size: bytes) -> Path:
    """A tar of one member whose header states another size."""
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(png())
        archive.addfile(member, io.BytesIO(png()))
    content = bytearray(path.read_bytes())
    content[124:136] = size
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)
    return path


def test_a_negative_size_in_a_tar(tmp_path: Path) -> None:
    negative = (-512).to_bytes(12, "big", signed=True)
    refused(lambda: read_items([tar_of(tmp_path / "a.tar", negative)]), "a.tar is not an uncompressed tar")


def test_a_huge_size_in_a_tar(tmp_path: Path) -> None:
    (row, *_) = read_items([tar_of(tmp_path / "a.tar", b"77777777777\0")]).to_pylist()
    assert "expected at most 1,073,741,824" in row["fault"]
    with pytest.raises(ImageError, match="expected at most"):
        Item(**row).read()


# ------------------------------------------------------------------------------------------- text


def test_deep_and_expanding_text(tmp_path: Path) -> None:
    deep = tmp_path / "deep.xml"
    deep.write_text("<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>")
    refused(lambda: read_voc_xml(deep), "deep.xml, line 1: nested more than 64 levels deep")
    refused(lambda: read_polygons(deep), "nested more than 64 levels deep")
    laughs = tmp_path / "laughs.xml"
    laughs.write_text('<!DOCTYPE a [<!ENTITY b "ha">]><annotation>&b;</annotation>')
    refused(lambda: read_voc_xml(laughs), "declares an entity")
    refused(lambda: read_polygons(laughs), "declares an entity")
    for text in ("[" * 100_000, "[" * 100 + "]" * 100, '{"a":' * 70 + "1" + "}" * 70):
        path = tmp_path / "deep.json"
        path.write_text(text)
        refused(lambda path=path: read_json(path), "not JSON of at most 64 levels")


def test_yaml_that_stands_for_a_billion_values(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text("\n".join(lines))
    refused(lambda: read_recipe(bomb), "bomb.yaml stands for more than 100,000 values")
    for text, words in (
        ("a: &a [*a]", "an alias refers to what it is part of"),
        ("[" * 100 + "]" * 100, "nested more than 64 levels"),
        ("[" * 1_000_000, "nested more than 64 levels"),
        ("a: 2020-99-99", "not valid YAML"),
        ("a: !!python/object/apply:os.system [exit]", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("? [a]\n: b", "not valid YAML"),
    ):
        bomb.write_text(text)
        refused(lambda: read_yaml(bomb), words)
    bomb.write_text("run: &r {seed: 1}\nmore: {<<: *r, out: x}")
    assert read_yaml(bomb)["more"] == {"seed": 1, "out": "x"}
    refused(lambda: make_recipe({"optimiser": {"lr": 10**400}}), "optimiser.lr")


def test_tables_that_hold_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": [1, 2]}), tmp_path / "a.parquet")
    refused(lambda: read_items([tmp_path / "a.parquet"]), "column 'path' holds int64; expected text")
    pq.write_table(
        pa.table({"path": ["a\0b"]}),
        tmp_path / "b.parquet",
    )
    refused(lambda: read_items([tmp_path / "b.parquet"]), "row 1")
    photos = tmp_path / "photos" / "cat"
    photos.mkdir(parents=True)
    (photos / "a.png").write_bytes(png())
    for content in (
        b"file,x0,y0,x1,y1\n\0,1,2,3,4\n",
        b"file,x0\xff",
        b"file,x0,y0,x1,y1\n" + b"9" * 200_000,
    ):
        (tmp_path / "photos" / "boxes.csv").write_bytes(content)
        refused(lambda: read_folder(tmp_path / "photos"), "boxes.csv")
    (tmp_path / "photos" / "boxes.csv").write_text(f"file,x0,y0,x1,y1\ncat/a.png,0,0,{'9' * 400},4\n")
    refused(lambda: read_folder(tmp_path / "photos"), "boxes.csv, line 2", "not finite")


def test_a_name_that_is_not_text_is_one_row(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (tmp_path / name).write_bytes(png())
    except OSError:
        pytest.skip("this file system holds only UTF-8 names")
    (tmp_path / "b.png").write_bytes(png())
    rows = {row["id"]: row["fault"] for row in read_items([tmp_path]).to_pylist()}
    assert rows["b.png"] is None
    assert "the file's name is not UTF-8 text" in rows[r"caf\xe9.png"]


# ------------------------------------------------------------------------------------------- weights


def test_a_pickle_that_holds_itself(tmp_path: Path) -> None:
    held: dict[str, object] = {"w": torch.zeros(1)}
    held["state_dict"] = held
    torch.save(held, tmp_path / "a.pth")
    refused(lambda: read_weights(tmp_path / "a.pth"), "without end")


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.eye(3).to_sparse(), "a.pth"),
        (torch.zeros(2, dtype=torch.complex64), "tensor 'w' is torch.complex64"),
        (torch.zeros(2, device="meta"), "tensor 'w' is without data"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path: Path, tensor: torch.Tensor, words: str) -> None:
    torch.save({"w": tensor}, tmp_path / "a.pth")
    refused(lambda: read_weights(tmp_path / "a.pth"), words)


def test_integer_weights_for_a_network_of_floats(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, 3, dtype=torch.int64), "bias": torch.zeros(2)}, tmp_path / "a.pth")
    refused(
        lambda: load_model(torch.nn.Linear(3, 2), weights=tmp_path / "a.pth"),
        "weight torch.int64 instead of torch.float32",
    )


def test_a_checkpoint_that_inflates(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": torch.zeros(8)}, path)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<I", 0xF0000000)
    path.write_bytes(content)
    refused(lambda: read_weights(path), "unpacked, has 4,026,531,")


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"architecture": "hf/someone/net"}, "unknown network 'hf/someone/net'"),
        ({"architecture": "timm/hf-hub:someone/net"}, "unknown network"),
        ({"architecture": ["small-gap"]}, "unknown network"),
        ({"architecture": "small-gap", "architecture_options": {"depths": [60_000]}}, "at most 512"),
        ({"architecture": "small-gap", "architecture_options": {"widths": [65_536] * 5}}, "a.safetensors"),
        (
            {"architecture": "refined", "architecture_options": {"base": "hf/x/y-gap"}},
            "unknown network 'hf/x/y-gap'",
        ),
        (
            {"architecture": "refined", "architecture_options": {"grid": 65_536, "hidden": 65_536}},
            "cannot be",
        ),
    ],
)
def test_descriptions_name_networks_only(tmp_path: Path, description: object, words: str) -> None:
    save_file(
        {"w": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"sightline": json.dumps(description)}
    )
    refused(lambda: load_model(tmp_path / "a.safetensors"), words)


@pytest.mark.parametrize(
    "saved",
    [
        "x",
        {
            "input_hw": [1_000_000, 1_000_000],
            "resize": 8,
            "mean": [0.0],
            "std": [1.0],
            "interpolation": "box",
        },
        {"input_hw": 8, "resize": 8, "mean": [0.0], "std": [1.0], "interpolation": "box"},
        {"input_hw": [8, 8], "resize": 8, "mean": ["a"], "std": [1.0], "interpolation": "box"},
        {"input_hw": [8, 8], "resize": 8, "mean": [float("nan")], "std": [1.0], "interpolation": "box"},
        {"input_hw": [8, 8], "resize": 8, "mean": [0.0], "std": [1.0], "interpolation": ["box"]},
    ],
)
def test_saved_preprocessing_is_checked(saved: object) -> None:
    def read() -> Preprocess:
        with files.reading("a.safetensors"):
            return Preprocess.from_dict(saved)  # type: ignore[arg-type]

    refused(read)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    class Marker:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "ran",)

    for place, content in enumerate((Marker(), {"state_dict": {"w": Marker()}})):
        path = tmp_path / f"{place}.pth"
        path.write_bytes(pickle.dumps(content))
        refused(lambda path=path: read_weights(path))
        torch.save(content, path)
        refused(lambda path=path: read_weights(path))
    assert not (tmp_path / "ran").exists()
