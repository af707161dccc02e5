"""Network surgery: where it cuts, what it costs, and that published weights arrive unchanged."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from sightline.errors import InputError, UnsupportedError
from sightline.models.families.gapnet import build_classifier, build_gapnet, head_parameters, list_gapnets
from sightline.models.families.nin import NIN
from sightline.models.families.trunks import map_shape


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def without_numbers():
    """Shapes and counts only; older networks of timm compute numbers while they are built."""
    return torch.device("meta" if tuple(map(int, timm.__version__.split(".")[:3])) >= (1, 0, 25) else "cpu")


@pytest.mark.parametrize(
    ("name", "options", "maps", "parameters"),
    [
        # conv5 of AlexNet (2,469,696) + 3×3×256×1024 + 1024 + the linear layer (1,025,000)
        ("alexnet-gap", {}, (1024, 13), 2_469_696 + 2_360_320 + 1_025_000),
        ("alexnet-star-gap", {}, (1024, 13), 2_469_696 + 1_180_160 + 4_719_616 + 1_025_000),
        # conv5-3 of VGG16 (14,714,688) + 3×3×512×1024 + 1024 + the linear layer
        ("vgg16-gap", {}, (1024, 14), 14_714_688 + 4_719_616 + 1_025_000),
        ("googlenet-gap", {}, (1024, 14), 11_967_656),
        ("googlenet-gmp", {}, (1024, 14), 11_967_656),
        ("resnet18-gap", {}, (512, 14), 11_689_512),
        ("resnet18-tap", {"last_strides": 2}, (512, 28), 11_689_512),
        ("resnet18-gap", {"last_strides": 0}, (512, 7), 11_689_512),
        ("resnet18-gap", {"extra_conv": 64}, (64, 14), 11_176_512 + 294_976 + 65_000),
        ("mobilenet-gap", {}, (1280, 14), 3_504_872),
        ("densenet121-gap", {}, (1024, 14), 7_978_856),
        ("inception_v3-gap", {}, (2048, 5), 23_834_568),
        ("timm/resnet18-tap", {}, (512, 14), 11_689_512),
        ("timm/convnext_atto-gap", {}, (320, 14), 3_695_520),
        ("timm/resnet18-gap", {"extra_conv": 64}, (64, 14), 11_176_512 + 294_976 + 65_000),
    ],
)
def test_cut_and_cost(name, options, maps, parameters):
    with without_numbers():
        network = build_gapnet(name, **options)
    shape = map_shape(network.features)
    assert (shape[1], shape[2]) == maps
    assert count(network) == parameters
    assert network.fc.in_features == maps[0]


def test_the_paper_saves_most_of_vgg16():
    with without_numbers():
        cut, whole = build_gapnet("vgg16-gap"), torchvision.models.vgg16()
    assert 1 - count(cut) / count(whole) == pytest.approx(0.85, abs=0.005)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "densenet121", "mobilenet_v3_small"])
def test_the_trunk_computes_what_the_whole_network_computes_there(name):
    """Uncut strides, the original's linear or convolutional head put back: the same logits."""
    torch.manual_seed(0)
    whole = torchvision.models.get_model(name).eval()
    network = build_gapnet(f"{name}-gap", last_strides=0).eval()
    network.features.load_state_dict(whole.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = network.features(x)
        if name == "squeezenet1_1":
            assert torch.equal(whole.classifier(maps).flatten(1), whole(x))
        else:
            head = whole.fc if name == "resnet18" else whole.classifier
            assert torch.allclose(head(network.pool(maps)), whole(x), atol=1e-6)


def test_published_weights_load_into_the_cut_network(tmp_path):
    torch.manual_seed(1)
    whole = torchvision.models.squeezenet1_1()
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "w.pth")
    for file in ("w.safetensors", "w.pth"):
        network = build_gapnet("squeezenet1_1-gap", 7, trunk_weights=str(tmp_path / file), last_strides=0)
        for mine, other in zip(network.features.parameters(), whole.features.parameters(), strict=True):
            assert torch.equal(mine, other)


def test_googlenet_sees_what_its_published_weights_expect():
    """torchvision turns ImageNet's normalisation into Inception's in forward(); the cut must not lose that."""
    whole = torchvision.models.googlenet(init_weights=False, aux_logits=False, transform_input=True).eval()
    network = build_gapnet("googlenet-gap", extra_conv=0).eval()
    network.features.load_state_dict(whole.state_dict(), strict=False)
    seen = {}
    whole.inception4e.register_forward_hook(lambda _, __, out: seen.update(out=out))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        whole(x)
        assert torch.allclose(network.features(x), seen["out"], atol=1e-5)


