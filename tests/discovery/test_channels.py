"""Figure 2: the channel maps of a network whose channels are the photo's colours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from colournet import PLAIN, Colours, patch
from sightline.cli import main
from sightline.discovery.channels import channel_maps
from sightline.errors import InputError
from sightline.models.loading import LoadedModel


@pytest.fixture
def model() -> LoadedModel:
    net = Colours()
    net.fc.weight.data = torch.tensor([[2.0, 1.0, -1.0], [-1.0, 0.0, 1.0]])
    net.fc.bias.data.zero_()
    return LoadedModel(net, "colours", ("warm", "cold"), PLAIN)


def test_the_shares_add_up_to_the_map(model: LoadedModel, tmp_path: Path) -> None:
    """A square of red and green: red counts twice as much, and blue has nothing to add."""
    path = tmp_path / "square.png"
    patch((200, 200, 0), (2, 2, 6, 6)).save(path)
    result = channel_maps(model, [path], ["warm"], top=3)
    assert [one["channel"] for one in result.numbers] == [0, 1, 2]
    assert [round(one["share"], 4) for one in result.numbers] == [0.6667, 0.3333, 0.0]
    assert [one["weight"] for one in result.numbers] == [2, 1, -1]
    assert result.pictures["channels.png"].width > result.pictures["channels.png"].height


def test_no_photo(model: LoadedModel) -> None:
    with pytest.raises(InputError, match="no photo given"):
        channel_maps(model, [])


def test_the_verb_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["discover", "channels", "--help"]) == 0
    assert "Figure 2" in capsys.readouterr().out
