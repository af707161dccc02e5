"""Names without those of wrappers, and layouts: as they are written, as maps and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sightline.errors import InputError
from sightline.inspection.guard import original, plain_name, refuse_unobservable, unwrapped
from sightline.inspection.layout import MAX_PREFIX, Layout


def test_names_without_those_of_wrappers() -> None:
    holder = nn.ModuleDict({"module": nn.ReLU()})
    wrapped = nn.DataParallel(nn.DataParallel(holder))
    assert unwrapped(wrapped) is holder
    assert original(holder) is holder
    names = {
        "module.module.a": "a",
        "_orig_mod.module.a.b": "a.b",
        "module": "module",
        "a.module": "a.module",
    }
    assert {name: plain_name(name, nn.ReLU()) for name in names} == names
    assert plain_name("_orig_mod.module", holder) == "module"
    assert plain_name("module.0", holder) == "module.0"
    refuse_unobservable(holder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nchw", ""), ("NHWC ", ""), ("ntc:2x3", ""), ("nct:16+2x3", ""), ("ntc:7", ""), ("ncdhw", ""),
        ("ntc", "needs the grid of its tokens"), ("nct", "needs the grid of its tokens"),
        ("nhcw", "expected one of nchw, nhwc"),
        ("ntc:17+2x3", "with 17 prefix tokens; expected 0 to 16"), ("nchw:1+2x3", "with 1 prefix tokens"),
        ("ntc:2x", "expected 'nchw'"),
        ("ntc:x3", "expected 'nchw'"), ("ntc:1+", "expected 'nchw'"), ("ntc:2x3x4x5", "needs the grid"),
    ],
)  # fmt: skip
def test_a_layout_as_it_is_written(text: str, message: str) -> None:
    if not message:
        assert str(Layout.parse(text)) == text.strip().lower()
        return
    with pytest.raises(InputError, match=message):
        Layout.parse(text)
    assert MAX_PREFIX == 16


@pytest.mark.parametrize(
    ("layout", "shape", "mapped", "axes"),
    [
        (Layout(), (2, 4, 3, 5), (2, 4, 3, 5), (1, (2, 3))),
        (Layout("nhwc"), (2, 3, 5, 4), (2, 4, 3, 5), (3, (1, 2))),
        (Layout("ntc", 2, (3, 5)), (2, 17, 4), (2, 4, 3, 5), (2, (1,))),
        (Layout("nct", 2, (3, 5)), (2, 4, 17), (2, 4, 3, 5), (1, (2,))),
        (Layout("ncl"), (2, 4, 3), (2, 4, 3), (1, (2,))),
        (Layout("ncdhw"), (2, 4, 3, 5, 6), (2, 4, 3, 5, 6), (1, (2, 3, 4))),
        (Layout("ntc", 0, (2, 3, 4)), (2, 24, 4), (2, 4, 2, 3, 4), (2, (1,))),
    ],
)
def test_a_layout_makes_a_map_and_takes_it_back(layout: Layout, shape: Any, mapped: Any, axes: Any) -> None:
    tensor = torch.rand(shape)
    assert layout.mismatch(tensor) == ""
    assert layout.mismatch(tensor[None]) != ""
    assert layout.to_map(tensor).shape == mapped
    assert torch.equal(layout.from_map(layout.to_map(tensor), tensor), tensor)
    assert (layout.channel_axis, layout.spatial_axes) == axes
    changed = layout.from_map(layout.to_map(tensor) + 1, tensor)
    cells = torch.tensor(mapped[2:]).prod()
    assert int((changed != tensor).sum()) == 2 * 4 * int(cells)  # the prefix stays


def test_sides_and_tokens_that_do_not_fit() -> None:
    assert Layout("nchw", 0, (2, 3)).mismatch(torch.ones(1, 4, 2, 4)) == "its sides are 2 × 4 and not 2 × 3"
    assert Layout("nhwc", 0, (2, 3)).mismatch(torch.ones(1, 2, 3, 4)) == ""
    assert Layout("ntc", 0, (2, 3)).mismatch(torch.ones(1, 7, 4)) == "7 tokens are not 2 × 3"
    assert Layout("nchw").mismatch(torch.ones(1, 7, 4)) == "it has 3 axes and not 4"
