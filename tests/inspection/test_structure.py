"""The target layer and the head, found without being told, in networks as they are published."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from sightline.engine import observe
from sightline.errors import InputError
from sightline.inspection.naming import describe_layers, named_layer
from sightline.inspection.structure import LayerRef, inspect_network
from sightline.inspection.tail import tail
from sightline.models.families.gapnet import build_gapnet

# name -> (target layer, head's kind or None, the module that holds its weights)
FOUND = {
    "alexnet": ("features.11", None, None),
    "vgg16": ("features.29", None, None),
    "googlenet": ("inception5b", "linear", "fc"),
    "inception_v3": ("Mixed_7c", "linear", "fc"),
    "resnet18": ("layer4", "linear", "fc"),
    "resnext50_32x4d": ("layer4", "linear", "fc"),
    "mobilenet_v2": ("features", "linear", "classifier.1"),
    "mobilenet_v3_small": ("features", None, None),
    "efficientnet_b0": ("features", "linear", "classifier.1"),
    "convnext_tiny": ("features", None, None),
    "regnet_y_400mf": ("trunk_output", "linear", "fc"),
    "shufflenet_v2_x1_0": ("conv5", "linear", "fc"),
    "mnasnet0_5": ("layers", "linear", "classifier.1"),
    "squeezenet1_1": ("features", "conv", "classifier.1"),
}


def build(name):
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, **extra).eval()


@pytest.mark.parametrize("name", FOUND)
def test_target_layer_and_head_of_torchvision_networks(name):
    network, (target, kind, module) = build(name), FOUND[name]
    side = 299 if name == "inception_v3" else 224
    structure = inspect_network(network, torch.randn(1, 3, side, side))
    assert str(structure.target) == target
    assert (structure.head and structure.head.kind) == kind
    assert (structure.head and structure.head.module) == module


def test_densenet_s_target_is_the_functional_relu_after_its_last_norm():
    network, x = build("densenet121"), torch.randn(2, 3, 64, 64)
    structure = inspect_network(network, x)
    evidence = observe(network, x, [structure.target])
    with torch.no_grad():
        wanted = F.relu(network.features(x))
    assert torch.allclose(evidence.activations, wanted)
    assert structure.head.module == "classifier"
    assert named_layer(network, str(structure.target), x) == structure.target


def test_the_squeezenet_head_is_the_class_convolution_with_its_relu():
    network, x = build("squeezenet1_1"), torch.randn(1, 3, 96, 96)
    structure = inspect_network(network, x)
    assert structure.head.relu
    evidence = observe(network, x, [structure.target], gradient=False)
    evidence.head = structure.head
    weight, bias = evidence.classifier_weights()
    maps = (torch.einsum("kc,nchw->nkhw", weight, evidence.activations) + bias[:, None, None]).relu()
    assert torch.allclose(maps.mean((2, 3)), evidence.logits, atol=1e-5)


class Functional(nn.Module):
    """No module for the ReLU, the pooling or the flattening."""

    def __init__(self):
        super().__init__()
        self.conv, self.score = nn.Conv2d(3, 5, 3), nn.Linear(5, 2)

    def forward(self, x):
        return self.score(F.relu(self.conv(x)).mean((2, 3)))


class Gated(nn.Module):
    """A squeeze-and-excitation gate: the last pooling by order in time is the gate's, not the head's."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.score = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4 * 36, 2)

    def forward(self, x):
        x = F.relu(self.conv(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return self.score(torch.flatten(x, 1))


def test_a_functional_head_is_recognised_by_what_it_computes():
    structure = inspect_network(Functional(), torch.randn(1, 3, 8, 8))
    assert structure.target.function == "relu"
    assert structure.head.kind == "linear"
    assert structure.head.module == "score"


def test_a_pooling_inside_a_gate_is_not_the_last_pooling():
    network, x = Gated(), torch.randn(1, 3, 8, 8)
    structure = inspect_network(network, x)
    assert structure.head is None
    with torch.no_grad():
        conv = F.relu(network.conv(x))
        wanted = conv * torch.sigmoid(network.gate(conv.mean((2, 3))))[:, :, None, None]
    assert torch.allclose(observe(network, x, [structure.target]).activations, wanted)


def test_a_linear_layer_that_reads_something_else_is_no_cam_head():
    class Two(Functional):
        def forward(self, x):
            pooled = F.relu(self.conv(x)).mean((2, 3))
            return self.score(pooled * 2)

    assert inspect_network(Two(), torch.randn(1, 3, 8, 8)).head is None


def test_a_transformer_s_target_is_the_first_norm_of_its_last_block():
    network = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32).eval()
    structure = inspect_network(network, torch.randn(1, 3, 32, 32))
    assert str(structure.target) == "encoder.layers.encoder_layer_1.ln_1"
    assert str(structure.target.layout) == "ntc:1+4x4"


def test_a_class_convolution_on_the_image_itself_leaves_nothing_to_explain():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    structure = inspect_network(network, torch.randn(1, 3, 8, 8))
    assert structure.target is None
    assert "the image itself" in structure.why_no_target


def test_an_image_too_small_for_the_network_is_named():
    structure = inspect_network(build("resnet18"), torch.randn(1, 3, 32, 32))
    assert structure.target is None
    assert "too small" in structure.why_no_target


def test_nothing_is_left_behind_and_modes_are_restored():
    network = build("mobilenet_v2")
    network.train()
    network.features[3].eval()
    before = [m.training for m in network.modules()]
    state = {k: v.clone() for k, v in network.state_dict().items()}
    inspect_network(network, torch.randn(1, 3, 64, 64))
    assert [m.training for m in network.modules()] == before
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_replaced_head_is_seen_again():
    network, x = build("resnet18"), torch.randn(1, 3, 64, 64)
    assert inspect_network(network, x).head is not None
    network.fc = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 3))
    assert inspect_network(network, x).head is None


