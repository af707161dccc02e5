"""Colours, overlays and curves. (The panel of classes and methods is in `panel.py`.)

Everything is drawn with Pillow on its own canvas (no figure manager, no global state), so threads can draw
concurrently. matplotlib provides the colour maps, the DejaVu font and the curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL import ImageDraw, ImageFont
from torch import Tensor

from sightline.errors import InputError, unknown

Image = PIL.Image.Image
Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

INK, GREY, FAINT, PAPER = (24, 26, 31), (104, 109, 118), (222, 225, 230), (255, 255, 255)
# Pixels of an overlay's longer side: smaller is unreadable, larger not worth the file size.
SHORTEST, LONGEST = 192, 1600
WIDEST = 4.0  # longer over shorter side: narrower photos are stretched to this, to be visible at all


@lru_cache(maxsize=64)
def typeface(size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of all pictures, DejaVu Sans, at ``size`` pixels."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


@lru_cache(maxsize=512)
def shorten(text: str, face: ImageFont.FreeTypeFont, width: float) -> str:
    """Shorten text to ``width`` pixels: to the first of its comma-separated names, then with an ellipsis."""
    text = " ".join(text.split())
    if face.getlength(text) <= width:
        return text
    text = text.split(", ")[0]
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


@lru_cache(maxsize=16)
def colour_table(colormap: str) -> npt.NDArray[np.uint8]:
    """The 256 colours of a matplotlib colour map: uint8 (256, 3). Raises `InputError` with near matches.

    >>> colour_table("gray")[[0, 128, 255]].tolist()
    [[0, 0, 0], [128, 128, 128], [255, 255, 255]]
    """
    import matplotlib

    if colormap not in matplotlib.colormaps:
        raise unknown("colour map", colormap, list(matplotlib.colormaps))
    table = matplotlib.colormaps[colormap](np.linspace(0, 1, 256))[:, :3]
    return np.asarray((table * 255).round(), dtype=np.uint8)


def drawn_size(
    photo_size: tuple[int, int], shortest: int = SHORTEST, longest: int = LONGEST
) -> tuple[int, int]:
    """The (width, height) at which a photo of that size is drawn: longer side in [shortest, longest].

    Photos narrower than 4:1 are stretched, so that 1×10000 is neither a hairline nor a 10,000-pixel file.

    >>> drawn_size((1, 1)), drawn_size((640, 480)), drawn_size((10000, 1))
    ((192, 192), (640, 480), (1600, 400))
    """
    width, height = photo_size
    longer = max(width, height)
    target = min(max(longer, shortest), longest)
    floor = target / WIDEST
    return (
        round(max(width / longer * target, floor)),
        round(max(height / longer * target, floor)),
    )


def _resized(values: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Resize a map (H, W) to the picture's (width, height): for display only, never for boxes."""
    picture = PIL.Image.fromarray(values).resize(size, PIL.Image.Resampling.BILINEAR)
    return np.asarray(picture, dtype=np.float32)


def _numbers(values: Tensor, what: str, ndim: int) -> npt.NDArray[np.float32]:
    if values.ndim != ndim:
        wanted = {2: "(H, W)", 3: "(3, H, W)"}[ndim]
        raise InputError(f"{what} has shape {tuple(values.shape)}; expected {wanted}")
    return values.detach().float().cpu().numpy()


def coloured(heatmap: Tensor, size: tuple[int, int], colormap: str = "turbo") -> Image:
    """A heatmap (H, W) in [0, 1] as colours, at (width, height) pixels.

    >>> import torch
    >>> coloured(torch.eye(2), (2, 2), "gray").getpixel((0, 0))
    (255, 255, 255)
    """
    values = _numbers(heatmap, "heatmap", 2)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise InputError(
            f"heatmap has values from {values.min():.3g} to {values.max():.3g}; expected 0 to 1; "
            "use sightline.heatmap.make_heatmaps"
        )
    level = (_resized(values, size) * 255).round().astype(np.uint8)
    return PIL.Image.fromarray(colour_table(colormap)[level])


def signed_picture(signed: Tensor, size: tuple[int, int]) -> Image:
    """A signed map (3, H, W) as a picture in which mid-grey is zero: 0.5 + v / (2 · m), clipped.

    m is the 99.5th percentile of abs(v): otherwise a few extreme pixels would leave the rest grey.

    >>> import torch
    >>> signed_picture(torch.zeros(3, 2, 2), (2, 2)).getpixel((0, 0))
    (128, 128, 128)
    """
    values = _numbers(signed, "signed map", 3)
    scale = float(np.quantile(np.abs(values), 0.995)) or float(np.abs(values).max()) or 1.0
    planes = [_resized(np.clip(0.5 + plane / (2 * scale), 0, 1), size) for plane in values]
    return PIL.Image.fromarray((np.stack(planes, axis=-1) * 255).round().astype(np.uint8))


def _region(photo: Image, size: tuple[int, int], shown_xyxy: Box | None) -> tuple[int, int, int, int]:
    """The part of the photo that the network saw, in pixels of the picture."""
    sx, sy = size[0] / photo.width, size[1] / photo.height
    x0, y0, x1, y1 = shown_xyxy or (0.0, 0.0, float(photo.width), float(photo.height))
    left, top = round(x0 * sx), round(y0 * sy)
    return left, top, max(round(x1 * sx), left + 1), max(round(y1 * sy), top + 1)


