"""Masking, deletion and insertion against loops over pixels; sanity checks against what must happen."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

import sightline
from sightline.errors import InputError
from sightline.metrics.faithfulness import (
    centre_maps,
    class_probability,
    deletion,
    drop_and_increase,
    insertion,
    random_maps,
    ranks,
)
from sightline.metrics.pointing import box_mask, energy_in_mask, pointing_game, relevance_rank_accuracy
from sightline.metrics.sanity import max_sensitivity, randomised_cascade, spearman


def network(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    return net.double()


def images(n=2, side=8, seed=1):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_probability(net, image, c):
    with torch.no_grad():
        scores = [float(s) for s in net(image[None])[0]]
    top = max(scores)
    return math.exp(scores[c] - top) / sum(math.exp(s - top) for s in scores)


def test_class_probability_takes_each_row_s_class_whatever_the_chunk():
    net, x = network(), images(5)
    classes = torch.tensor([2, 0])
    rows = torch.tensor([0, 1, 1, 0, 1])
    wanted = [slow_probability(net, x[m], int(classes[rows[m]])) for m in range(5)]
    for chunk in (1, 2, 32):
        found = class_probability(net, classes, chunk)(x, rows)
        assert found.tolist() == pytest.approx(wanted, abs=1e-6)


def test_drop_and_increase_against_a_loop():
    net, x = network(), images()
    maps = torch.rand(2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = drop_and_increase(class_probability(net, torch.tensor([1, 2])), x, maps)
    for i, c in enumerate((1, 2)):
        y, o = slow_probability(net, x[i], c), slow_probability(net, x[i] * maps[i], c)
        assert float(found.drop[i]) == pytest.approx(max(0, y - o) / y, abs=1e-6)
        assert float(found.increase[i]) == (1.0 if o > y else 0.0)


@pytest.mark.parametrize("which", ["deletion", "insertion"])
def test_deletion_and_insertion_against_a_loop_over_pixels(which):
    net, x = network(), images(1)
    heat = torch.rand(1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    score = class_probability(net, torch.tensor([0]))
    found = (deletion if which == "deletion" else insertion)(score, x, heat, steps=4)
    if which == "deletion":
        current, end = x[0].clone(), torch.zeros_like(x[0])
    else:
        current, end = slow_blur(x[0]), x[0]
    order = sorted(range(64), key=lambda i: -float(heat.flatten()[i]))
    wanted = [slow_probability(net, current, 0)]
    for step in range(4):
        for place in order[step * 16 : step * 16 + 16]:
            current[:, place // 8, place % 8] = end[:, place // 8, place % 8]
        wanted.append(slow_probability(net, current, 0))
    assert found.scores[0].tolist() == pytest.approx(wanted, abs=1e-6)
    area = sum((a + b) / 2 * 0.25 for a, b in itertools.pairwise(wanted))
    assert float(found.auc[0]) == pytest.approx(area, abs=1e-6)


def slow_blur(image, half=5):
    """By the kernel of the paper's code: SciPy's Gaussian filter of a single pixel in an 11×11 window."""
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel = gaussian_filter(delta, 5.0)
    assert kernel[5, 5] == pytest.approx(0.00883, abs=5e-6)
    assert kernel[0, 0] == pytest.approx(0.00774, abs=5e-6)
    out = torch.zeros_like(image)
    for y in range(8):
        for x in range(8):
            for dy in range(-half, half + 1):
                for dx in range(-half, half + 1):
                    if 0 <= y + dy < 8 and 0 <= x + dx < 8:
                        w = float(kernel[dy + half, dx + half])
                        out[:, y, x] += w * image[:, y + dy, x + dx]
    return out


def test_ties_are_ranked_by_position():
    assert ranks(torch.zeros(1, 2, 2)).tolist() == [[0, 1, 2, 3]]


def test_wrong_size_nan_and_steps_are_named():
    net, x = network(), images(1)
    score = class_probability(net, torch.tensor([0]))
    with pytest.raises(InputError, match=r"\(1, 4, 4\); expected .*\(1, 8, 8\)"):
        deletion(score, x, torch.zeros(1, 4, 4))
    with pytest.raises(InputError, match="NaN"):
        deletion(score, x, torch.full((1, 8, 8), float("nan")))
    with pytest.raises(InputError, match="steps=65; expected 1 to 64"):
        deletion(score, x, torch.zeros(1, 8, 8), steps=65)


def test_baselines():
    assert torch.equal(random_maps(3, (4, 4), 5), random_maps(3, (4, 4), 5))
    maps = centre_maps(2, (4, 6))
    assert maps.shape == (2, 4, 6)
    assert torch.allclose(maps, maps.flip(1, 2))
    assert maps[0, 1, 2] > maps[0, 0, 0]


def test_pointing_energy_and_rank_by_hand():
    heat = torch.tensor([[[0.0, 4.0, 1.0], [3.0, 0.0, 2.0]]])
    mask = box_mask(torch.tensor([[0.0, 0.0, 1.0, 2.0]]), (2, 3))[None]  # the left column: values 0 and 3
    assert pointing_game(heat, mask).tolist() == [0.0]
    assert pointing_game(heat, mask, tolerance=1).tolist() == [
        1.0
    ]  # the column is one pixel from the maximum
    assert energy_in_mask(heat, mask).tolist() == pytest.approx([3 / 10])
    assert relevance_rank_accuracy(heat, mask).tolist() == [0.5]  # top two are 4 and 3, one of them inside
    assert relevance_rank_accuracy(torch.ones(1, 2, 3), mask).tolist() == pytest.approx([2 / 6])
    nothing = torch.zeros(1, 2, 3)
    assert pointing_game(nothing, mask).tolist() == [0.0]
    assert energy_in_mask(nothing, mask).tolist() == [0.0]


def test_pointing_refuses_other_sizes_and_empty_masks():
    with pytest.raises(InputError, match="expected \\(N, H, W\\) for both"):
        pointing_game(torch.zeros(1, 2, 2), torch.zeros(1, 3, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="a mask is empty"):
        relevance_rank_accuracy(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool))


def test_spearman_against_scipy_with_ties():
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 5, (4, 6, 6), generator=generator).double()
    b = torch.rand(4, 6, 6, generator=generator, dtype=torch.float64)
    wanted = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    assert spearman(a, b).tolist() == pytest.approx(wanted, abs=1e-12)
    assert spearman(torch.zeros(1, 2, 2), torch.rand(1, 2, 2)).tolist() == [0.0]


def test_max_sensitivity_of_a_linear_map_is_the_largest_change():
    x = torch.ones(1, 3, 2, 2)
    found = max_sensitivity(lambda batch: batch.mean(1), x, radius=0.1, samples=20, seed=1)
    generator = torch.Generator().manual_seed(1)
    deltas = [(torch.rand(3, 2, 2, generator=generator) * 2 - 1) * 0.1 for _ in range(20)]
    assert float(found) == pytest.approx(max(float(d.mean(0).norm()) for d in deltas) / 2, rel=1e-5)


@pytest.mark.parametrize("options", [{"samples": 0}, {"radius": 0.0}, {"radius": -0.1}])
def test_sensitivity_needs_a_sample_and_a_radius(options):
    with pytest.raises(InputError, match="expected at least 1 sample and a radius above 0"):
        max_sensitivity(lambda batch: batch.mean(1), torch.ones(1, 3, 2, 2), **options)


def test_the_cascade_randomises_from_the_output_and_leaves_the_network_alone():
    net = network().float()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    names, changed = [], []
    for name, other in randomised_cascade(net):
        names.append(name)
        changed.append([k for k, v in other.state_dict().items() if not torch.equal(v, before[k])])
    assert names == ["", "4", "0"]
    assert changed == [[], ["4.weight", "4.bias"], ["0.weight", "0.bias", "4.weight", "4.bias"]]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_gradcam_depends_on_the_weights():
    net, x = network().float(), images(2).float()
    clean = sightline.explain(net, x, method="gradcam", classes=0).maps[:, 0]
    for name, other in randomised_cascade(net, seed=3):
        found = sightline.explain(other, x, method="gradcam", classes=0).maps[:, 0]
        if name == "":
            assert torch.equal(found, clean)
    assert not torch.allclose(found, clean)
