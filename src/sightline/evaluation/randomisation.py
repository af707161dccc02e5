"""The model-randomisation check: a map that does not change with the weights does not explain the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import PIL.Image
import torch
from PIL import ImageDraw
from torch import Tensor

from sightline.errors import InputError
from sightline.evaluation.models import map_maker
from sightline.evaluation.run import resolved_method
from sightline.heatmap import make_heatmaps
from sightline.methods.spec import MethodSpec
from sightline.metrics.sanity import can_reset, randomised_cascade, spearman
from sightline.models.loading import LoadedModel
from sightline.pictures.overlay import GREY, INK, PAPER, Image, overlay, shorten, typeface
from sightline.reports.tables import csv_text

MOST_LAYERS = 12
TILE, GAP, MARGIN, LEFT = 132, 8, 20, 168
_LINE = 18


@dataclass(frozen=True)
class Randomisation:
    """``correlations`` (M, L, N) by method, randomised layer (last first) and image, NaN if either map is
    constant and so has no ranks; ``maps`` of the first image, (h, w) each: for every method the trained network's,
    then one per layer."""

    model: str
    methods: list[str]
    layers: list[str]
    correlations: Tensor
    image: Tensor
    maps: list[list[Tensor]]

    @property
    def mean(self) -> Tensor:
        """The mean correlation (M, L) of each method and layer, over images with a map; NaN if none has one."""
        return self.correlations.nanmean(2)

    def csv(self) -> str:
        """One line per method and layer: mean, lowest and highest correlation, and the number of blank maps."""
        return csv_text(self.as_dict()["rows"])

    def as_dict(self) -> dict[str, Any]:
        """Everything but the maps, ready for JSON; None if no image has a map."""
        rows = [
            {"method": method, "randomised_down_to": layer, **_spread_of(values)}
            for method, of in zip(self.methods, self.correlations, strict=True)
            for layer, values in zip(self.layers, of, strict=True)
        ]
        return {"model": self.model, "images": self.correlations.shape[2], "rows": rows}

    def picture(self) -> Image:
        """One row per method, one column per layer: the first image's heatmap, with the mean correlation below."""
        columns = len(self.layers) + 1
        size = (LEFT + columns * (TILE + GAP) + MARGIN, 0)
        top, step = MARGIN + 4 * _LINE, TILE + _LINE + 10
        sheet = PIL.Image.new("RGB", (size[0], top + len(self.methods) * step + MARGIN), PAPER)
        self._head(sheet, top)
        photo = _photo(self.image)
        draw, face, bold = ImageDraw.Draw(sheet), typeface(13.0), typeface(13.0, bold=True)
        for row, method in enumerate(self.methods):
            y = top + row * step
            draw.text(
                (MARGIN, y + TILE / 2), shorten(method, bold, LEFT - MARGIN - 8), INK, bold, anchor="lm"
            )
            for column, raw in enumerate(self.maps[row]):
                heatmap = make_heatmaps(raw.float().cpu(), (self.image.shape[1], self.image.shape[2]), "max")
                x = LEFT + column * (TILE + GAP)
                sheet.paste(overlay(photo, heatmap, size=(TILE, TILE), alpha=0.6), (x, y))
                text = _rho(self.correlations[row, column - 1]) if column else "the map"
                draw.text((x + TILE / 2, y + TILE + 3), text, INK, face, anchor="ma")
        return sheet

    def _head(self, sheet: Image, top: int) -> None:
        draw, face, bold = ImageDraw.Draw(sheet), typeface(13.0), typeface(16.0, bold=True)
        count = self.correlations.shape[2]
        title = f"{self.model}: weights randomised, from the output back to the named layer"
        draw.text((MARGIN, MARGIN - 8), shorten(title, bold, sheet.width - 2 * MARGIN), INK, bold)
        images = "1 image" if count == 1 else f"mean of {count} images"
        note = f"ρ: Spearman correlation with the trained network's map ({images}; blank maps left out); 1: no change"
        draw.text((MARGIN, MARGIN + _LINE), shorten(note, face, sheet.width - 2 * MARGIN), GREY, face)
        for column, name in enumerate(["trained", *self.layers]):
            x = LEFT + column * (TILE + GAP) + TILE / 2
            draw.text((x, top - 6), _shorten_left(name, TILE), INK, face, anchor="md")


