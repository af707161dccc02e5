"""The ILSVRC errors: worked by hand, against two loops, the identity with GT-known, merged."""

from __future__ import annotations

import pytest
import torch

from sightline.boxes import iou
from sightline.errors import InputError
from sightline.metrics.ilsvrc import ILSVRC, boxes_correct

GOOD, BAD = [0.0, 0, 10, 10], [20.0, 20, 30, 30]
TRUE = torch.tensor([[0.0, 0, 10, 9], [50, 50, 60, 60]])


def test_by_hand():
    classes = torch.tensor([[3, 4], [4, 3], [3, 4], [5, 6]])
    boxes = torch.tensor([[GOOD, BAD], [GOOD, GOOD], [BAD, GOOD], [GOOD, GOOD]])
    score = ILSVRC(keep=True)
    score.update(classes, boxes, torch.tensor([3, 3, 3, 3]), [TRUE] * 4, known_boxes=boxes[:, 1])
    assert score.compute() == {
        "top1_loc_error": 0.75,  # the first only
        "top5_loc_error": 0.5,  # and the second, by its second guess
        "top1_cls_error": 0.5,  # images 0 and 2
        "top5_cls_error": 0.25,
        "gt_known_loc": 0.75,
    }
    assert score.per_image("top1_loc").tolist() == [True, False, False, False]


def test_exactly_half_is_right_and_any_true_box_will_do():
    half = torch.tensor([[[0.0, 0, 10, 4.5], [50, 50, 60, 60], [0, 0, 10, 4]]])
    assert boxes_correct(half, [TRUE]).tolist() == [[True, True, False]]


def random_images(seed, images=300, guesses=5, classes=8):
    generator = torch.Generator().manual_seed(seed)

    def some_boxes(*shape):
        corner = torch.randint(0, 20, (*shape, 2), generator=generator)
        size = torch.randint(10, 40, (*shape, 2), generator=generator)
        return torch.cat([corner, corner + size], -1).double()

    ranked = torch.stack([torch.randperm(classes, generator=generator)[:guesses] for _ in range(images)])
    labels = torch.randint(0, classes, (images,), generator=generator)
    box_of_class = some_boxes(images, classes)
    true = [some_boxes(1 + i % 3) for i in range(images)]
    return ranked, labels, box_of_class, true


def test_against_two_loops():
    ranked, labels, box_of_class, true = random_images(0)
    boxes = box_of_class.gather(1, ranked[..., None].expand(-1, -1, 4))
    score = ILSVRC()
    score.update(ranked, boxes, labels, true)
    for k in (1, 5):
        error = 0.0
        for i in range(len(labels)):
            error += min(
                float(
                    ranked[i, j] != labels[i]
                    or all(float(v) < 0.5 for v in iou(boxes[i, j : j + 1], true[i])[0])
                )
                for j in range(k)
            )
        assert score.compute()[f"top{k}_loc_error"] == pytest.approx(error / len(labels))


def test_topk_loc_is_class_in_topk_times_gt_known():
    ranked, labels, box_of_class, true = random_images(1)
    boxes = box_of_class.gather(1, ranked[..., None].expand(-1, -1, 4))
    known = box_of_class[torch.arange(len(labels)), labels]
    score = ILSVRC()
    score.update(ranked, boxes, labels, true, known_boxes=known)
    gt_known = boxes_correct(known[:, None], true)[:, 0]
    for k in (1, 5):
        named = (ranked[:, :k] == labels[:, None]).any(1)
        assert 0 < (named & gt_known).sum() < named.sum()
        loc = (named & gt_known).double().mean()
        assert 1 - score.compute()[f"top{k}_loc_error"] == pytest.approx(float(loc))


def test_a_class_guessed_twice_and_ranked_classes():
    """Five guesses of two boxes a class: the classification error is of the ranked classes."""
    guesses = torch.tensor([[1, 1, 2, 2, 3]])
    boxes = torch.tensor([[BAD, GOOD, BAD, BAD, BAD]])
    score = ILSVRC()
    score.update(guesses, boxes, torch.tensor([1]), [TRUE], ranked_classes=torch.tensor([[9, 2, 3, 4, 1]]))
    assert score.compute() == {
        "top1_loc_error": 1,
        "top5_loc_error": 0,
        "top1_cls_error": 1,
        "top5_cls_error": 0,
    }


def test_parts_add_up_to_the_whole():
    ranked, labels, box_of_class, true = random_images(2)
    boxes = box_of_class.gather(1, ranked[..., None].expand(-1, -1, 4))
    whole, first, second = (ILSVRC(keep=True) for _ in range(3))
    whole.update(ranked, boxes, labels, true)
    first.update(ranked[:20], boxes[:20], labels[:20], true[:20])
    second.update(ranked[20:], boxes[20:], labels[20:], true[20:])
    total = ILSVRC(keep=True) + first + second
    assert total.compute() == whole.compute()
    assert torch.equal(total.per_image("top5_loc"), whole.per_image("top5_loc"))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ILSVRC().compute(), "no image has been scored"),
        (lambda: ILSVRC().per_image("top1_loc"), "keep=True"),
        (lambda: boxes_correct(torch.zeros(1, 4), [TRUE]), "expected (N, J, 4)"),
        (lambda: boxes_correct(torch.zeros(1, 1, 4), [TRUE[:0]]), "no true box"),
        (
            lambda: ILSVRC().update(torch.zeros(1, 2), torch.zeros(1, 3, 4), torch.zeros(1), [TRUE]),
            "are inconsistent",
        ),
        (lambda: ILSVRC(keep=True) + ILSVRC(), "counted differently"),
    ],
)
def test_errors_say_what_was_expected(call, says):
    with pytest.raises(InputError) as caught:
        call()
    assert says in str(caught.value)


def test_gt_known_for_every_batch_or_for_none():
    score = ILSVRC()
    batch = (torch.tensor([[3]]), torch.tensor([[GOOD]]), torch.tensor([3]), [TRUE])
    score.update(*batch)
    with pytest.raises(InputError, match="every batch or for none"):
        score.update(*batch, known_boxes=torch.tensor([GOOD]))