def test_weights_of_another_network(tmp_path):
    save_file(torchvision.models.resnet18().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"another network: .* the first is layer1\.0\.conv1"):
        build_gapnet("resnet50-gap", trunk_weights=str(tmp_path / "w.safetensors"))
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"bad\.pth is damaged or was not written by torch\.save"):
        build_gapnet("resnet18-gap", trunk_weights=str(tmp_path / "bad.pth"))
    with pytest.raises(InputError, match=r"none\.pth"):
        build_gapnet("resnet18-gap", trunk_weights=str(tmp_path / "none.pth"))


def test_gap_identity_on_a_whole_network_in_float64():
    torch.manual_seed(0)
    network = build_gapnet("small-gap", 5).double().eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    maps = torch.einsum("kc,nchw->nkhw", network.fc.weight, network.features(x))
    assert torch.allclose(maps.mean((-2, -1)) + network.fc.bias, network(x), atol=1e-10)


@pytest.mark.parametrize("name", ["small-tap", "smallvgg-tap"])
def test_small_networks(name):
    network = build_gapnet(name, 4).eval()
    x = torch.randn(2, 3, 32, 32)
    features = network.features(x)
    assert features.shape == (2, 256, 4, 4)
    assert (features >= 0).all()
    assert torch.allclose(network(x), torch.cat([network(one[None]) for one in x]), atol=1e-5)


def test_options_of_a_small_trunk():
    network = build_gapnet("small-gap", 4, widths=(8, 16), blocks=(1, 1), strides=(2, 1), stem=4)
    assert network.features(torch.zeros(1, 3, 16, 16)).shape == (1, 16, 8, 8)


def test_nin_is_network_in_network():
    network = build_classifier("nin", 10)
    assert isinstance(network, NIN)
    assert count(NIN(1000)) == 7_595_176
    x = torch.randn(1, 3, 224, 224)
    network.eval()
    with torch.no_grad():
        maps = network.classifier(network.features(x))
        assert torch.allclose(maps.mean((-2, -1)), network(x))
    assert [tuple(p.shape) for p in head_parameters(network)] == [(10, 1024, 1, 1), (10,)]


def test_the_head_is_what_surgery_added():
    network = build_gapnet("alexnet-gap", 5)
    assert [tuple(p.shape) for p in head_parameters(network)] == [(1024, 256, 3, 3), (1024,), (5, 1024), (5,)]
    assert len(head_parameters(build_classifier("squeezenet1_1", 5))) == 2
    with pytest.raises(UnsupportedError, match="has no known head; expected a GapNet"):
        head_parameters(torch.nn.Identity())


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("vgg16-gip", InputError, "did you mean .*'vgg16-gap'"),
        ("vgg61-gap", InputError, "unknown network 'vgg61-gap'; did you mean"),
        ("timm/resnet81-gap", InputError, "did you mean 'resnet18'"),
        ("timm/vit_tiny_patch16_224-gap", UnsupportedError, r"\(1, 197, 192\); expected maps"),
        ("timm/swin_tiny_patch4_window7_224-gap", UnsupportedError, "expected maps"),
    ],
)
def test_names_that_do_not_work(name, error, match):
    with without_numbers(), pytest.raises(error, match=match):
        build_gapnet(name)


def test_strides_that_cannot_change():
    with without_numbers(), pytest.raises(UnsupportedError, match="use last_strides=0"):
        build_gapnet("inception_v3-gap", last_strides=1)
    with pytest.raises(UnsupportedError, match="no stride left"):
        build_gapnet("small-gap", last_strides=9)


def test_small_networks_have_no_published_weights():
    with pytest.raises(InputError, match="no published weights"):
        build_gapnet("small-gap", pretrained=True)


def test_every_listed_name_has_a_trunk_and_a_pooling():
    names = list_gapnets()
    assert len(names) == len(set(names)) > 150
    assert not [name for name in names if name.startswith(("vit", "swin", "maxvit"))]


def test_the_authors_added_convolutions_have_groups_and_dropout():
    """Their published AlexNet*: 512 and 512 units in two groups; the paper has 512 and 1024, no groups."""
    network = build_gapnet("small-gap", 5, extra_conv=(8, 8), extra_groups=2, extra_dropout=0.5)
    added = network.features.extra
    assert [tuple(part.weight.shape) for part in added if isinstance(part, torch.nn.Conv2d)] == [
        (8, 128, 3, 3),
        (8, 4, 3, 3),
    ]
    assert isinstance(added[-1], torch.nn.Dropout)
    with pytest.raises(InputError, match="extra_groups=3 does not divide the channels 256 and 8"):
        build_gapnet("small-gap", 5, extra_conv=8, extra_groups=3)
