"""Training behind an untrained trunk: its output is computed once, its weights and statistics stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sightline.errors import InputError
from sightline.models.families.gapnet import build_gapnet
from sightline.training import kept
from sightline.training.checkpoint import read_checkpoint
from sightline.training.data import LabelledPhotos, PhotoData
from sightline.training.run import build_module, train_recipe

FROZEN = {
    "model": {"trainable": 1},
    "augment": {"sizes": {0: 12}, "views": 2, "cutmix": 0.0},
    "test": {"sizes": [12]},
    "data": {"test": "test"},
}


def test_only_the_last_parts_and_the_head_change(tiny, colours, tmp_path):
    recipe = tiny(**FROZEN, optimiser={"epochs": 3, "lr": 0.05})
    before = build_module(recipe, PhotoData(recipe, colours(), None)).network.state_dict()
    state, description = read_checkpoint(train_recipe(recipe, train=colours(), test=colours(6, start=50)))
    changed = {
        name for name, tensor in state.items() if not torch.equal(tensor.float(), before[name].float())
    }
    last = list(build_gapnet("small-gap", 3, **recipe.model.options).features.named_children())[-1][0]
    assert changed
    assert all(name.startswith(("fc.", f"features.{last}.")) for name in changed), changed
    assert list(description["test"]["accuracy"]) == ["12"]


def test_kept_maps_give_the_logits_of_the_photos(tiny, colours):
    recipe = tiny(**FROZEN)
    data = PhotoData(recipe, colours(5), colours(4, start=50))
    module = build_module(recipe, data).eval()
    photos = data.test
    assert isinstance(photos, LabelledPhotos)
    whole = module.network(module.normalised(torch.stack([photos[i][0] for i in range(4)])))
    data.keep_maps(module)
    kept_logits = module.logits(torch.stack([data.test[i][0] for i in range(4)]))
    assert torch.allclose(whole, kept_logits, atol=2e-2)
    views = [data.train[epoch, 0][0] for epoch in range(3)]
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])


def test_the_maps_are_computed_once_for_all_seeds(tiny, colours, tmp_path, monkeypatch):
    where = {**FROZEN, "data": {"test": None, "kept": str(tmp_path / "maps")}}
    recipe = tiny(**where)
    module = build_module(recipe, PhotoData(recipe, colours(), None))
    first = kept.kept_maps(module, LabelledPhotos(colours(), recipe), 2)
    assert len(list(Path(recipe.data.kept).iterdir())) == 1
    monkeypatch.setattr(kept, "_batches", lambda *_: pytest.fail("computed again"))
    recipe.run.seed = 7
    assert torch.equal(kept.kept_maps(module, LabelledPhotos(colours(), recipe), 2).maps, first.maps)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (
            {"augment": {"sizes": {0: 12}, "views": 2, "cutmix": 0.0}, "test": {"sizes": [12]}},
            "augment.views",
        ),
        ({**FROZEN, "augment": {"sizes": {0: 12}, "views": 2, "cutmix": 0.5}}, "augment.cutmix"),
        ({**FROZEN, "test": {"sizes": [12, 16]}}, "test.sizes"),
        ({"model": {"trainable": -1}}, "model.trainable"),
    ],
)
def test_what_cannot_be_kept_is_refused(tiny, parts, told):
    with pytest.raises(InputError, match=told):
        tiny(**parts)


def test_more_parts_than_the_trunk_has(tiny, colours):
    recipe = tiny(model={"trainable": 9})
    with pytest.raises(InputError, match=r"model.trainable=9; the trunk has \d parts"):
        build_module(recipe, PhotoData(recipe, colours(), None))


def test_lite0_is_cut_for_class_maps_with_its_last_stride_1():
    network = build_gapnet("lite0-tap", 7)
    with torch.device("meta"):
        maps = network.features.to("meta").eval()(torch.empty(1, 3, 224, 224))
    assert maps.shape == (1, 1280, 14, 14)
