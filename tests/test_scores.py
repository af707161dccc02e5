"""Logits to probabilities: which rule, found how, and its values worked by hand."""

import json
import math

import pytest
import torch
from torch import nn

import sightline
from sightline.errors import InputError
from sightline.metrics.faithfulness import class_probability
from sightline.scores import ScoreRule, end_of, rule_for


class Sums(nn.Module):
    """Outputs worked by hand: the sums of the image's first channel times ``weights``, plus ``bias``, then ``end``."""

    def __init__(self, weights, bias, end=None):
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.conv.weight.data = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        self.fc = nn.Linear(1, len(weights))
        self.fc.weight.data, self.fc.bias.data = torch.tensor(weights)[:, None], torch.tensor(bias)
        self.end = end or nn.Identity()

    def forward(self, x):
        return self.end(self.fc(self.pool(self.relu(self.conv(x))).flatten(1)))


class WithoutGradient(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    @torch.no_grad()
    def forward(self, x):
        return self.network(x)


class Half(nn.Module):
    """The mean of two softmaxes, as an ensemble gives it: probabilities that no single operation shows."""

    def forward(self, x):
        return (x.softmax(1) + (2 * x).softmax(1)) / 2


ONES = torch.ones(2, 3, 4, 4)


def logit(p):
    return math.log(p / (1 - p))


# ------------------------------------------------------------------------------------------------- which rule


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ([[2.0, -1.0, 0.5]], "softmax"),
        ([[-4.95]], "sigmoid"),
        ([[0.3]], "sigmoid"),  # one value in [0, 1] may be a logit as well
        ([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]], "none"),
        ([[0.7, 0.2, 0.1], [0.0, 0.9, 0.0]], "softmax"),  # every row must sum to 1
        ([[0.7, 0.2, 0.10005], [0.0, 1.0, 0.0]], "none"),  # within 1e-4
        ([[0.7, 0.2, 0.1002], [0.0, 1.0, 0.0]], "softmax"),
        ([[0.7, 0.2, 0.100005]], "none"),  # a single row: within 1e-5
        ([[0.7, 0.2, 0.10005]], "softmax"),
        ([[1.5, -0.5], [0.5, 0.5]], "softmax"),  # sums to 1, and is outside [0, 1]
        ([[1.0], [1.0]], "sigmoid"),
    ],
)
def test_the_rule_by_the_rows_of_a_pass(rows, name):
    assert rule_for(torch.tensor(rows)).name == name


def test_no_row_says_nothing():
    assert rule_for(torch.zeros(0, 3)).name == "softmax"
    assert rule_for(torch.zeros(0, 1)).name == "sigmoid"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_in_half_precision_are_recognised(dtype):
    rows = torch.randn(8, 10, generator=torch.Generator().manual_seed(0)).softmax(1).to(dtype)
    assert rule_for(rows).name == "none"


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (lambda x: x.softmax(1), "softmax"),
        (lambda x: x.softmax(1)[:, :].clone().view(2, 2), "softmax"),
        (lambda x: x.sigmoid(), "sigmoid"),
        (lambda x: x, "logits"),
        (lambda x: x.log_softmax(1), "logits"),
        (lambda x: (x.softmax(1) + x.softmax(1)) / 2, None),
    ],
)
def test_the_last_operation_is_read_from_the_graph(end, expected):
    assert end_of(end(nn.Linear(3, 2)(torch.ones(2, 3)))) == expected


def test_a_linear_layer_whose_rows_happen_to_sum_to_one_gives_logits():
    net = Sums([0.0, 0.0], [0.4, 0.6])
    for method in ("gradcam", "rise"):  # with a graph, and without one: the network is looked at once more
        options = {"masks": 4} if method == "rise" else {}
        found = sightline.explain(net, ONES, method=method, classes=1, **options)
        assert found.score_rule == ScoreRule("softmax")
        assert found.scores[0, 0].item() == pytest.approx(1 / (1 + math.exp(-0.2)))


