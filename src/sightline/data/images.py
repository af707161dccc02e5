"""Read any photo as upright 8-bit RGB: the only place where image files are decoded."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sightline.data.items import Item, file_bytes
from sightline.errors import ImageError, InputError, near_matches
from sightline.files import MOST_PICTURE_BYTES, check_regular, open_zip, read_member
from sightline.types import ZipMember

T = TypeVar("T")
PhotoSource = str | Path | ZipMember | Item | Image.Image | NDArray[Any]  # whatever `read_image` reads

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF")  # MPO: JPEG from some cameras
_FORMATS_READ = "JPEG, PNG, WebP, GIF, TIFF, BMP, PNM or AVIF"
VARIABLE = "SIGHTLINE_MAX_PIXELS"  # of a photo, instead of Pillow's limit
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF 2.3, tag 0x0112: the inverse of each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source: PhotoSource) -> Image.Image:
    """Read a photo as an upright 8-bit RGB image, or raise `ImageError` with a one-line reason.

    ``source``: a path, a member of a zip archive, an `Item` of a listing, a PIL image, or an array of uint8
    (H, W), (H, W, 3) RGB or (H, W, 4) RGBA. A file's format is determined by its content, not its name. EXIF
    rotation is applied. Transparent pixels are composited on white. Animations give their first frame (PIL images
    their current one). 16-bit grey is scaled from 0..65535 to 0..255. For 32-bit integers and floats the range is the
    first of 0..1 (floats), 0..255 and 0..65535 that contains all values, else their minimum and maximum. CMYK is
    converted without its colour profile. The result is a new image without EXIF, so reading it again changes nothing.

    >>> read_image(Image.new("LA", (4, 2), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    name = source_name(source)
    if isinstance(source, np.ndarray):
        source = _image_of(source)
    if isinstance(source, Image.Image):
        image = source
        return _explained(lambda: _to_rgb(image, name), name)
    return decode_image(_bytes_of(source), name)


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image file as `read_image` does; ``name`` is used in messages.

    >>> decode_image(b"", "a.jpg")
    Traceback (most recent call last):
    sightline.errors.ImageError: a.jpg is empty (0 bytes)
    """

    def read() -> Image.Image:
        with _open(data, name) as image:
            return _to_rgb(image, name)

    return _explained(read, name)


def _explained(read: Callable[[], T], name: str) -> T:
    """Call ``read``; turn its errors into an `ImageError` with a one-line reason."""
    with warnings.catch_warnings():
        # Pillow warns about much that is handled here or harmless. Only its own warnings are silenced, so that
        # a thread that restores the filters late hides nothing else.
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        try:
            return read()
        except (ImageError, MemoryError):
            raise
        except Image.DecompressionBombError:
            raise ImageError(f"{name}: too many pixels; {_limit()}") from None
        except UnidentifiedImageError:
            raise ImageError(
                f"{name} is not an image of a known format, whatever its name says; expected {_FORMATS_READ}"
            ) from None
        except Exception as error:  # Pillow's decoders raise almost anything on damaged data
            words = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(f"{name} is damaged or truncated: {words}") from error


def path_of(source: PhotoSource) -> str:
    """A photo's path, or that of the file which Pillow opened; empty for an image that has none.

    >>> path_of("a/b.jpg"), path_of(Image.new("RGB", (1, 1)))
    ('a/b.jpg', '')
    """
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", ""))
    return "" if isinstance(source, np.ndarray) else source_name(source)


def source_name(source: PhotoSource) -> str:
    """A photo's name in messages: its path, or a description of an in-memory image.

    >>> source_name(ZipMember(Path("photos.zip"), "a.jpg")), source_name(np.zeros((4, 6), np.uint8))
    ('photos.zip!a.jpg', 'the array (4, 6)')
    """
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or f"the PIL image ({source.mode}, {source.size})")
    if isinstance(source, np.ndarray):
        return f"the array {source.shape}"
    if isinstance(source, Item):
        return source.path
    if isinstance(source, (str, Path, ZipMember)):
        return str(source)
    raise InputError(
        f"a photo is a path, a PIL image or an array (H, W, 3) of uint8; got {type(source).__name__}"
    )


def _image_of(array: NDArray[Any]) -> Image.Image:
    """A photo given as an array of 8-bit grey, RGB or RGBA."""
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)):
        raise InputError(
            f"the photo is an array of {array.dtype}, shape {array.shape}; expected uint8, (H, W), (H, W, 3) or "
            f"(H, W, 4){_array_hint(array)}"
        )
    if 0 in array.shape:
        raise ImageError(f"the array {array.shape} has no pixels")
    return Image.fromarray(np.ascontiguousarray(array))


def _array_hint(array: NDArray[Any]) -> str:
    if array.ndim == 4:
        return "; pass several photos as a list: list(array)"
    if array.dtype.kind == "f":
        return "; for a normalised tensor use torch.from_numpy(array), (N, 3, H, W)"
    return ""


def _bytes_of(source: str | Path | ZipMember | Item) -> bytes:
    if isinstance(source, Item):
        return source.read()
    return _member_bytes(source) if isinstance(source, ZipMember) else file_bytes(Path(source))


def _open(data: bytes, name: str) -> Image.Image:
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    image = open_picture(data)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        pixels = f"{image.width} × {image.height} = {image.width * image.height:,} pixels"
        raise ImageError(f"{name}: {pixels}, too many; {_limit()}")
    return image


def open_picture(source: bytes | Path) -> Image.Image:
    """`PIL.Image.open`, for the documented formats only: others run programs (PostScript) or are little tested.

    Formats that another package registered with Pillow (HEIF, say) are read too: somebody installed them on purpose.

    >>> open_picture(b"%!PS-Adobe-3.0 EPSF-3.0")
    Traceback (most recent call last):
    PIL.UnidentifiedImageError: cannot identify image file ...
    """
    if isinstance(source, Path):
        check_regular(source, MOST_PICTURE_BYTES, "an image file", ImageError)
    _set_most_pixels()
    Image.init()
    foreign = [f for f, (factory, _) in Image.OPEN.items() if not factory.__module__.startswith("PIL.")]
    formats = [f for f in (*FORMATS, *foreign) if f in Image.OPEN]
    return Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=formats)


def _limit() -> str:
    limit = f"the limit is {Image.MAX_IMAGE_PIXELS:,} pixels"
    return f"{limit} (if you trust the file, set {VARIABLE}=NUMBER in the environment, or PIL.Image.MAX_IMAGE_PIXELS)"


def _set_most_pixels() -> None:
    """Pillow's limit of pixels as the environment says, if it says anything: worker processes read it too."""
    if text := os.environ.get(VARIABLE):
        if not text.isdecimal() or not int(text):
            raise ImageError(f"{VARIABLE}={text!r}; expected a number of pixels, such as 200000000")
        Image.MAX_IMAGE_PIXELS = int(text)


def read_bytes(source: PhotoSource) -> bytes:
    """The raw bytes of an image file, or the RGB pixels of an in-memory image, for checksums.

    >>> read_bytes(Image.new("L", (2, 1), "black"))
    b'2 1 \\x00\\x00\\x00\\x00\\x00\\x00'
    """
    if isinstance(source, (Image.Image, np.ndarray)):
        photo = read_image(source)
        return f"{photo.width} {photo.height} ".encode() + photo.tobytes()
    return _bytes_of(source)


@lru_cache(maxsize=4)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """An open archive; one per process, since forked processes would share its file position."""
    return open_zip(path)


def _member_bytes(source: ZipMember) -> bytes:
    try:
        archive = _archive(source.archive, os.getpid())
        return read_member(archive, source.member, str(source), MOST_PICTURE_BYTES, ImageError)
    except KeyError:
        near = near_matches(source.member, archive.namelist())
        raise ImageError(f"{source.archive} has no member {source.member!r}{near}") from None
    except InputError as error:
        raise error if isinstance(error, ImageError) else ImageError(str(error)) from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if not (image.width and image.height):
        raise ImageError(f"{name} has no pixels: {image.width} × {image.height}")
    form = image.format
    image.load()
    orientation = _orientation(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image, name, form)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")  # always a new image
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    image.info = {}  # the orientation has been applied and must not be applied again
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) if the EXIF block is damaged, since the picture may be intact."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # Pillow's EXIF parser raises almost anything on damaged data
        return 1


def _eight_bits(image: Image.Image, name: str, form: str | None) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError(f"{name} holds NaN or Inf")
    low, high = _value_range(image.mode, form, float(values.min()), float(values.max()))
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(scaled.round().astype(np.uint8))


def _value_range(mode: str, form: str | None, low: float, high: float) -> tuple[float, float]:
    """The values mapped to 0 and to 255: those of the format, however dark the picture is."""
    if mode.startswith("I;16") or (
        mode == "I" and form in ("PNG", "PPM")
    ):  # some versions of Pillow widen 16 bits
        return 0.0, 65535.0
    usual = [255.0, 65535.0] if mode == "I" else [1.0, 255.0, 65535.0]
    top = next((top for top in usual if low >= 0 and high <= top), None)
    return (low, high) if top is None else (0.0, top)


def photo_size(source: PhotoSource) -> tuple[int, int]:
    """(height, width) of a photo as `read_image` returns it; for files, only the header is read.

    >>> photo_size(Image.new("RGB", (6, 4)))
    (4, 6)
    """
    if isinstance(source, (Image.Image, np.ndarray)):
        photo = read_image(source)
        return photo.height, photo.width
    header_of = Path(source) if isinstance(source, (str, Path)) else _bytes_of(source)

    def size() -> tuple[int, int]:
        with open_picture(header_of) as header:
            lying = _orientation(header) >= 5  # orientations 5 to 8 swap the sides
            return header.size if lying else (header.height, header.width)

    return _explained(size, source_name(source))
