"""The protocols again, slowly: a loop over thresholds, OpenCV's contours, a loop over boxes."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

TAUS = list(np.arange(0, 1, 0.001))


def scoremap(raw, side=224):
    resized = cv2.resize(raw.astype(np.float64), (side, side), interpolation=cv2.INTER_CUBIC)
    if np.isnan(resized).any() or resized.min() == resized.max():
        return np.zeros((side, side))
    resized = resized - resized.min()
    return resized / resized.max()


def true_boxes(boxes, photo_hw, side=224):
    """Half-open photo pixels -> inclusive, scaled, truncated."""
    height, width = photo_hw
    return [
        (
            int(float(x0) * side / width),
            int(float(y0) * side / height),
            int(float(x1 - 1) * side / width),
            int(float(y1 - 1) * side / height),
        )
        for x0, y0, x1, y1 in boxes
    ]


def inclusive_iou(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return width * height / (area_a + area_b - width * height)


def half_open_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def contours_at(level, threshold):
    _, mask = cv2.threshold(level, threshold, 255, cv2.THRESH_BINARY)
    return cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]


def box_of(contour, shape):
    x, y, w, h = cv2.boundingRect(contour)
    return x, y, min(x + w, shape[1] - 1), min(y + h, shape[0] - 1)


def boxes_at(level, threshold):
    """V1's one box and V2's list of boxes of an 8-bit map at an integer threshold."""
    contours = contours_at(level, threshold)
    if len(contours) == 0:
        return (0, 0, 0, 0), [(0, 0, 0, 0)]
    largest = max(contours, key=cv2.contourArea)
    return box_of(largest, level.shape), [box_of(c, level.shape) for c in contours]


def contour_ious(level, boxes, taus=TAUS):
    """The best IoU of V1 and of V2 at each τ, one τ after the other."""
    v1, v2 = [], []
    for tau in taus:
        one, every = boxes_at(level, int(tau * np.max(level)))
        v1.append(max(inclusive_iou(one, true) for true in boxes))
        v2.append(max(inclusive_iou(box, true) for box in every for true in boxes))
    return np.array(v1), np.array(v2)


def contour_ious_by_mask(level, boxes):
    """The same for every mask {u > m} in turn, m = 0 … max u - 1: all that any τ can ask for."""
    v1, v2 = [], []
    for threshold in range(max(1, int(level.max()))):
        one, every = boxes_at(level, threshold)
        v1.append(max(inclusive_iou(one, true) for true in boxes))
        v2.append(max(inclusive_iou(box, true) for box in every for true in boxes))
    return np.array(v1), np.array(v2)


def exact_boxes(heatmap, cut):
    """Boxes (half-open) of the components of heatmap ≥ cut, largest first, of equals in reading order."""
    labels, _ = ndimage.label((heatmap >= cut) & (heatmap > 0), np.ones((3, 3)))
    found = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
    areas = np.bincount(labels.ravel())[1:]
    return [found[i] for i in sorted(range(len(found)), key=lambda i: -areas[i])]


def exact_ious(heatmap, boxes, scale_xy, taus=TAUS):
    """The IoU of the largest component, and of the best one, at each τ; ``scale_xy`` brings it to the photo."""
    largest, best = [], []
    for tau in taus:
        found = exact_boxes(heatmap, heatmap.max() * heatmap.dtype.type(tau))
        sx, sy = scale_xy
        ious = [
            max(half_open_iou((x0 * sx, y0 * sy, x1 * sx, y1 * sy), true) for true in boxes)
            for x0, y0, x1, y1 in found
        ]
        largest.append(ious[0] if ious else 0.0)
        best.append(max(ious, default=0.0))
    return np.array(largest), np.array(best)


def pxap(scoremaps, masks):
    """Precision and recall at every edge, counted pixel by pixel from the definition."""
    scores = np.concatenate([s[m != 255] for s, m in zip(scoremaps, masks, strict=True)])
    truth = np.concatenate([m[m != 255] for m in masks]) == 1
    area, last_recall = 0.0, None
    for edge in [2.0, 1.0, *reversed(TAUS)]:
        chosen = scores >= edge
        true_positive = int((chosen & truth).sum())
        recall = true_positive / int(truth.sum())
        if last_recall is not None and chosen.any():
            area += true_positive / int(chosen.sum()) * (recall - last_recall)
        last_recall = recall
    return area