def randomisation_check(
    model: LoadedModel,
    images: Tensor,
    methods: Sequence[str | MethodSpec],
    *,
    layers: int = MOST_LAYERS,
    seed: int = 0,
) -> Randomisation:
    """Spearman correlation of each method's raw map with those of increasingly randomised copies (Adebayo et al. 2018).

    ``images`` (N, 3, H, W), preprocessed for the model; the trained network's most probable class is explained.
    From the output back, layer after layer is re-initialised; ``layers`` of these stages are compared, evenly spaced,
    including the first and the last. The model itself is not changed. Raises `InputError`.

    >>> from torch import nn
    >>> from sightline.models.loading import load_model
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> found = randomisation_check(load_model(net), torch.rand(2, 3, 8, 8), ["gradcam"])
    >>> found.layers, found.mean.shape
    (['3', '0'], torch.Size([1, 2]))
    """
    if layers < 1:
        raise InputError(f"layers={layers}; expected 1 or more")
    specs = list({spec.label: spec for spec in map(resolved_method, methods)}.values())
    if not specs or not len(images):
        raise InputError("nothing to check: give a method and an image")
    makers = [map_maker(spec) for spec in specs]
    names = [name for name, module in model.network.named_modules() if can_reset(module)][::-1]
    shown = set(_spread(len(names), layers))
    with torch.no_grad():
        classes = model(images).argmax(1, keepdim=True)
    clean = [maker(model, images, classes)[:, 0] for maker in makers]
    maps = [[of[0].cpu()] for of in clean]
    found: list[list[Tensor]] = [[] for _ in makers]
    for stage, (_, network) in enumerate(randomised_cascade(model.network, seed)):
        if stage - 1 not in shown:  # stage 0 is the unchanged copy
            continue
        for number, maker in enumerate(makers):
            now = maker(network, images, classes)[:, 0]
            maps[number].append(now[0].cpu())
            ranked = _varies(clean[number]) & _varies(now)
            found[number].append(spearman(clean[number], now).where(ranked, torch.nan).cpu())
    return Randomisation(
        model.name,
        [spec.label for spec in specs],
        [names[place] for place in sorted(shown)],
        torch.stack([torch.stack(of) for of in found]),
        images[0].cpu(),
        maps,
    )


def _varies(maps: Tensor) -> Tensor:
    return maps.flatten(1).amax(1) > maps.flatten(1).amin(1)


def _spread_of(values: Tensor) -> dict[str, Any]:
    """Mean, lowest and highest of the finite values (None if there are none), and how many are missing."""
    known = values[~values.isnan()]
    ends = (known.mean(), known.min(), known.max()) if len(known) else (None, None, None)
    numbers = [None if end is None else float(end) for end in ends]
    return {
        **dict(zip(("spearman", "lowest", "highest"), numbers, strict=True)),
        "blank": len(values) - len(known),
    }


def _rho(values: Tensor) -> str:
    """The mean correlation and the number of blank maps, as text for the picture.

    >>> _rho(torch.tensor([0.5, 0.7])), _rho(torch.tensor([0.5, torch.nan])), _rho(torch.tensor([torch.nan]))
    ('ρ = +0.60', 'ρ = +0.50, 1 blank', 'blank')
    """
    found = _spread_of(values)
    if found["spearman"] is None:
        return "blank"
    return f"ρ = {found['spearman']:+.2f}" + (f", {found['blank']} blank" if found["blank"] else "")


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` indices, evenly spaced, including the first and the last.

    >>> _spread(9, 3), _spread(2, 12), _spread(5, 1)
    ([0, 4, 8], [0, 1], [4])
    """
    if most == 1:
        return [count - 1]
    kept = min(most, count)
    return [round(place * (count - 1) / max(kept - 1, 1)) for place in range(kept)]


def _photo(image: Tensor) -> Image:
    """The network's input (3, H, W), stretched to 8 bits."""
    low, high = image.amin(), image.amax()
    stretched = ((image - low) / (high - low).clamp(min=1e-12) * 255).round().to(torch.uint8)
    return PIL.Image.fromarray(stretched.permute(1, 2, 0).numpy())


def _shorten_left(name: str, width: float) -> str:
    """A layer's name shortened from the left: the end is what tells layers apart."""
    face = typeface(13.0)
    text = name
    while face.getlength(text) > width and len(text) > 2:
        text = "…" + text[2:]
    return text