def test_a_network_that_ends_in_softmax_is_not_softmaxed_again():
    net = Sums([1.0, 2.0], [0.0, 0.0], nn.Softmax(1))
    for method, options in (("gradcam", {}), ("rise", {"masks": 4})):
        found = sightline.explain(net, ONES, method=method, classes=1, **options)
        assert found.score_rule.name == "none"
        assert found.scores[0, 0].item() == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_network_that_ends_in_sigmoid_is_not_squashed_again():
    net = Sums([0.0], [logit(0.007)], nn.Sigmoid())
    for method, options in (("gradcam", {}), ("rise", {"masks": 4})):
        found = sightline.explain(net, ONES, method=method, classes=0, **options)
        assert found.score_rule.name == "none"
        assert found.scores[0, 0].item() == pytest.approx(0.007)


def test_an_ensemble_of_probabilities_is_found_by_its_rows():
    found = sightline.explain(Sums([1.0, 2.0], [0.0, 0.0], Half()), ONES, classes=1)
    sigma = [1 / (1 + math.exp(-z)) for z in (1, 2)]
    assert found.score_rule == ScoreRule("none", "sum to 1")
    assert found.scores[0, 0].item() == pytest.approx(sum(sigma) / 2)


def test_without_a_graph_the_rows_decide_and_each_pass_decides_for_itself():
    probabilities = WithoutGradient(Sums([1.0, 2.0], [0.0, 0.0], nn.Softmax(1)))
    assert sightline.explain(probabilities, ONES, method="rise", masks=4).score_rule.name == "none"
    relu = WithoutGradient(Sums([1.0, 0.0], [-0.6, 0.6], nn.ReLU()))  # (0.4, 0.6) at 1, (1.4, 0.6) at 2
    assert sightline.explain(relu, ONES, method="eigencam").score_rule.name == "none"
    assert sightline.explain(relu, 2 * ONES, method="eigencam").score_rule.name == "softmax"


def test_a_rule_that_was_found_is_not_used_on_other_values():
    relu = WithoutGradient(Sums([1.0, 0.0], [-0.6, 0.6], nn.ReLU()))
    score = class_probability(relu, torch.tensor([0, 0]))
    rows = torch.tensor([0, 1])
    assert score(ONES, rows).tolist() == pytest.approx([0.4, 0.4])
    with pytest.raises(InputError, match="sum to 1 in one pass and not in another"):
        score(2 * ONES, rows)
    with pytest.raises(InputError, match="scores='softmax'"):
        sightline.explain(relu, ONES, method="rise", masks=4, p=0.3)


def test_what_was_given_holds_for_any_values():
    relu = sightline.load_model(WithoutGradient(Sums([1.0, 0.0], [-0.6, 0.6], nn.ReLU())), scores="none")
    found = sightline.explain(relu, 2 * ONES, method="eigencam", classes=0)
    assert found.scores.tolist() == [[pytest.approx(1.4)]] * 2
    assert sightline.explain(relu, ONES, method="rise", masks=4, p=0.3).maps.isfinite().all()


# ------------------------------------------------------------------------------------------- values by hand


def test_one_logit_is_reported_by_its_sigmoid():
    found = sightline.explain(Sums([0.0], [logit(0.007)]), ONES)
    assert found.classes.tolist() == [[0], [0]]
    assert found.scores.tolist() == [[pytest.approx(0.007)]] * 2
    assert found.predictions()[0][0].score == pytest.approx(0.007)
    assert found.score_rule.text(found.scores[0, 0].item()) == "0.7 %"


def test_independent_labels_keep_their_probabilities():
    net = Sums([0.0, 0.0], [logit(0.95), logit(0.95)])
    model = sightline.load_model(net, scores="sigmoid")
    assert sightline.explain(model, ONES[:1], classes=[0, 1]).scores.tolist() == [[pytest.approx(0.95)] * 2]
    assert sightline.explain(net, ONES[:1], classes=[0, 1]).scores.tolist() == [[pytest.approx(0.5)] * 2]


def test_a_regression_is_reported_as_it_is(tmp_path):
    model = sightline.load_model(Sums([37.2], [0.0]), scores="none")
    found = sightline.explain(model, ONES[:1])
    assert found.scores.item() == pytest.approx(37.2)
    assert found.score_rule.text(found.scores.item()) == "37.2"
    manifest = json.loads((found.save(tmp_path) / "manifest.json").read_text())
    assert manifest["scores"] == "none"
    assert manifest["results"][0]["score"] == pytest.approx(37.2)


