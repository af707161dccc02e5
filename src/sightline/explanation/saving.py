"""An `Explanation` as a folder: a picture per image and class, and manifest.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.reports.manifest import describe_run
from sightline.reports.output_folder import OutputFolder
from sightline.types import BoxRule

if TYPE_CHECKING:
    from sightline.explanation import Explanation

KIND = "explanation"  # the manifest's `kind`


def save(
    explanation: Explanation, folder: str | os.PathLike[str], rule: BoxRule, colormap: str = "turbo"
) -> Path:
    """Write the overlays and the manifest into ``folder``; see `Explanation.save`."""
    rows = []
    with OutputFolder(folder, KIND) as out:
        for i, row in enumerate(explanation.predictions(rule)):
            for k, p in enumerate(row):
                name = f"{i:06d}_{p.class_index if p.class_index >= 0 else 'target'}.png"
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
