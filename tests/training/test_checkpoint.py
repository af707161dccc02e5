"""Checkpoints: what goes in comes out, and files of other kinds are told apart."""

from __future__ import annotations

import resource

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sightline.errors import InputError
from sightline.training.checkpoint import read_checkpoint, save_checkpoint, sha256, start_from


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_weights_and_description_come_back(tmp_path):
    path = tmp_path / "deep" / "w.safetensors"
    description = {
        "architecture": "small-gap",
        "categories": ["a", "é"],
        "preprocess": {"input_hw": [64, 64]},
    }
    save_checkpoint(path, network(), description)
    weights, found = read_checkpoint(path)
    assert found == description
    expected = {n: t for n, t in network().state_dict().items() if "num_batches" not in n}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]  # nothing half-written is left


def test_half_precision_is_half_the_size_and_read_as_single(tmp_path):
    big = nn.Linear(200, 200)
    save_checkpoint(tmp_path / "f.safetensors", big, {})
    save_checkpoint(tmp_path / "h.safetensors", big, {}, half=True)
    sizes = [(tmp_path / name).stat().st_size for name in ("f.safetensors", "h.safetensors")]
    assert sizes[1] < 0.51 * sizes[0]
    weights = read_checkpoint(tmp_path / "h.safetensors")[0]["weight"]
    assert weights.dtype == torch.float32
    assert torch.equal(weights, big.weight.detach().half().float())


def test_files_of_other_kinds(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert read_checkpoint(tmp_path / "plain.safetensors")[1] == {}
    (tmp_path / "text.safetensors").write_text("not weights at all")
    with pytest.raises(InputError, match=r"text\.safetensors is damaged or not a safetensors file"):
        read_checkpoint(tmp_path / "text.safetensors")
    with pytest.raises(InputError, match=r"none\.safetensors"):
        read_checkpoint(tmp_path / "none.safetensors")


def test_a_full_disk_leaves_no_file(tmp_path):
    """A real limit, not a stand-in: safetensors' own writer raises something that is no OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(tmp_path / "w.safetensors", network(), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_start_from_tells_what_it_kept(tmp_path):
    class Net(nn.Module):
        def __init__(self, classes: int, width: int = 4) -> None:
            super().__init__()
            self.features, self.fc = nn.Conv2d(3, width, 1), nn.Linear(width, classes)

    save_checkpoint(tmp_path / "w.safetensors", Net(5), {"architecture": "net"})
    other = Net(7)
    assert start_from(other, tmp_path / "w.safetensors") == ["fc.weight", "fc.bias"]
    assert torch.equal(
        other.features.weight, read_checkpoint(tmp_path / "w.safetensors")[0]["features.weight"]
    )
    with pytest.raises(InputError, match=r"checkpoint of net, .* 2 of 2 .* features\.weight"):
        start_from(Net(5, width=6), tmp_path / "w.safetensors")


def test_a_checksum_known_from_elsewhere(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")  # FIPS 180-4, appendix B.1
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
