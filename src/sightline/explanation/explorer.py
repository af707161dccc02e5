"""The explorer: an `Explanation` under sliders in a notebook; moving the threshold only draws again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sightline.boxes import make_boxes
from sightline.errors import InputError, need
from sightline.explanation.shown import png_bytes
from sightline.pictures.overlay import overlay

if TYPE_CHECKING:
    from sightline.explanation import Explanation

METHODS = ("cam", "gradcam", "layercam", "localise-fast")
OTHERS = 5  # classes of the highest scores that are offered beside the explained ones


class Explorer:
    """Widgets for the image, the method, the class and the threshold; the picture and the box follow.

    ``photo``, ``method``, ``category``, ``threshold``, ``opacity`` are ipywidgets; set ``.value`` in code to use them
    without a browser. ``picture`` holds the PNG and ``note`` the box; ``boxes_xyxy`` are the boxes shown (B, 4).

    >>> from sightline.explanation import example
    >>> explorer = Explorer(example())
    >>> explorer.threshold.value = 0.9
    >>> explorer.boxes_xyxy.shape
    torch.Size([1, 4])
    """

    def __init__(self, explanation: Explanation, methods: Sequence[str] = METHODS) -> None:
        widgets = need("ipywidgets", "notebook")
        self.explanation = explanation
        self._maps: dict[tuple[int, str, int], Explanation] = {}
        wide = {"style": {"description_width": "5em"}, "layout": widgets.Layout(width="28em")}
        photos = [(explanation.name(i), i) for i in range(len(explanation))]
        names = list(dict.fromkeys([explanation.method, *methods]))
        start = explanation.box_rule().threshold
        self.photo = widgets.Dropdown(options=photos, description="image", **wide)
        self.method = widgets.Dropdown(options=names, description="method", **wide)
        self.category = widgets.Dropdown(options=self._classes(0), description="class", **wide)
        self.threshold = widgets.FloatSlider(start, min=0, max=1, step=0.01, description="threshold", **wide)
        self.opacity = widgets.FloatSlider(0.5, min=0, max=1, step=0.05, description="opacity", **wide)
        self.picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        self.note = widgets.Label()
        controls = [self.photo] * (len(photos) > 1)
        controls += [self.method, self.category, self.threshold, self.opacity]
        self.widget = widgets.VBox([*controls, self.note, self.picture])
        self.photo.observe(self._other_photo, "value")
        for control in (self.method, self.category, self.threshold, self.opacity):
            control.observe(self._draw, "value")
        self._draw()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)  # type: ignore[no-untyped-call]

    def _classes(self, i: int) -> list[tuple[str, int]]:
        """The explained classes of image i and those of its highest scores, with their names."""
        shown = self.explanation
        found = {shown.category(i, k): int(shown.classes[i, k]) for k in range(shown.classes.shape[1])}
        if shown.logits is not None and -1 not in found.values():
            for index in shown.logits[i].topk(min(OTHERS, shown.logits.shape[1])).indices.tolist():
                name = shown.categories[index] if shown.categories else f"class {index}"
                found.setdefault(name, index)
        return list(found.items())

    def _other_photo(self, _: Any = None) -> None:
        wanted, self.category.options = self.category.value, self._classes(self.photo.value)
        if wanted in dict(self.category.options).values():
            self.category.value = wanted
        self._draw()

    def _draw(self, _: Any = None) -> None:
        try:
            one = self._explained(self.photo.value, self.method.value, self.category.value)
        except InputError as error:  # a method that does not work with this network: the picture stays
            self.note.value = str(error)
            return
        rule = replace(one.box_rule(), threshold=self.threshold.value)
        heatmap = one.heatmaps(normalise=rule.normalise, percentile=rule.percentile).float().cpu()
        self.boxes_xyxy = one.geometries[0].to_photo(make_boxes(heatmap, rule)[0][0])
        shown = overlay(
            one.photo(0),
            heatmap[0, 0],
            self.opacity.value,
            boxes_xyxy=self.boxes_xyxy,
            shown_xyxy=one.geometries[0].shown_xyxy,
        )
        self.picture.value = png_bytes(shown)
        boxes = "; ".join(" ".join(f"{x:.0f}" for x in box) for box in self.boxes_xyxy.tolist())
        self.note.value = f"box x0 y0 x1 y1: {boxes or 'none'} ({rule.describe()})"

    def _explained(self, i: int, method: str, class_index: int) -> Explanation:
        """The explanation of one image, method and class; computed at most once."""
        key = (i, method, class_index)
        if key not in self._maps:
            own = [k for k, c in enumerate(self.explanation.classes[i].tolist()) if c == class_index]
            if method == self.explanation.method and own:
                self._maps[key] = _of_class(self.explanation[i], own[0])
            else:
                classes = None if class_index < 0 else [class_index]
                self._maps[key] = self.explanation[i].with_method(method, classes)
        return self._maps[key]


def _of_class(explanation: Explanation, k: int) -> Explanation:
    """The explanation of the k-th class of each image alone."""
    signed = None if explanation.signed is None else explanation.signed[:, k : k + 1]
    maps, classes = explanation.maps[:, k : k + 1], explanation.classes[:, k : k + 1]
    return replace(explanation, maps=maps, classes=classes, signed=signed)
