"""Several maps in one picture: each place in the colour of its strongest map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
from torch import Tensor

from sightline.errors import InputError
from sightline.heatmap import upsample
from sightline.pictures.overlay import Colour, Image

# Ten colours that stay apart for most colour-blind eyes (Tol's muted scheme).
COLOURS: tuple[Colour, ...] = (
    (204, 102, 119), (51, 34, 136), (221, 204, 119), (17, 119, 51), (136, 204, 238),
    (136, 34, 85), (68, 170, 153), (153, 153, 51), (170, 68, 153), (102, 153, 204),
)  # fmt: skip


def painted(photo: Image, maps: Tensor, colours: Sequence[Colour] = COLOURS, alpha: float = 0.75) -> Image:
    """The greyed photo, each place in the colour of the strongest of its maps (r, h, w), values in [0, 1].

    The stronger the map there, the more of the colour, up to ``alpha``. Raises `InputError` for more maps than colours.

    >>> import torch
    >>> painted(PIL.Image.new("RGB", (8, 4)), torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])).getpixel((0, 0))
    (153, 76, 89)
    """
    if len(maps) > len(colours):
        raise InputError(f"{len(maps)} maps and {len(colours)} colours; expected a colour for each")
    enlarged = upsample(maps.float().cpu(), (photo.height, photo.width)).clamp(0, 1)
    strength, which = enlarged.max(0)
    share = alpha * strength[..., None].numpy()
    grey = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float32)
    tint = np.asarray(colours, dtype=np.float32)[which.numpy()]
    return PIL.Image.fromarray(((1 - share) * grey + share * tint).astype(np.uint8))