def _draw_boxes(draw: ImageDraw.ImageDraw, boxes: list[list[float]], scale: tuple[float, float]) -> None:
    """White frames with a dark edge on both sides, visible on every colour map and photo."""
    for x0, y0, x1, y1 in boxes:
        left, top = round(x0 * scale[0]), round(y0 * scale[1])
        right, bottom = max(round(x1 * scale[0]) - 1, left), max(round(y1 * scale[1]) - 1, top)
        for inset, colour, width in ((0, INK, 1), (1, PAPER, 2), (3, INK, 1)):
            if right - left > 2 * inset and bottom - top > 2 * inset:
                corners = (left + inset, top + inset, right - inset, bottom - inset)
                draw.rectangle(corners, outline=colour, width=width)


def _draw_label(picture: Image, text: str, corner: tuple[int, int]) -> None:
    """A dark label above the box's top left corner, kept inside the picture."""
    size = min(max(picture.width / 28, 11), 28)
    face, high = typeface(size, bold=True), round(size * 1.5)
    text = shorten(text, face, picture.width - 10)
    wide = round(face.getlength(text)) + 10
    x, y = max(min(corner[0], picture.width - wide), 0), max(corner[1] - high, 0)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((x, y, x + wide, y + high), fill=INK)
    draw.text((x + 5, y + high / 2), text, fill=PAPER, font=face, anchor="lm")


def _note(picture: Image, text: str) -> None:
    middle = (picture.width / 2, picture.height / 2)
    face = typeface(min(16.0, picture.width / 14))
    ImageDraw.Draw(picture).text(middle, text, fill=PAPER, font=face, anchor="mm")


def resized(photo: Image, size: tuple[int, int]) -> Image:
    """Resize a photo to (width, height); tiny photos show their pixels as squares instead of a blur.

    >>> resized(PIL.Image.new("RGB", (1, 1), "red"), (8, 8)).getpixel((7, 7))
    (255, 0, 0)
    """
    few = size[0] > 6 * photo.width
    method = PIL.Image.Resampling.NEAREST if few else PIL.Image.Resampling.LANCZOS
    return photo.convert("RGB").resize(size, method)


def _greyed(photo: Image) -> Image:
    """Desaturate the photo, so that colour means heat."""
    return PIL.Image.blend(photo, photo.convert("L").convert("RGB"), 0.6)


def overlay(
    photo: Image,
    heatmap: Tensor,
    alpha: float = 0.5,
    colormap: str = "turbo",
    boxes_xyxy: Tensor | None = None,
    label: str | None = None,
    *,
    signed: Tensor | None = None,
    shown_xyxy: Box | None = None,
    size: tuple[int, int] | None = None,
) -> Image:
    """The desaturated photo under the heatmap, with boxes.

    Shapes and units: ``heatmap`` (H, W) in [0, 1] covers ``shown_xyxy``, the part of the photo the network saw
    (default: all of it); the rest of the photo is dimmed. ``boxes_xyxy`` (B, 4) in photo pixels. ``alpha`` in [0, 1]
    is the heatmap's opacity. ``signed`` (3, H, W), if given, is drawn instead of the heatmap. The picture has the
    photo's `drawn_size`, or ``size`` = (width, height). A map that is blank or
    constant is labelled: it points nowhere. Raises `InputError` for values outside [0, 1] or an unknown colour map.

    >>> import torch
    >>> overlay(PIL.Image.new("RGB", (320, 240)), torch.rand(7, 7)).size
    (320, 240)
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}; expected 0 to 1")
    size = size or drawn_size(photo.size)
    picture = resized(photo, size)
    region = _region(photo, size, shown_xyxy)
    shown = picture.crop(region)
    colours = coloured(heatmap, shown.size, colormap)
    picture = PIL.Image.blend(picture, PIL.Image.new("RGB", size, INK), 0.65)
    if heatmap.max() <= 0:
        _note(picture, "points nowhere")
    elif signed is not None:
        picture.paste(signed_picture(signed, shown.size), region[:2])
    else:
        picture.paste(PIL.Image.blend(_greyed(shown), colours, alpha), region[:2])
    boxes = [] if boxes_xyxy is None else boxes_xyxy.tolist()
    scale = (size[0] / photo.width, size[1] / photo.height)
    _draw_boxes(ImageDraw.Draw(picture), boxes, scale)
    if label:
        corner = boxes[0] if boxes else (0, 0)
        _draw_label(picture, label, (round(corner[0] * scale[0]), round(corner[1] * scale[1])))
    return picture


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    size: tuple[int, int] = (960, 640),
) -> Image:
    """Lines in one plot: ``series`` maps a name to its (x, y); ``size`` is (width, height) in pixels.

    >>> curves({"cam": ([0, 1], [0.2, 0.8])}, "threshold", "accuracy").size
    (960, 640)
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dpi = 120
    figure = Figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi, layout="constrained")
    axes = figure.add_subplot()
    for name, (x, y) in series.items():
        if len(x) != len(y):
            raise InputError(f"curve {name!r} has {len(x)} x and {len(y)} y values; expected equal numbers")
        axes.plot(x, y, label=name, linewidth=1.8)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if series:
        axes.legend(frameon=False)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
