"""Kinds of image file through Python, the command line, a batch run and the app: the right picture, or one clear line.

python tools/corpus.py --write docs/image-files.md       # exit code 1 if a kind is not as it must be

Every file is made here. A picture is right if it has the size and, but for the codec's loss, the pixels of what was
written, upright, and if all four entrances give it the same score. A refusal is right if all four refuse in one line.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import struct
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import sightline
from sightline.app.session import Offer, Session
from sightline.batch.local_engine import LocalEngine
from sightline.cli import main as command_line
from sightline.data.images import read_image

MODES = {
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P", "RGB"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I"),
    "AVIF": ("RGB", "RGBA"),
}
FOREIGN = ("ICO", "TGA", "PCX", "SGI", "IM", "DDS", "ICNS", "PDF", "EPS", "JPEG2000", "XBM", "MSP", "SPIDER")
LOSSY = 12.0  # mean difference of a pixel's value, of 255, that is still the same picture
SAME_SCORE = 1e-3  # batches differ by less, from one memory format to another
PAGE = f"""# Image files

Kinds of image file, each through `sightline.explain`, `sightline explain`, `sightline batch` and the app: the right
picture, with the same score in all four, or one line that names the file. All are made by the command that wrote this
page with Pillow {Image.__version__}: `python tools/corpus.py --write docs/image-files.md`.
"""


@dataclass(frozen=True)
class Kind:
    """A file's content; ``picture``: what must be seen, None if it must be refused."""

    name: str
    content: bytes
    picture: Image.Image | None


