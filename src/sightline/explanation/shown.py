"""An `Explanation` on the screen: its panel, its HTML and its one-line text."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

import PIL.Image
import torch
from torch import Tensor

from sightline.pictures.overlay import Image
from sightline.pictures.panel import CELL, Cell, panel
from sightline.pictures.slices import as_picture, curve, size_in_words
from sightline.types import BoxRule, Prediction

if TYPE_CHECKING:
    from sightline.explanation import Explanation

MOST_PANELS = 4  # in one output cell of a notebook: a panel is about 300 kB
MOST_NAMES = 3  # classes in the one-line text


def draw_panel(one: Explanation, rule: BoxRule, colormap: str = "turbo", cell: int = CELL) -> Image:
    """The panel of an explanation of one image: its photo, and a column per class."""
    heatmaps = one.heatmaps(normalise=rule.normalise, percentile=rule.percentile)[0].float().cpu()
    plain = len(one.input_hw) == 2
    heatmaps = as_picture(heatmaps, len(one.input_hw))
    share = one.score_rule is None or one.score_rule.gives_probabilities
    cells = [
        Cell(
            heatmaps[k],
            prediction.category,
            None if prediction.score != prediction.score else prediction.score,
            prediction.boxes_xyxy.float(),
            None if one.signed is None or not plain else one.signed[0, k].float().cpu(),
            share,
        )
        for k, prediction in enumerate(one.predictions(rule)[0])
    ]
    pixels = one.signed is not None or not plain
    parts = [one.model_name, f"view: {one.view}", f"heat: {rule.normalise}"]
    return panel(
        one.photo(0),
        [(one.method, cells)],
        title=one.name(0),
        facts="" if plain else size_in_words(one.input_hw),
        caption=" · ".join([*parts, *([] if pixels else [f"box: {rule.describe()}"])]),
        shown_xyxy=one.geometries[0].shown_xyxy if plain else None,
        colormap=colormap,
        threshold=rule.threshold if rule.relative_to == "max" and not pixels else None,
        cell=cell,
    )


def stretched(image: Tensor) -> Image:
    """An image tensor (C, H, W) from its lowest to its highest value, in 8 bits.

    A signal's curve; a volume's slices side by side.
    """
    if image.ndim == 2:
        return curve(image)
    image = as_picture(image.float().cpu(), image.ndim - 1)
    low, high = image.amin(), image.amax()
    image = ((image - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    array = image.permute(1, 2, 0).numpy()
    return PIL.Image.fromarray(array[..., 0] if array.shape[2] == 1 else array[..., :3]).convert("RGB")


def png_bytes(picture: Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def html_of(explanation: Explanation) -> str:
    """The panels of the first images, each as wide as the page, with a text for screen readers."""
    pictures = [
        f'<img style="max-width:100%;height:auto;display:block;margin-bottom:8px" '
        f'alt="{html.escape(_alternative(one), quote=True)}" '
        f'src="data:image/png;base64,{base64.b64encode(png_bytes(one.panel())).decode()}">'
        for one in (explanation[i] for i in range(min(len(explanation), MOST_PANELS)))
    ]
    left = len(explanation) - len(pictures)
    more = [f"<p>… and {left} more images: <code>panel(i)</code></p>"] if left else []
    return "\n".join([*pictures, *more])


def summary(explanation: Explanation) -> str:
    """Two lines: what was explained, and the first image's classes."""
    n, k, *grid = explanation.maps.shape
    images = f"{n} image{'s' * (n != 1)} × {k} class{'es' * (k != 1)}"
    layers = ", ".join(explanation.layers) or "the input"
    maps = "×".join(map(str, grid))
    first = (
        f"<Explanation: {explanation.method} of {explanation.model_name}, {images}, maps {maps} at {layers}"
    )
    if not n or not k:
        return f"{first}>"
    names = ", ".join(_called(explanation, of) for of in range(min(k, MOST_NAMES)))
    return f"{first}\n  {explanation.name(0)}: {names}{', …' * (k > MOST_NAMES)}>"


def _called(explanation: Explanation, k: int) -> str:
    """A class of the first image and its score, as in "tabby 62.1%"."""
    scores, rule = explanation.scores, explanation.score_rule
    name = explanation.category(0, k)
    return name if scores is None or rule is None else f"{name} {rule.text(float(scores[0, k]))}"


def _alternative(one: Explanation) -> str:
    names = ", ".join(_called(one, k) for k in range(one.maps.shape[1]))
    return f"{one.name(0)}: where the network looks for {names}, by {one.method}"


def display(explanation: Explanation, i: int | None) -> None:
    """Show panels: below the cell in a notebook, else in the system's picture viewer."""
    shown = range(min(len(explanation), MOST_PANELS)) if i is None else [i]
    for place in shown:
        picture = explanation.panel(place)
        if in_notebook():
            from IPython.display import display as show_below

            show_below(picture)  # type: ignore[no-untyped-call]
        else:
            picture.show(title=explanation.name(place))


def in_notebook() -> bool:
    """Whether this runs in IPython with a rich display, such as Jupyter.

    >>> in_notebook()
    False
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return hasattr(get_ipython(), "kernel")


def table_of(predictions: list[list[Prediction]], names: list[str], sizes_hw: list[tuple[int, int]]) -> Any:
    """One row per box as a pandas DataFrame; a class without a box has one row, without corners."""
    from sightline.errors import need

    rows = [
        {
            "image": i,
            "photo": names[i],
            "class_index": p.class_index,
            "category": p.category,
            "score": p.score,
            **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)),
            "photo_height": sizes_hw[i][0],
            "photo_width": sizes_hw[i][1],
        }
        for i, row in enumerate(predictions)
        for p in row
        for box in (p.boxes_xyxy.tolist() or [[float("nan")] * 4])
    ]
    columns = ("image", "photo", "class_index", "category", "score", "x0", "y0", "x1", "y1")
    return need("pandas", "notebook").DataFrame(
        rows, columns=None if rows else [*columns, "photo_height", "photo_width"]
    )
