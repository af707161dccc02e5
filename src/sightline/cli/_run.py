"""Photos in, panels and manifest.json out: what ``explain`` and ``demo`` share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli._settings import Settings, caption_of
from sightline.errors import ImageError, InputError

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor

    from sightline.explanation import Explanation
    from sightline.models.loading import LoadedModel
    from sightline.pictures.panel import Cell
    from sightline.targets import Classes
    from sightline.types import Geometry, Prediction


@dataclass(frozen=True)
class Photo:
    """A photo to explain: the name that the user knows it by, where it is, and what its panel is called."""

    name: str
    source: Path | PIL.Image.Image
    stem: str


def photos_of(paths: Sequence[Path]) -> list[Photo]:
    """One photo a path; two files of one stem get panels of two names.

    >>> [p.stem for p in photos_of([Path("a/cat.jpg"), Path("b/cat.png"), Path("dog.jpg")])]
    ['cat', 'cat-2', 'dog']
    """
    used: set[str] = set()
    photos = []
    for path in paths:
        stem, number = path.stem, 1
        while stem.lower() in used:
            number += 1
            stem = f"{path.stem}-{number}"
        used.add(stem.lower())
        photos.append(Photo(str(path), path, stem))
    return photos


def prepare_folder(out: Path) -> None:
    """Make the output folder, and find out now, not after the work, whether it can be written to."""
    from sightline.reports.manifest import write_atomically

    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".sightline"
        write_atomically(probe, lambda file: file.write(b""))
        probe.unlink()
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--out {out} is a file, or lies below one; expected a folder") from None
    except OSError as error:
        raise InputError(f"--out {out} cannot be written to: {error.strerror}") from None


def run(
    model: LoadedModel, photos: Sequence[Photo], settings: Settings, out: Path, *, quiet: bool = False
) -> dict[str, Any]:
    """Explain every photo; write a panel each and, at the end or when interrupted, manifest.json.

    Returns the manifest. A photo that cannot be read is listed in its ``errors``; the others are done.
    """
    from sightline.cli._print import progress

    manifest = _describe(model, settings)
    try:
        with progress("explaining", len(photos), quiet) as advance:
            for batch in _batches(photos, settings.batch_size):
                readable = list(_read(batch, manifest["errors"]))
                if readable:
                    for entry in _explain(model, readable, settings, out, manifest["methods"]):
                        manifest["images"].append(entry)  # one by one: an interrupt keeps the finished ones
                advance(len(batch))
        manifest["complete"] = True
    finally:
        if manifest["images"] or manifest["errors"]:
            _save_manifest(manifest, out)
    return manifest


def _describe(model: LoadedModel, settings: Settings) -> dict[str, Any]:
    from sightline.reports.manifest import describe_run

    device = next((str(p.device) for p in model.parameters()), "cpu")
    return describe_run(
        model={**model.describe(), "device": device, "scores": model.scores},
        options=settings.as_dict(),
        methods={},
        complete=False,
        images=[],
        errors=[],
    )


def _save_manifest(manifest: dict[str, Any], out: Path) -> None:
    from sightline.reports.manifest import write_atomically

    write_atomically(out / "manifest.json", lambda file: file.write((as_json(manifest) + "\n").encode()))


def as_json(manifest: dict[str, Any]) -> str:
    """Strict JSON: no NaN, tensors as lists, everything else that is not JSON as text."""
    import json

    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else str(value)

    return json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False, default=plain)


def _batches(photos: Sequence[Photo], size: int) -> Iterator[list[Photo]]:
    remaining = iter(photos)
    while batch := list(islice(remaining, size)):
        yield batch


def _read(batch: Sequence[Photo], errors: list[dict[str, str]]) -> Iterator[tuple[Photo, PIL.Image.Image]]:
    from sightline.data.images import read_image

    for photo in batch:
        try:
            yield photo, read_image(photo.source)
        except ImageError as error:
            errors.append({"path": photo.name, "error": str(error)})


@dataclass(frozen=True)
class _Seen:
    """What one method found in the photos of a batch: heatmaps (N, K, H, W) on the CPU, N × K predictions."""

    method: str
    heatmaps: Tensor
    signed: Tensor | None
    predictions: list[list[Prediction]]
    probable: bool  # whether the scores are probabilities

    @classmethod
    def of(cls, explanation: Explanation, settings: Settings) -> _Seen:
        rule = settings.rule
        heatmaps = explanation.heatmaps(normalise=rule.normalise, percentile=rule.percentile)
        signed = None if explanation.signed is None else explanation.signed.cpu()
        scores = explanation.score_rule
        probable = scores is None or scores.gives_probabilities
        return cls(explanation.method, heatmaps.cpu(), signed, explanation.predictions(rule), probable)

    def cells(self, i: int) -> list[Cell]:
        from sightline.pictures.panel import Cell

        return [
            Cell(
                self.heatmaps[i, k],
                p.category,
                p.score,
                p.boxes_xyxy,
                self._signed(i, k),
                share=self.probable,
            )
            for k, p in enumerate(self.predictions[i])
        ]

    def _signed(self, i: int, k: int) -> Tensor | None:
        return None if self.signed is None else self.signed[i, k]

    def results(self, i: int) -> list[dict[str, Any]]:
        return [
            {
                "method": self.method,
                "class_index": p.class_index,
                "category": p.category,
                "score": round(p.score, 6),
                "boxes_xyxy": [[round(x, 2) for x in box] for box in p.boxes_xyxy.tolist()],
            }
            for p in self.predictions[i]
        ]


def _explain(
    model: LoadedModel,
    batch: Sequence[tuple[Photo, PIL.Image.Image]],
    settings: Settings,
    out: Path,
    used: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    """Every method for the classes of one batch; the classes are chosen once, from the first method's logits."""
    from sightline import explain

    images, seen = [image for _, image in batch], []
    classes: Classes = settings.classes
    for method in settings.methods:
        explanation = explain(
            model,
            images,
            method=method,
            classes=classes,
            layer=_layers_for(method, settings),
            view=settings.view,
            **settings.method_options.get(method, {}),
        )
        classes, geometries = explanation.classes, explanation.geometries
        used[method] = {
            "layers": explanation.layers,
            "options": explanation.options,
            "scores": _rules(used.get(method), explanation),
        }
        seen.append(_Seen.of(explanation, settings))
    caption = caption_of(model.name, settings)
    for i, (photo, image) in enumerate(batch):
        file = _save_panel(
            photo, image, [(s.method, s.cells(i)) for s in seen], geometries[i], settings, caption, out
        )
        yield {
            "path": photo.name,
            "panel": file,
            "photo_hw": list(geometries[i].photo_hw),
            "input_hw": list(geometries[i].input_hw),
            "shown_xyxy": list(geometries[i].shown_xyxy),
            "results": [result for s in seen for result in s.results(i)],
        }