def test_convolutions_after_their_activation():
    network, x = build("resnet18"), torch.randn(1, 3, 64, 64)
    names = [str(site) for site in inspect_network(network, x).convs]
    assert names[:3] == ["relu", "layer1.0.relu#0", "layer1.0"]  # stem; first of a block; after the addition
    assert names[-1] == "layer4"
    assert [str(s) for s in inspect_network(network, x).stages] == [
        "relu",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    ]


def test_layers_are_listed_with_their_shapes_and_unknown_ones_refused():
    network, x = build("resnet18"), torch.randn(1, 3, 64, 64)
    rows = {row.name: row for row in describe_layers(network, x)}
    assert rows["layer2"].shape == (128, 8, 8)
    assert [name for name, row in rows.items() if row.chosen] == ["layer4"]
    with pytest.raises(InputError, match="unknown layer 'layr4'; did you mean 'layer4'"):
        named_layer(network, "layr4", x)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet18", "layer3"), ("vgg11", "features.10"), ("resnet18", "layer4"), ("small-tap", "features.4")],
)
def test_the_tail_gives_what_the_whole_network_gives(name, layer):
    network = build_gapnet(name, 5).eval() if name.endswith("-tap") else build(name)
    x = torch.randn(2, 3, 64, 64)
    evidence = observe(network, x, [LayerRef(layer)])
    assert tail(network, LayerRef(layer), x, evidence.activations, evidence.output) is not None
    changed, rows = evidence.activations.clone(), torch.tensor([0, 1])
    changed[:, ::2] = 0
    found = evidence.rescore_from(changed, rows)
    handle = network.get_submodule(layer).register_forward_hook(lambda m, a, out: changed)
    with torch.no_grad():
        wanted = network(x)
    handle.remove()
    assert torch.allclose(found, wanted, atol=1e-5)


def test_a_network_that_cannot_be_traced_runs_whole_with_the_same_result():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.score = nn.Conv2d(3, 5, 3), nn.Linear(5, 2)

        def forward(self, x):
            x = self.conv(x)
            if float(x.detach().abs().mean()) > 1e9:  # control flow on values: torch.fx cannot trace it
                x = x * 2
            return self.score(x.relu().mean((2, 3)))

    network, x = Branching().eval(), torch.randn(2, 3, 8, 8)
    evidence = observe(network, x, [LayerRef("conv")])
    assert tail(network, LayerRef("conv"), x, evidence.activations, evidence.output) is None
    changed = evidence.activations * 0.5
    wanted = network.score(changed.relu().mean((2, 3)))
    assert torch.allclose(evidence.rescore_from(changed), wanted, atol=1e-6)
    swapped = evidence.rescore_from(changed[[1, 0, 1]], torch.tensor([1, 0, 1]))
    assert torch.allclose(swapped, wanted[[1, 0, 1]], atol=1e-6)
