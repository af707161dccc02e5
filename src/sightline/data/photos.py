"""Photos from anywhere to 8-bit RGB, and the arguments of a command line to a list of files."""

from __future__ import annotations

import difflib
import glob
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, UnidentifiedImageError

from sightline.errors import ImageError, InputError
from sightline.types import ImageSource, ZipMember

IMAGE_SUFFIXES = tuple(
    ".avif .bmp .gif .jpeg .jpg .jpe .pbm .pgm .png .ppm .tif .tiff .webp".split()  # noqa: SIM905
)

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF 2.3, tag 0x0112: what undoes each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source: ImageSource | str) -> Image.Image:
    """Read a photo as an upright 8-bit RGB image, or raise `ImageError` with one line that says why not.

    The content decides what a file is, not its name. EXIF rotation is applied. Transparent pixels are
    laid on white. Of an animation the first frame is read (of a PIL image its current one). 16-bit grey
    is scaled from 0..65535 to 0..255. Of 32-bit integers and floats the range is taken to be the first
    of 0..1 (floats), 0..255 and 0..65535 that holds the picture, else its own minimum and maximum.
    CMYK is converted without its colour profile.

    >>> read_image(Image.new("LA", (4, 2), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    name = _name(source)
    if isinstance(source, Image.Image):
        return _explained(lambda: _to_rgb(source, name), name)
    return decode_image(_bytes_of(source), name)


def decode_image(data: bytes, name: str) -> Image.Image:
    """The photo in the bytes of an image file, read as `read_image` reads it; ``name`` is for the messages.

    >>> decode_image(b"", "a.jpg")
    Traceback (most recent call last):
    sightline.errors.ImageError: a.jpg is empty (0 bytes)
    """

    def read() -> Image.Image:
        with _open(data, name) as image:
            return _to_rgb(image, name)

    return _explained(read, name)


def _explained(read: Callable[[], Image.Image], name: str) -> Image.Image:
    """What ``read`` gives, or an `ImageError` with one line that says why it gives nothing."""
    with warnings.catch_warnings():
        # Pillow warns of much that is either handled here or harmless. Only its own warnings are
        # silenced, so that a thread that restores the filters late hides nothing else.
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        try:
            return read()
        except (ImageError, MemoryError):
            raise
        except Image.DecompressionBombError:
            raise ImageError(f"{name}: more pixels than the limit allows; {_limit()}") from None
        except UnidentifiedImageError:
            raise ImageError(f"{name} is not an image of a known format, whatever its name says") from None
        except Exception as error:  # Pillow's decoders raise almost anything on damaged data
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"{name} is damaged or truncated: {reason}") from error


def _name(source: object) -> str:
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or f"the PIL image ({source.mode}, {source.size})")
    if isinstance(source, (str, Path, ZipMember)):
        return str(source)
    raise InputError(f"an image is a path, a ZipMember or a PIL image; got {type(source).__name__}")


def _bytes_of(source: Path | ZipMember | str) -> bytes:
    return _member_bytes(source) if isinstance(source, ZipMember) else file_bytes(Path(source))


def _open(data: bytes, name: str) -> Image.Image:
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    image = Image.open(BytesIO(data))
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        pixels = f"{image.width} × {image.height} = {image.width * image.height:,} pixels"
        raise ImageError(f"{name}: {pixels}, more than the limit allows; {_limit()}")
    return image


def _limit() -> str:
    limit = f"the limit is {Image.MAX_IMAGE_PIXELS:,} pixels"
    return f"{limit} (raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file)"


def read_bytes(source: ImageSource | str) -> bytes:
    """The bytes of an image file as they stand, or the RGB pixels of an image in memory: for checksums.

    >>> read_bytes(Image.new("L", (2, 1), "black"))
    b'2 1 \\x00\\x00\\x00\\x00\\x00\\x00'
    """
    if isinstance(source, Image.Image):
        photo = read_image(source)
        return f"{photo.width} {photo.height} ".encode() + photo.tobytes()
    return _bytes_of(source)


def file_bytes(path: Path) -> bytes:
    """The content of a file that should be an image; `ImageError` with the reason where it cannot be had."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(no_such(str(path))) from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder; expected an image file") from None
    except OSError as error:
        if path.is_dir():  # Windows reports a folder as "permission denied"
            raise ImageError(f"{path} is a folder; expected an image file") from None
        raise ImageError(f"{path} cannot be opened: {error.strerror or error}") from error


