"""An `Explanation` as a folder: a picture per image and class, and manifest.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.reports.manifest import describe_run
from sightline.reports.output_folder import OutputFolder
from sightline.types import BoxRule, Prediction

if TYPE_CHECKING:
    from sightline.explanation import Explanation

KIND = "explanation"  # the manifest's `kind`


def _name(i: int, prediction: Prediction) -> str:
    """The file of one picture."""
    return f"{i:06d}_{prediction.class_index if prediction.class_index >= 0 else 'target'}.png"


def save(
    explanation: Explanation, folder: str | os.PathLike[str], rule: BoxRule, colormap: str = "turbo"
) -> Path:
    """Write the overlays and the manifest into ``folder``; see `Explanation.save`."""
    rows, predictions = [], explanation.predictions(rule)
    with OutputFolder(folder, KIND) as out:
        out.begin(describe_run(), [_name(i, p) for i, row in enumerate(predictions) for p in row])
        for i, row in enumerate(predictions):
            for k, p in enumerate(row):
                name = _name(i, p)
                out.write_picture(name, explanation.overlay(i, k, colormap, rule=rule))
                rows.append(
                    {
                        "image": i,
                        "class": p.class_index,
                        "category": p.category,
                        "score": None if p.score != p.score else p.score,
                        "boxes_xyxy": p.boxes_xyxy.tolist(),
                        "file": name,
                    }
                )
        manifest = describe_run(
            method=explanation.method,
            options={**explanation.options, **rule.as_dict(), "colormap": colormap},
            model=explanation.model_name,
            weights_sha256=explanation.weights_sha256,
            view=explanation.view,
            layers=explanation.layers,
            scores=None if explanation.score_rule is None else explanation.score_rule.name,
            results=rows,
        )
        out.finish(manifest)
    return out.path
