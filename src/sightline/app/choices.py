"""What a visitor has chosen: methods, class, layer, box rule, colours."""

from __future__ import annotations

from dataclasses import dataclass, field

from sightline.errors import InputError, unknown
from sightline.methods import get_method
from sightline.methods.spec import MethodSpec, parse_method
from sightline.types import BoxRule

# Those that answer at once, and the two that localise best; the operator may offer others.
METHODS = (
    "gradcam", "cam", "layercam", "localise-fast", "localise", "gradcam_pp", "hirescam", "xgradcam",
    "finercam", "eigencam", "fullycam", "guided_gradcam", "saliency",
)  # fmt: skip
COLOURS = ("turbo", "viridis", "cividis")
SIDE_BY_SIDE = 4


@dataclass(frozen=True)
class Choices:
    """``class_index``: None for the most probable. ``against``: a second class, for the difference of the two.

    ``text``: for a network that embeds texts, what to look for. ``layer``: None for the one found automatically.

    >>> Choices(("cam",), colormap="jet")
    Traceback (most recent call last):
    sightline.errors.InputError: unknown colour map 'jet'; valid: turbo, viridis, cividis
    """

    methods: tuple[str, ...] = ("gradcam",)
    class_index: int | None = None
    against: int | None = None
    text: str = ""
    layer: str | None = None
    rule: BoxRule = field(default_factory=BoxRule)
    colormap: str = "turbo"

    def __post_init__(self) -> None:
        if not self.methods:
            raise InputError("no method is chosen; tick at least one")
        if len(self.methods) > SIDE_BY_SIDE:
            raise InputError(f"{len(self.methods)} methods; at most {SIDE_BY_SIDE} fit side by side")
        if self.colormap not in COLOURS:
            raise unknown("colour map", self.colormap, COLOURS)


def offered_methods(names: tuple[str, ...] | None = None) -> dict[str, MethodSpec]:
    """The methods that visitors may choose from; raises `InputError` for an unknown name.

    >>> list(offered_methods(("cam:flip",)))
    ['cam:flip']
    """
    return {name: parse_method(name) for name in names or METHODS}


def takes_layer(spec: MethodSpec) -> bool:
    """Whether a layer can be named for it.

    >>> takes_layer(parse_method("saliency")), takes_layer(parse_method("gradcam"))
    (False, True)
    """
    return "activations" in get_method(spec.name).needs and not spec.layers


def finds_regions(spec: MethodSpec) -> bool:
    """Whether its map has regions, and so boxes; a map of single pixels has none."""
    return spec.combines or not get_method(spec.name).signed


def usual_threshold(spec: MethodSpec) -> float:
    """The threshold it was tuned with, or the paper's 0.2.

    >>> usual_threshold(parse_method("gradcam"))
    0.2
    """
    return spec.rule.threshold if spec.rule is not None else BoxRule().threshold