def test_faithfulness_scores_go_by_the_models_rule():
    net = Sums([1.0], [0.0])
    rows, classes = torch.tensor([0, 1]), torch.tensor([0, 0])
    assert class_probability(net, classes)(ONES, rows).tolist() == pytest.approx([1 / (1 + math.exp(-1))] * 2)
    as_is = sightline.load_model(net, scores="none")
    assert class_probability(as_is, classes)(3 * ONES, rows).tolist() == pytest.approx([3.0, 3.0])


def test_rise_on_one_output_depends_on_the_image():
    net = Sums([8.0], [-1.0])
    left, right = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    left[..., :4], right[..., 4:] = 1, 1
    maps = sightline.explain(net, torch.cat([left, right]), method="rise", masks=300, classes=0).maps[:, 0]
    apart = maps[0] - maps[1]  # the same masks: what they cover by chance cancels
    assert apart[:, :3].mean() > apart[:, 5:].mean() + 0.02


def test_the_rise_of_one_output_is_the_definitions_sum():
    net, x = Sums([2.0], [-1.0]), torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    from sightline.methods.rise import make_masks

    masks = make_masks(5, 8, 0.5, (8, 8), torch.Generator().manual_seed(0))
    expected = sum(m[0] / (1 + math.exp(1 - 2 * (x[0, 0] * m[0]).mean().item())) for m in masks) / (5 * 0.5)
    found = sightline.explain(net, x, method="rise", masks=5).maps[0, 0]
    assert torch.allclose(found, expected, atol=1e-6)


# ------------------------------------------------------------------------------------- what can be got wrong


def test_another_class_of_one_output_is_refused_with_what_to_write_instead():
    net = Sums([2.0], [0.0])
    with pytest.raises(InputError, match=r"one output, class 0.*target=lambda output: -output") as caught:
        sightline.explain(net, ONES, classes=1)
    assert "\n" not in str(caught.value)
    found = sightline.explain(net, ONES, target=lambda output: -output[:, 0])
    assert found.scores is None


def test_a_wrong_rule_is_refused():
    with pytest.raises(InputError, match="unknown scores 'sofmax'; did you mean 'softmax'"):
        sightline.load_model(Sums([1.0], [0.0]), scores="sofmax")
    with pytest.raises(InputError, match="unknown score rule 'auto'"):
        ScoreRule("auto")
    model = sightline.load_model(Sums([2.0], [0.0]), scores="softmax")
    with pytest.raises(InputError, match="the softmax of one output is always 1"):
        sightline.explain(model, ONES).scores  # noqa: B018


def test_a_loaded_model_is_not_changed_by_another_rule():
    model = sightline.load_model(Sums([1.0, 2.0], [0.0, 0.0]), categories=["a", "b"])
    other = sightline.load_model(model, scores="sigmoid")
    assert (model.scores, other.scores) == ("auto", "sigmoid")
    assert other.categories == ("a", "b")
    assert sightline.load_model(other).scores == "sigmoid"
    assert sightline.load_model(other, categories=["c", "d"]).scores == "sigmoid"


def test_a_checkpoint_says_its_rule(tmp_path):
    from sightline.training.checkpoint import save_checkpoint

    net = sightline.load_model("resnet18", weights="none", categories=["a", "b"]).network
    described = {"architecture": "resnet18", "categories": ["a", "b"], "scores": "sigmoid"}
    save_checkpoint(tmp_path / "a.safetensors", net, described)
    assert sightline.load_model(tmp_path / "a.safetensors").scores == "sigmoid"
    assert sightline.load_model(tmp_path / "a.safetensors", scores="softmax").scores == "softmax"
    save_checkpoint(tmp_path / "b.safetensors", net, {**described, "scores": "sofmax"})
    with pytest.raises(InputError, match="unknown scores 'sofmax'"):
        sightline.load_model(tmp_path / "b.safetensors")