def _rules(before: dict[str, Any] | None, explanation: Explanation) -> str | None:
    """The score rule of this batch, after those of the batches before where they had another."""
    names = before["scores"].split(", ") if before and before["scores"] else []
    rule = explanation.score_rule
    return ", ".join(dict.fromkeys([*names, *([rule.name] if rule else [])])) or None


def _layers_for(method: str, settings: Settings) -> list[str] | None:
    """The layers that were named, for the methods that look at a layer (a method at the pixels has none)."""
    from sightline.methods import get_method

    looking = [name for name in settings.methods if "activations" in get_method(name).needs]
    return list(settings.layers) if settings.layers and (method in looking or not looking) else None


def _save_panel(
    photo: Photo,
    image: PIL.Image.Image,
    rows: Sequence[tuple[str, Sequence[Cell]]],
    geometry: Geometry,
    settings: Settings,
    caption: str,
    out: Path,
) -> str:
    from sightline.pictures.panel import panel
    from sightline.reports.manifest import write_atomically

    picture = panel(
        image,
        rows,
        title=Path(photo.name).name,
        caption=caption,
        shown_xyxy=geometry.shown_xyxy,
        colormap=settings.colormap,
        threshold=settings.rule.threshold if settings.rule.relative_to == "max" else None,
    )
    file = f"{photo.stem}.png"
    write_atomically(out / file, partial(picture.save, format="PNG"))
    return file