@lru_cache(maxsize=4)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """An open archive; one for each process, because a fork would share its place in the file."""
    return zipfile.ZipFile(path)


def _member_bytes(source: ZipMember) -> bytes:
    try:
        return _archive(source.archive, os.getpid()).read(source.member)
    except FileNotFoundError:
        raise ImageError(no_such(str(source.archive))) from None
    except KeyError:
        names = _archive(source.archive, os.getpid()).namelist()
        raise ImageError(
            f"{source.archive} has no member {source.member!r}{_near(source.member, names)}"
        ) from None
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise ImageError(f"{source} cannot be read from its archive: {error}") from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if not (image.width and image.height):
        raise ImageError(f"{name} has no pixels: {image.width} × {image.height}")
    image.load()
    orientation = _orientation(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image, name)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where the EXIF block is damaged: its picture may still be whole."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # Pillow's EXIF parser raises almost anything on damaged data
        return 1


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError(f"{name} holds NaN or Inf")
    low, high = _value_range(image.mode, float(values.min()), float(values.max()))
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(scaled.round().astype(np.uint8))


def _value_range(mode: str, low: float, high: float) -> tuple[float, float]:
    """What becomes 0 and what becomes 255."""
    if mode.startswith("I;16"):
        return 0.0, 65535.0
    usual = [255.0, 65535.0] if mode == "I" else [1.0, 255.0, 65535.0]
    top = next((top for top in usual if low >= 0 and high <= top), None)
    return (low, high) if top is None else (0.0, top)


def expand_paths(arguments: Sequence[str | Path]) -> list[Path]:
    """The files that ``arguments`` name: files, folders, and globs (``**`` too), each file once, in order.

    A file is taken whatever its suffix. A folder gives the images below it (`IMAGE_SUFFIXES`; no hidden
    ones), sorted. A glob gives the images and folders that match it. Raises `InputError` where an
    argument does not exist, or gives no image.

    >>> expand_paths([])
    Traceback (most recent call last):
    sightline.errors.InputError: no images given; expected files, folders or patterns such as 'photos/*.jpg'
    """
    if not arguments:
        raise InputError("no images given; expected files, folders or patterns such as 'photos/*.jpg'")
    found: dict[str, Path] = {}
    for argument in arguments:
        for path in _expand(str(argument)):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _expand(argument: str) -> list[Path]:
    path = Path(argument).expanduser()
    if path.is_dir():
        return list(images_below(path)) or _none(f"{argument} is a folder without images")
    if path.exists():
        return [path]
    if glob.has_magic(argument):
        return list(_images_matching(str(path))) or _none(f"no image matches {argument!r}")
    raise InputError(no_such(argument))


def _none(what: str) -> list[Path]:
    raise InputError(f"{what} (looked for {', '.join(IMAGE_SUFFIXES)})")


def is_image(path: PurePath) -> bool:
    """Whether a file's name is that of an image, and not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def images_below(folder: Path) -> Iterator[Path]:
    """The images below a folder (`IMAGE_SUFFIXES`; nothing hidden), sorted folder by folder."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for path in map(Path(parent).joinpath, sorted(files)) if is_image(path))


def _images_matching(pattern: str) -> Iterator[Path]:
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):
        if path.is_dir():
            yield from images_below(path)
        elif is_image(path):
            yield path


def no_such(argument: str) -> str:
    """One line on a path that does not exist, with the nearest names in the deepest folder that does."""
    path = Path(argument).expanduser()
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    wrong = path.relative_to(folder).parts[0] if path != folder else path.name
    try:
        names = [entry.name for entry, _ in zip(os.scandir(folder), range(5000), strict=False)]
    except OSError:  # a folder that may not be listed has no names to offer
        names = []
    near = _near(wrong, names)
    place = "" if folder == path.parent else f" ({folder} has no {wrong!r})"
    return f"no such file or folder: {argument!r}{place}{near}"


def _near(name: str, names: Sequence[str]) -> str:
    near = [repr(match) for match in difflib.get_close_matches(name, names, n=3, cutoff=0.5)]
    return f"; did you mean {' or '.join(near)}?" if near else ""
