"""Every kind of file a user may bring: what is read, or the one line that says why not."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.data.images import read_image
from sightline.data.items import IMAGE_SUFFIXES, expand_paths
from sightline.errors import ImageError, InputError
from sightline.types import ZipMember


def corners(size: tuple[int, int] = (6, 4)) -> Image.Image:
    """Grey, with the top left pixel red and the top right one blue: every rotation and flip shows."""
    image = Image.new("RGB", size, (128, 128, 128))
    image.putpixel((0, 0), (255, 0, 0))
    image.putpixel((size[0] - 1, 0), (0, 0, 255))
    return image


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


# --- what can be read ---------------------------------------------------------------------------


def test_the_same_pixels_from_str_path_zip_and_pil(tmp_path: Path) -> None:
    image = corners()
    path = saved(image, tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "in/side.png")
    for source in (str(path), path, ZipMember(tmp_path / "a.zip", "in/side.png"), image, Image.open(path)):
        read = read_image(source)
        assert read.mode == "RGB"
        assert np.array_equal(np.asarray(read), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path: Path, orientation: int) -> None:
    upright = corners()
    # What a camera stores for each orientation, from the EXIF standard: the inverse of the way it is shown.
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in (".png", ".tiff"):
        read = read_image(saved(stored, tmp_path / f"a{suffix}", exif=exif))
        assert np.array_equal(np.asarray(read), np.asarray(upright)), suffix


def test_damaged_exif_does_not_lose_the_photo(tmp_path: Path) -> None:
    path = saved(corners(), tmp_path / "a.png", exif=b"Exif\x00\x00garbage that is no TIFF header")
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(corners()))


def test_palette_and_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    opaque = saved(image, tmp_path / "opaque.png")
    assert list(np.asarray(read_image(opaque))[0].tolist()) == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    for transparency in (1, b"\xff\x00\xff"):  # one index, and an alpha value for each index
        path = saved(image, tmp_path / "t.png", transparency=transparency)
        assert np.asarray(read_image(path))[0].tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


def test_transparent_pixels_are_laid_on_white() -> None:
    assert read_image(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(Image.new("RGBA", (1, 1), (0, 100, 200, 255))).getpixel((0, 0)) == (0, 100, 200)
    assert read_image(Image.new("LA", (1, 1), (0, 51))).getpixel((0, 0)) == (204, 204, 204)  # 20 % black


def test_transparent_colour_of_rgb_png(tmp_path: Path) -> None:
    path = saved(corners(), tmp_path / "a.png", transparency=(255, 0, 0))
    assert read_image(path).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(path).getpixel((5, 0)) == (0, 0, 255)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=100)
    red, green, blue = read_image(path).getpixel((8, 8))
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    path = saved(Image.fromarray(values), tmp_path / f"a{suffix}")
    assert np.asarray(read_image(path))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 10.0, 200.0]], np.float32), [0, 10, 200]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[7.5e9, 7.5e9]], np.float32), [0, 0]),
        (np.array([[0, 10, 200]], np.int32), [0, 10, 200]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-100_000, 0, 100_000]], np.int32), [0, 128, 255]),
    ],
)
def test_32_bit_pictures(values: np.ndarray, expected: list[int]) -> None:
    assert np.asarray(read_image(Image.fromarray(values)))[0, :, 1].tolist() == expected


def test_grey_and_black_and_white(tmp_path: Path) -> None:
    assert read_image(saved(Image.new("L", (2, 2), 77), tmp_path / "l.png")).getpixel((1, 1)) == (77, 77, 77)
    bilevel = saved(Image.new("1", (2, 2), 1), tmp_path / "1.png")
    assert read_image(bilevel).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animated_gives_the_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"a{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    red, green, blue = read_image(path).getpixel((4, 4))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("size", [(1, 1), (1, 10000), (10000, 1)])
def test_extreme_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    assert read_image(saved(Image.new("RGB", size), tmp_path / "a.png")).size == size


def test_png_named_jpg_just_works(tmp_path: Path) -> None:
    corners().save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.jpg")), np.asarray(corners()))


def test_the_given_pil_image_is_not_changed() -> None:
    image = corners()
    read_image(image).putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (255, 0, 0)


# --- what cannot be read ------------------------------------------------------------------------


def one_line(source: object) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_text_called_jpg(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("not a photo")
    message = f"{path} is not an image of a known format, whatever its name says; expected "
    assert one_line(path) == f"{message}JPEG, PNG, WebP, GIF, TIFF, BMP, PNM or AVIF"


def test_zero_bytes(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    assert one_line(path) == f"{path} is empty (0 bytes)"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("kept", [0.3, 0.7])
def test_truncated(tmp_path: Path, suffix: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / f"a{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    assert one_line(path).startswith(str(path))
    assert re.search(r"is damaged or truncated: .|not an image of a known format", one_line(path))


def test_every_prefix_of_a_png_is_read_or_refused(tmp_path: Path) -> None:
    data = saved(corners(), tmp_path / "a.png").read_bytes()
    path = tmp_path / "cut.png"
    for length in range(1, len(data), 3):
        path.write_bytes(data[:length])
        try:
            read_image(path)
        except ImageError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_missing_names_the_nearest(tmp_path: Path) -> None:
    saved(corners(), tmp_path / "zebra.png")
    wrong = str(tmp_path / "zebar.png")
    assert one_line(wrong) == f"no such file or folder: {wrong!r}; did you mean 'zebra.png'?"


def test_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "holidays").mkdir()
    wrong = str(tmp_path / "holiday" / "a.png")
    expected = f"no such file or folder: {wrong!r} ({tmp_path} has no 'holiday'); did you mean 'holidays'?"
    assert one_line(wrong) == expected


def test_a_folder(tmp_path: Path) -> None:
    assert one_line(tmp_path) == f"{tmp_path} is a folder; expected an image file"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything"
)
def test_unreadable(tmp_path: Path) -> None:
    path = saved(corners(), tmp_path / "a.png")
    path.chmod(0)
    assert one_line(path) == f"{path} cannot be opened: Permission denied"


@pytest.mark.parametrize("limit", [20, 15, 10])  # Pillow warns above its limit and raises above twice that
def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = saved(corners(), tmp_path / "a.png")  # 24 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert f"the limit is {limit} pixels (if you trust the file, set SIGHTLINE_MAX_PIXELS=NUMBER" in one_line(
        path
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(path).size == (6, 4)


def test_zip_errors(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("val/cat.jpg", b"no image")
        file.writestr("val/void.jpg", b"")
    where = f"{archive}!val"
    assert one_line(ZipMember(archive, "val/cat.jpg")).startswith(f"{where}/cat.jpg is not an image")
    assert one_line(ZipMember(archive, "val/void.jpg")) == f"{where}/void.jpg is empty (0 bytes)"
    wrong = one_line(ZipMember(archive, "val/cat.jpeg"))
    assert wrong == f"{archive} has no member 'val/cat.jpeg'; did you mean 'val/cat.jpg' or 'val/void.jpg'?"
    missing = tmp_path / "b.zip"
    assert (
        one_line(ZipMember(missing, "x"))
        == f"no such file or folder: {str(missing)!r}; did you mean 'a.zip'?"
    )
    plain = tmp_path / "c.zip"
    plain.write_text("no archive")
    message = one_line(ZipMember(plain, "x.png"))
    assert message == f"{plain} cannot be read: File is not a zip file; expected a zip archive"


def test_no_pixels_nan_and_wrong_type() -> None:
    assert one_line(Image.new("RGB", (0, 5))).endswith("has no pixels: 0 × 5")
    assert one_line(Image.fromarray(np.array([[np.nan]], np.float32))).endswith("holds NaN or Inf")
    with pytest.raises(InputError, match=r"an array of float64, shape \(2, 2\); expected uint8, \(H, W\)"):
        read_image(np.zeros((2, 2)))  # type: ignore[arg-type]


def test_warning_filters_are_as_before(tmp_path: Path) -> None:
    before = list(warnings.filters)
    read_image(saved(corners(), tmp_path / "a.png"))
    one_line(tmp_path / "b.png")
    assert list(warnings.filters) == before


# --- expand_paths -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.png",
        "a.JPG",
        "notes.txt",
        "sub/d.jpeg",
        "sub/deep/e.webp",
        ".hidden/f.png",
        "sub/._d.jpeg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["b.png"], ["b.png"]),
        (["notes.txt"], ["notes.txt"]),  # a file that was named is taken: its content decides
        (["."], ["a.JPG", "b.png", "sub/d.jpeg", "sub/deep/e.webp"]),
        (["sub"], ["sub/d.jpeg", "sub/deep/e.webp"]),
        (["*.png"], ["b.png"]),
        (["*"], ["a.JPG", "b.png", "sub/d.jpeg", "sub/deep/e.webp"]),
        (["**/*.webp"], ["sub/deep/e.webp"]),
        (["**"], ["a.JPG", "b.png", "sub/d.jpeg", "sub/deep/e.webp"]),
        (["sub/[d]*.jpeg"], ["sub/d.jpeg"]),
        (["sub", "b.png", "./b.png", "sub/deep/../d.jpeg"], ["sub/d.jpeg", "sub/deep/e.webp", "b.png"]),
    ],
)
def test_expand_paths(folder: Path, arguments: list[str], expected: list[str]) -> None:
    assert [path.as_posix() for path in expand_paths(arguments)] == expected


def test_a_file_whose_name_looks_like_a_glob(folder: Path) -> None:
    (folder / "a[1].png").touch()
    assert expand_paths(["a[1].png"]) == [Path("a[1].png")]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("bb.png", "no such file or folder: 'bb.png'; did you mean 'b.png'?"),
        (
            "sub/deap/e.webp",
            "no such file or folder: 'sub/deap/e.webp' (sub has no 'deap'); did you mean 'deep'?",
        ),
        ("empty", f"empty is a folder without images (looked for {', '.join(IMAGE_SUFFIXES)})"),
        ("*.gif", f"no image matches '*.gif' (looked for {', '.join(IMAGE_SUFFIXES)})"),
        ("*.txt", f"no image matches '*.txt' (looked for {', '.join(IMAGE_SUFFIXES)})"),
    ],
)
def test_expand_paths_refuses(folder: Path, argument: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        expand_paths([argument])
    assert str(caught.value) == message


# --- arrays -------------------------------------------------------------------------------------


def test_arrays_are_photos() -> None:
    rgb = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(np.asarray(read_image(rgb)), rgb)
    assert np.array_equal(np.asarray(read_image(rgb[:, ::-1])), rgb[:, ::-1])
    grey = read_image(rgb[..., 0])
    assert np.array_equal(np.asarray(grey), np.repeat(rgb[..., :1], 3, axis=2))
    clear = np.dstack([rgb, np.array([[0, 255, 0], [255, 255, 255]], np.uint8)])
    read = np.asarray(read_image(clear))
    assert read[0].tolist() == [[255, 255, 255], rgb[0, 1].tolist(), [255, 255, 255]]  # transparent: white


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3)), "array of float64, shape (4, 4, 3); expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), "shape (4, 4, 2); expected uint8, (H, W), (H, W, 3) or (H, W, 4)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "pass several photos as a list: list(array)"),
        (np.zeros((0, 4), np.uint8), "has no pixels"),
    ],
)
def test_arrays_that_are_no_photo(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read_image(array)


def test_a_photo_that_was_read_may_be_read_again(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    once = read_image(saved(corners(), tmp_path / "a.png", exif=exif))
    assert once.size == (4, 6)
    assert np.array_equal(np.asarray(read_image(once)), np.asarray(once))


# --- what is left out ---------------------------------------------------------------------------


def test_folders_and_globs_leave_out_the_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "in/b.png", "in/out/c.png", "out/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        saved(corners(), tmp_path / name)

    def found(*arguments: str, without: tuple[str, ...] = ("out", "in/out")) -> list[str]:
        return [path.as_posix() for path in expand_paths(arguments, without)]

    assert found(".") == ["a.png", "in/b.png"]
    assert found("**/*.png") == ["a.png", "in/b.png"]
    assert found("*") == ["a.png", "in/b.png"]
    assert found("in") == ["in/b.png"]
    assert found("out") == ["out/d.png"]  # who names the folder itself wants what is in it
    assert found("out/*.png") == ["out/d.png"]
    assert found("out/d.png") == ["out/d.png"]
    with pytest.raises(InputError, match="out is a folder without images"):
        found("out", without=("out/d.png",))
