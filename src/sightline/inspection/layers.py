"""What inspection returns: places in a network, its head, the layers that can be named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sightline.inspection.layout import NCHW, Layout
from sightline.inspection.probes import Place

Spans = tuple[
    tuple[float, float], ...
]  # of each spatial axis the first and the last edge, in pixels of the input


@dataclass(frozen=True)
class LayerRef:
    """One place in the network whose tensor can be observed.

    The output of a module (``call`` numbers its calls in one pass; None: it is called once), or of operation
    ``op``, which ran inside module ``name``. ``layout`` says how its tensor is a map; None: channels first.
    ``covers``: the part of the image that its grid covers (rows, columns); None: all of it. ``unpadded``: it covers the
    middle for want of padding, and its outermost cells see as far as the edge.
    """

    name: str
    call: int | None = None
    op: int | None = None
    function: str = ""
    layout: Layout | None = field(default=None, compare=False)
    covers: Spans | None = field(default=None, compare=False)
    unpadded: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        if self.op is not None:
            return f"{self.name or 'network'}:{self.function}@{self.op}"
        return self.name if self.call is None else f"{self.name}#{self.call}"


DISORDERED = (
    "the tokens of the network do not stand row by row behind the special ones (class token, registers) and cannot be "
    "laid on the image; use 'rise' or 'occlusion', which explain pixels"
)


@dataclass(frozen=True)
class Head:
    """How the scores come from the target layer A; ``module`` holds the weight W and the bias b.

    ``kind`` "linear": logits = W · pool(A) + b. ``kind`` "conv": logits = pool(W * A + b) with a 1×1
    convolution, and a ReLU before the pooling where ``relu`` is set. ``pooling``: "mean", "max", the name of the
    module that pools, or "" for a function that is neither.
    """

    kind: str
    module: str
    relu: bool = False
    pooling: str = ""


@dataclass(frozen=True)
class LayerRow:
    """One module that may be named as a layer, with the shape (C, h, w) of its map and its tensor's layout."""

    name: str
    type: str
    shape: tuple[int, ...]
    chosen: bool = False
    layout: Layout = NCHW


@dataclass(frozen=True)
class Structure:
    """What was recognised: the target layer, the head (or why `cam` cannot work), the convolutions.

    ``layers`` can be named. ``patchless`` are token layers behind which only other tokens than the patches' lead to
    the score. ``interrupts``: the network switches gradients off inside its forward pass. ``covers``: which part of
    the image the layers' grids cover, where it is not all of it; ``unpadded``: those of them that lack padding.
    ``lost``: the layers of which that is not known, with the reason, or "" where it is to be looked for.
    """

    target: LayerRef | None = None
    why_no_target: str = ""
    head: Head | None = None
    why_no_head: str = ""
    convs: tuple[LayerRef, ...] = ()
    stages: tuple[LayerRef, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    patchless: frozenset[Place] = frozenset()
    interrupts: bool = False
    tokens: bool = False
    shapes: dict[Place, tuple[int, ...]] = field(default_factory=dict)
    undecided: dict[Place, list[Layout]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    rows: int = 1  # images that were looked at
    covers: dict[Place, Spans] = field(default_factory=dict)
    unpadded: frozenset[Place] = frozenset()
    lost: dict[Place, str] = field(default_factory=dict)
    displaced: str = ""  # why the target's maps do not lie on the image
    moves_rows: bool = False  # an operation between image and score could put the batch into another order
    levels: tuple[LayerRef, ...] = ()  # the maps that a detector's heads read, where there are several
    moves: tuple[
        tuple[int, Any], ...
    ] = ()  # what the pass did to positions, with the number of the operation
    ends: dict[Place, int] = field(default_factory=dict)  # how many operations had run when a layer was made
    measured: bool = False  # where the maps lie was measured, since the image is changed before a convolution
    reorders: bool = False  # tokens change places among themselves on the way
    by_values: bool = False  # values of tensors are turned into Python's, on which the way may depend
    proved: set[Any] = field(
        default_factory=set, compare=False, repr=False
    )  # the passes that went the same way

    def suggestions(self, shapes: bool = False) -> str:
        """The target and the last of the outermost layers that can be named, for a message; also their maps' shapes."""
        late = list(reversed([row.name for row in self.layers if not row.chosen]))
        names = [str(self.target)] if self.target is not None else []
        names += sorted(late, key=lambda name: name.count("."))[: 5 - len(names)]
        sizes = {row.name: f" ({' × '.join(map(str, row.shape))})" for row in self.layers if shapes}
        return ", ".join(f"{name!r}{sizes.get(name, '')}" for name in names)


def why_patchless(structure: Structure, site: LayerRef) -> str:
    """Why a layer of tokens cannot be explained behind which only the class token is used."""
    return (
        f"layer '{site}': only its class token leads to the score, the gradient at its patches is exactly 0; "
        f"name '{structure.target}'"
    )
