"""The log-probability of a caption as a target, and a captioner whose words point at their things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from colournet import PLAIN, Colours, patch
from sightline import explain
from sightline.data.adapters.captions import CaptionedImage
from sightline.discovery.caption import caption_images
from sightline.discovery.captioner import Captioner, Words, caption_target
from sightline.errors import InputError
from sightline.models.loading import LoadedModel

UPPER, LOWER = (0, 0, 8, 4), (0, 4, 8, 8)
TABLE = torch.tensor([[[0.0, 1.0, 2.0], [0.5, 0.0, -1.0], [3.0, 0.0, 0.0]]])  # logits (1, 3 places, 3 words)


def table(output: Tensor, tokens: Tensor) -> Tensor:
    return TABLE.expand(len(output), -1, -1) * output[:, :1, None]


def test_a_captions_log_probability_by_hand() -> None:
    output, p = torch.tensor([[1.0], [2.0]]), (TABLE * torch.tensor([1.0, 2.0])[:, None, None]).softmax(-1)
    tokens = torch.tensor([2, 1, 0])
    expected = (p[:, 0, 2] * p[:, 1, 1] * p[:, 2, 0]).log()
    torch.testing.assert_close(caption_target(table, tokens)(output), expected)
    torch.testing.assert_close(caption_target(table, tokens, word=1)(output), p[:, 1, 1].log())
    each = caption_target(table, tokens, word=torch.tensor([0, 2]))(output)
    torch.testing.assert_close(each, torch.stack([p[0, 0, 2], p[1, 2, 0]]).log())
    words = sum(caption_target(table, tokens, word=t)(output) for t in range(3))
    torch.testing.assert_close(words, expected)  # the words' shares add up to the caption's


def test_what_follows_the_end_does_not_count() -> None:
    output = torch.ones(1, 1)
    p = TABLE.softmax(-1)[0]
    tokens = torch.tensor([[1, 0, 0]])
    torch.testing.assert_close(caption_target(table, tokens)(output), (p[0, 1] * p[1, 0]).log()[None])
    every = caption_target(table, tokens, pad=None)(output)
    torch.testing.assert_close(every, (p[0, 1] * p[1, 0] * p[2, 0]).log()[None])


@pytest.mark.parametrize("place", [-1, 3])
def test_a_word_outside_the_caption(place: int) -> None:
    with pytest.raises(InputError, match=f"word {place} is outside the caption; expected 0 to 2"):
        caption_target(table, torch.tensor([1, 2, 0]), word=place)


def test_what_cannot_decode() -> None:
    with pytest.raises(InputError, match="model is an int; expected a callable"):
        caption_target(3, torch.tensor([1]))


class Speaker(nn.Module):
    """Someone else's model: word 1 is the more probable the redder, word 2 the greener the photo is."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = Colours()

    def forward(self, images: Tensor) -> Tensor:
        return self.colours.relu(self.colours.conv(images)).mean((2, 3))

    def decode(self, memory: Tensor, tokens: Tensor) -> Tensor:
        logits = torch.cat([torch.zeros(len(memory), 1), 5 * memory[:, :2]], 1)
        return logits[:, None].expand(-1, tokens.shape[1], -1)


def test_any_module_is_explained_by_its_words() -> None:
    """Red above, green below: Grad-CAM of "red" lies above, of "green" below."""
    photo = patch((255, 0, 0), UPPER)
    photo.paste((0, 255, 0), LOWER)
    model = Speaker().eval()
    loaded = LoadedModel(model, "speaker", preprocess=PLAIN)
    tokens = torch.tensor([1, 2])
    for place, rows in ((0, slice(0, 4)), (1, slice(4, 8))):
        target = caption_target(model, tokens, word=place)
        heatmap = explain(loaded, [photo], target=target, layer="colours.relu").heatmaps()[0, 0]
        assert float(heatmap[rows].min()) == 1
        assert float(heatmap.sum()) == 32


def test_words() -> None:
    found = Words.of(["a red disc", "a red box", "A disc."])
    assert found.known == ("a", "disc", "red")
    assert found.tokens(["a box"]).tolist() == [[2, 1, 0]]
    assert found.text([2, 4, 1, 0, 3]) == ["a", "red", "?"]
    with pytest.raises(InputError, match="no word occurs 2 times in 2 captions"):
        Words.of(["a", "b"])


def test_greedy_says_what_decode_finds_most_probable() -> None:
    torch.manual_seed(0)
    captioner = Captioner(nn.Identity(), 3, 7, grid=2, hidden=16).eval()
    memory = torch.randn(5, 16)
    tokens = captioner.greedy(memory, 6)
    assert torch.equal(captioner.decode(memory, tokens).argmax(2), tokens)


def captioned(
    folder: Path, seed: int, count: int
) -> tuple[list[CaptionedImage], dict[str, dict[str, Tensor]]]:
    """Two of three colours, one above the other, and a caption that says so."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    images, boxes = [], {}
    names = ("red", "green", "blue")
    for i in range(count):
        first, second = rng.permutation(3)[:2]
        photo = patch(tuple(255 * (k == first) for k in range(3)), UPPER)  # type: ignore[arg-type]
        photo.paste(tuple(255 * (k == second) for k in range(3)), LOWER)
        path = folder / f"{i}.png"
        photo.save(path)
        images.append(CaptionedImage(path.name, path, (f"{names[first]} above {names[second]}",)))
        places = {names[first]: UPPER, names[second]: LOWER}
        boxes[str(path)] = {name: torch.tensor([box]).float() for name, box in places.items()}
    return images, boxes


def test_a_words_map_points_at_its_thing_more_than_chance(colours: LoadedModel, tmp_path: Path) -> None:
    train, _ = captioned(tmp_path / "train", 0, 60)
    test, boxes = captioned(tmp_path / "val", 1, 20)
    result, _ = caption_images(
        colours, train, test, boxes=boxes, grid=2, epochs=60, progress=False, method="hirescam"
    )
    found = {row["measure"]: row for row in result.numbers}
    assert found["exact"]["value"] > 0.9
    assert found["area"]["value"] == 0.5
    assert found["pointing"]["low"] > 0.5
    assert found["pointing"]["value"] > found["other"]["value"]
    assert "words.png" in result.pictures
    assert all(p.requires_grad for p in colours.parameters())  # the caller's network stays as it was
    assert not colours.training
    with pytest.raises(InputError, match="20 test images are also in the training set"):
        caption_images(colours, test, test)
