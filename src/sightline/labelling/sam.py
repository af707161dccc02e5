"""Regions by Segment Anything (Kirillov et al., ICCV 2023), asked with the box and the map's highest point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from sightline.errors import InputError, need
from sightline.explanation import Explanation
from sightline.labels import Label
from sightline.labels.rle import encode

Mask = NDArray[np.bool_]
# (photo, boxes_xyxy (B, 4), points_xy (B, 2), both in photo pixels) -> masks (B, H, W)
Refine = Callable[[PIL.Image.Image, NDArray[np.float32], NDArray[np.float32]], Mask]


def refined(
    explanation: Explanation, i: int, labels: Sequence[Label], refine: Refine, masks: bool
) -> list[Label]:
    """The labels of image i with their regions, and the boxes around them, by ``refine``; scores and doubt stay.

    A label for which it finds nothing stays as it was.
    """
    if not labels:
        return []
    photo = explanation.photo(i)
    boxes = np.array([label.box_xyxy for label in labels], dtype=np.float32)
    points = np.array([_peak(explanation, i, label) for label in labels], dtype=np.float32)
    found = np.asarray(refine(photo, boxes, points))
    expected = (len(labels), photo.height, photo.width)
    if found.shape != expected:
        raise InputError(f"the segmenter returned masks of shape {found.shape}; expected {expected}")
    return [_replaced(label, mask.astype(bool), masks) for label, mask in zip(labels, found, strict=True)]


def _peak(explanation: Explanation, i: int, label: Label) -> tuple[float, float]:
    """The highest point of the label's class map inside its box, in photo pixels; the centre if the box has none."""
    classes = explanation.classes[i].clamp(min=0).tolist()
    geometry = explanation.geometries[i]
    heatmap = explanation[i].heatmaps()[0, classes.index(label.class_index)]
    corners = geometry.to_input(torch.tensor(label.box_xyxy)).tolist()
    x0, y0 = (max(int(value), 0) for value in corners[:2])
    x1, y1 = (int(np.ceil(value)) for value in corners[2:])
    part = heatmap[y0:y1, x0:x1]
    row, column = divmod(int(part.argmax()), part.shape[1])
    point = torch.tensor([[x0 + column, y0 + row, x0 + column + 1, y0 + row + 1]], dtype=torch.float32)
    left, top, right, bottom = geometry.to_photo(point)[0].tolist()
    return (left + right) / 2, (top + bottom) / 2


def _replaced(label: Label, mask: Mask, keep: bool) -> Label:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return label
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return replace(label, box_xyxy=box, rle=encode(mask) if keep else None)


def sam_refiner(predictor: Any) -> Refine:
    """A `Refine` from any predictor with segment-anything's interface: ``set_image`` and ``predict``.

    ``set_image(array (H, W, 3) uint8)``; ``predict(point_coords=, point_labels=, box=, multimask_output=True)`` ->
    masks (3, H, W), scores (3,), logits. Of the three masks the one with the highest score is taken.
    """

    def refine(photo: PIL.Image.Image, boxes: NDArray[np.float32], points: NDArray[np.float32]) -> Mask:
        predictor.set_image(np.asarray(photo.convert("RGB")))
        found = []
        for box, point in zip(boxes, points, strict=True):
            masks, scores, _ = predictor.predict(
                point_coords=point[None], point_labels=np.array([1]), box=box, multimask_output=True
            )
            found.append(np.asarray(masks)[int(np.argmax(scores))].astype(bool))
        return np.stack(found)

    refine.name = type(predictor).__name__  # type: ignore[attr-defined]
    return refine


def hugging_face_sam(
    model: Any = "facebook/sam-vit-base", processor: Any = None, device: str = "cpu"
) -> Refine:
    """A `Refine` from a SAM of Hugging Face: its name, or a ``SamModel`` and its ``SamProcessor``; extra ``[hf]``."""
    transformers = need("transformers", "hf")
    name = model if isinstance(model, str) else type(model).__name__
    if isinstance(model, str):
        try:
            processor = transformers.SamProcessor.from_pretrained(model)
            model = transformers.SamModel.from_pretrained(model)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"the SAM {name!r} cannot be loaded: {reason}") from None
    model = model.to(device).eval()

    def refine(photo: PIL.Image.Image, boxes: NDArray[np.float32], points: NDArray[np.float32]) -> Mask:
        inputs = processor(
            images=photo.convert("RGB"),
            input_boxes=[boxes.tolist()],
            input_points=[[[point] for point in points.tolist()]],
            return_tensors="pt",
        )
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        inputs = {
            key: (value.float() if value.is_floating_point() else value).to(device)
            for key, value in inputs.items()
        }
        with torch.no_grad():
            found = model(**inputs, multimask_output=True)
        masks = processor.image_processor.post_process_masks(found.pred_masks.cpu(), *sizes)[0]
        best = found.iou_scores[0].argmax(-1).cpu()
        chosen: Mask = masks[torch.arange(len(best)), best].numpy().astype(bool)
        return chosen

    refine.name = name  # type: ignore[attr-defined]
    return refine