def scene(size: tuple[int, int] = (48, 36)) -> Image.Image:
    """A picture that no rotation or mirror leaves as it is: a red corner, a blue one, and a ramp between."""
    width, height = size
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    pixels = np.stack([255 - down, (across + down) / 2, across], 2)
    pixels[: height // 3, : width // 3] = (255, 0, 0)
    return Image.fromarray(pixels.round().astype(np.uint8))


def in_mode(mode: str, size: tuple[int, int] = (48, 36)) -> Image.Image:
    """The scene in one of Pillow's modes; 16 and 32 bits as grey."""
    rgb = scene(size)
    grey = np.asarray(rgb.convert("L"))
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    if mode in ("I", "F"):
        return Image.fromarray(grey.astype(np.int32 if mode == "I" else np.float32))
    return rgb.convert(mode)


def seen(image: Image.Image) -> Image.Image:
    """What must be seen of it."""
    if image.mode == "I;16":
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(np.asarray(image).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def kinds() -> Iterator[Kind]:
    """All of them; those that this Pillow cannot write are left out."""
    yield from _modes()
    yield from _variants()
    yield from _foreign()
    yield from _broken()


def _modes() -> Iterator[Kind]:
    for form, modes in MODES.items():
        for mode in modes:
            image = in_mode(mode)
            with contextlib.suppress(OSError, KeyError):
                if (form, mode) == ("PPM", "I"):  # 16 bits per pixel, under an older name
                    wide = Image.fromarray(np.asarray(image) * 257)
                    yield Kind(f"{form}, {mode} (16 bits)", encoded(wide, form), seen(image))
                elif (form, mode) == (
                    "TIFF",
                    "YCbCr",
                ):  # Pillow cannot read what it writes without compression
                    yield Kind("TIFF, YCbCr", encoded(image, form, compression="jpeg"), seen(image))
                else:
                    yield Kind(f"{form}, {mode}", encoded(image, form), seen(image))


def _variants() -> Iterator[Kind]:
    rgb = scene()
    lying = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    for form, orientations in {"JPEG": range(1, 9), "PNG": (6,), "WEBP": (6,), "TIFF": (6,)}.items():
        for orientation in orientations:
            exif = Image.Exif()
            exif[0x0112] = orientation
            stored = rgb.transpose(lying[orientation]) if orientation > 1 else rgb
            yield Kind(f"{form}, EXIF orientation {orientation}", encoded(stored, form, exif=exif), rgb)
    yield Kind("JPEG, EXIF orientation 99", encoded(rgb, "JPEG", exif=_orientation(99)), rgb)
    yield Kind("JPEG, progressive", encoded(rgb, "JPEG", progressive=True), rgb)
    yield Kind("JPEG, 4:2:0 and quality 30", encoded(rgb, "JPEG", quality=30, subsampling=2), rgb)
    yield Kind("JPEG, damaged EXIF", encoded(rgb, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), rgb)
    yield Kind("JPEG, damaged colour profile", encoded(rgb, "JPEG", icc_profile=b"none"), rgb)
    yield Kind("JPEG, bytes behind its end", encoded(rgb, "JPEG") + b"trailer" * 100, rgb)
    yield Kind("PNG, transparent colour", encoded(rgb, "PNG", transparency=(255, 0, 0)), _on_white(rgb))
    yield Kind("PNG, half transparent", *_half_transparent())
    yield Kind("PNG, palette with transparency", *_transparent_palette())
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate"):
        yield Kind(f"TIFF, {compression}", encoded(rgb, "TIFF", compression=compression), rgb)
    for form in ("GIF", "WEBP", "TIFF", "PNG", "MPO", "AVIF"):
        with contextlib.suppress(OSError, KeyError):
            other = encoded(rgb, form, save_all=True, append_images=[rgb.rotate(180)])
            yield Kind(f"{form}, two frames: the first", other, rgb)
    yield Kind("WebP, lossless", encoded(rgb, "WEBP", lossless=True), rgb)
    for size in ((1, 1), (1, 500), (500, 1), (1, 10_000), (2000, 1500)):
        yield Kind(f"PNG, {size[0]} × {size[1]}", encoded(scene(size), "PNG"), scene(size))


def _orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def _on_white(rgb: Image.Image) -> Image.Image:
    pixels = np.array(rgb)
    pixels[(pixels == (255, 0, 0)).all(2)] = 255
    return Image.fromarray(pixels)


def _half_transparent() -> tuple[bytes, Image.Image]:
    image = scene()
    white = Image.new("RGB", image.size, "white")
    faint = image.copy()
    faint.putalpha(128)
    return encoded(faint, "PNG"), Image.blend(white, image, 128 / 255)


def _transparent_palette() -> tuple[bytes, Image.Image]:
    image = scene().quantize(16)
    corner = image.getpixel((0, 0))
    pixels = np.array(image.convert("RGB"))
    pixels[np.asarray(image) == corner] = 255
    return encoded(image, "PNG", transparency=corner), Image.fromarray(pixels)


def _foreign() -> Iterator[Kind]:
    for form in FOREIGN:
        mode = {"XBM": "1", "MSP": "1", "SPIDER": "F"}.get(form, "RGB")
        with contextlib.suppress(OSError, KeyError, ValueError):
            yield Kind(f"{form}: not a documented format", encoded(in_mode(mode, (32, 32)), form), None)


def _broken() -> Iterator[Kind]:
    rgb = scene()
    for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF"):
        with contextlib.suppress(OSError, KeyError):
            content = encoded(rgb, form)
            yield Kind(f"{form}, first half", content[: len(content) // 2], None)
            yield Kind(f"{form}, first 12 bytes", content[:12], None)
    yield Kind("PNG, a changed byte in its pixels", _changed(encoded(rgb, "PNG")), None)
    yield Kind("PNG of 1.6 billion pixels", _huge_png(), None)
    yield Kind("PNG of no pixels", _png_of(0, 36), None)
    yield Kind("TIFF of NaN", encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), None)
    yield Kind("empty", b"", None)
    yield Kind("one byte", b"\xff", None)
    yield Kind("text", b"not a photo", None)
    yield Kind("HTML", b"<html><body>404</body></html>", None)
    yield Kind("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>', None)
    yield Kind("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n", None)
    yield Kind("zip", b"PK\x05\x06" + bytes(18), None)
    yield Kind("HEIF", b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(60), None)
    yield Kind("random bytes", np.random.default_rng(0).bytes(4000), None)


def _changed(content: bytes) -> bytes:
    place = content.index(b"IDAT") + 12
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


def _png_of(width: int, height: int) -> bytes:
    content = encoded(scene(), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def _huge_png() -> bytes:
    return _png_of(40_000, 40_000)


@dataclass(frozen=True)
class Answer:
    """What an entrance made of a file: the score of class 0, or why not."""

    score: float | None = None
    reason: str = ""


def in_python(model: sightline.LoadedModel, path: Path) -> Answer:
    try:
        found = sightline.explain(model, path, "cam", classes=[0])
    except sightline.InputError as error:
        return Answer(reason=str(error))
    assert found.scores is not None
    return Answer(float(found.scores[0, 0]))


def on_the_command_line(path: Path, out: Path, model: Sequence[str]) -> Answer:
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        code = command_line([
            "explain", str(path), *model, "--method", "cam", "--classes", "0", "--out", str(out), "--json",
        ])  # fmt: skip
    if code == 2:
        return Answer(reason=errors.getvalue().strip())
    assert code == 0, f"exit code {code}: {errors.getvalue()}"
    image = json.loads((out / "manifest.json").read_text())["images"][0]
    return Answer(image["results"][0]["score"])


def in_batch(model: sightline.LoadedModel, photos: Path, out: Path) -> dict[str, Answer]:
    """By file name."""
    from pyarrow.parquet import read_table

    options = sightline.BatchOptions(method="cam", classes=[0])
    sightline.explain_batch(model, [photos], out, options, LocalEngine(workers=0))
    found = {row["image_id"]: Answer(row["score"]) for row in read_table(out / "results").to_pylist()}
    for row in read_table(out / "errors.parquet").to_pylist():
        found[row["image_id"]] = Answer(reason=row["reason"])
    return found


def in_the_app(offer: Offer, path: Path) -> Answer:
    session = Session(offer)
    try:
        session.open([(path.name, path.read_bytes())])
    except sightline.InputError as error:
        return Answer(reason=str(error))
    scores = session.scores()
    assert scores is not None
    return Answer(float(scores[0]))


def fault(kind: Kind, path: Path, answers: dict[str, Answer]) -> str:
    """What is wrong with these answers; empty if nothing is."""
    if kind.picture is None:
        for where, answer in answers.items():
            if answer.score is not None:
                return f"{where} reads it"
            if "\n" in answer.reason or path.name not in answer.reason:
                return f"{where} says {answer.reason[:200]!r}"
        return ""
    for where, answer in answers.items():
        if answer.score is None:
            return f"{where} refuses it: {answer.reason[:200]}"
        if abs(answer.score - answers["Python"].score) > SAME_SCORE:  # type: ignore[operator]
            return f"{where} gives another score than Python"
    image = read_image(path)
    if image.size != kind.picture.size:
        return f"its size is {image.size}"
    apart = np.abs(np.asarray(image, float) - np.asarray(kind.picture, float)).mean()
    return f"its pixels differ by {apart:.0f}" if apart > LOSSY else ""


def check(
    every: list[Kind], folder: Path, model: sightline.LoadedModel, arguments: Sequence[str] = ()
) -> list[tuple[Kind, str, str]]:
    """(kind, what is wrong with it or "", the reason of a refusal) for each; a named pipe and links are added.

    ``arguments``: what names the same model on the command line.
    """
    photos, offer = folder / "photos", Offer(model)
    photos.mkdir()
    paths = [photos / f"{number:03d}.jpg" for number in range(len(every) + 3)]
    for kind, path in zip(every, paths, strict=False):
        path.write_bytes(kind.content)
    os.mkfifo(paths[-3])
    paths[-2].symlink_to("/dev/zero")
    paths[-1].symlink_to("gone")
    every = [
        *every,
        *(Kind(name, b"", None) for name in ("named pipe", "link to a device", "link to nothing")),
    ]
    batch, rows = in_batch(model, photos, folder / "batch"), []
    for number, (kind, path) in enumerate(zip(every, paths, strict=True)):
        answers = {
            "Python": in_python(model, path),
            "the command line": on_the_command_line(path, folder / f"out{number}", arguments),
            "a batch run": batch[path.name],
        }
        if path.is_file():  # a browser sends no pipes
            answers["the app"] = in_the_app(offer, path)
        reason = answers["Python"].reason.replace(str(path), "FILE").replace("|", r"\|")
        rows.append((kind, fault(kind, path, answers), reason))
    return rows


def table(rows: list[tuple[Kind, str, str]]) -> str:
    """Markdown: one row per kind, and the counts."""
    lines = ["| | kind | must be | is |", "|---|---|---|---|"]
    for number, (kind, wrong, reason) in enumerate(rows, 1):
        must = "read" if kind.picture else "refused"
        found = f"**{wrong}**" if wrong else reason or "read, in all four entrances"
        lines.append(f"| {number} | {kind.name} | {must} | {found} |")
    read = sum(kind.picture is not None for kind, _, _ in rows)
    wrong_ones = sum(bool(wrong) for _, wrong, _ in rows)
    lines += [
        "",
        f"{len(rows)} kinds: {read} to be read, {len(rows) - read} to be refused; {wrong_ones} wrong",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, help="a Markdown page (default: print the table)")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = check(list(kinds()), Path(folder), sightline.load_model())
    if given.write:
        given.write.write_text(f"{PAGE}\n{table(rows)}\n")
    else:
        print(table(rows))
    return int(any(wrong for _, wrong, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
