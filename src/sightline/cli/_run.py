"""Photos in, panels and manifest.json out: what ``explain`` and ``demo`` share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import ImageError, InputError, unknown

if TYPE_CHECKING:
    import PIL.Image

    from sightline.explanation import Explanation
    from sightline.models.loading import LoadedModel
    from sightline.targets import Classes


@dataclass(frozen=True)
class Photo:
    """A photo to explain: the name that the user knows it by, where it is, and what its panel is called."""

    name: str
    source: Path | PIL.Image.Image
    stem: str


@dataclass(frozen=True)
class Settings:
    """The resolved options of a run, as manifest.json holds them."""

    methods: Sequence[str]
    classes: str | Sequence[str] = "top1"
    layers: Sequence[str] = ()
    view: str = "whole"
    normalise: str = "minmax"
    threshold: float = 0.2
    standard: str = "max"
    percentile: float = 90.0
    select: str = "largest"
    method_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    colormap: str = "turbo"
    batch_size: int = 8

    @property
    def box_options(self) -> dict[str, Any]:
        names = ("threshold", "standard", "percentile", "select", "normalise")
        return {name: getattr(self, name) for name in names}


def checked_settings(options: Sequence[str] = (), **given: Any) -> Settings:
    """`Settings` from what was typed, every choice checked before a model is loaded; ``options`` are NAME=VALUE.

    Raises `InputError` with the near matches of the first wrong choice.
    """
    from sightline.boxes import SELECTIONS, STANDARDS
    from sightline.explanation import VIEWS
    from sightline.heatmap import NORMALISATIONS
    from sightline.methods.options import parse_options
    from sightline.render import colour_table

    settings = Settings(**given)
    for name, valid in (
        ("view", VIEWS),
        ("normalise", NORMALISATIONS),
        ("standard", STANDARDS),
        ("select", SELECTIONS),
    ):
        if getattr(settings, name) not in valid:
            raise unknown(name, getattr(settings, name), valid)
    colour_table(settings.colormap)
    methods = list(dict.fromkeys(settings.methods))
    return replace(settings, methods=methods, method_options=parse_options(methods, options))


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
    from sightline.manifest import write_atomically

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
                    manifest["images"] += _explain(model, readable, settings, out, manifest)
                advance(len(batch))
        manifest["complete"] = True
    finally:
        if manifest["images"] or manifest["errors"]:
            _save_manifest(manifest, out)
    return manifest


def _describe(model: LoadedModel, settings: Settings) -> dict[str, Any]:
    from sightline.manifest import describe_run

    options = {name: value for name, value in vars(settings).items() if name != "method_options"}
    device = next((str(p.device) for p in model.parameters()), "cpu")
    return describe_run(
        model={
            "name": model.name,
            "weights": model.weights,
            "weights_sha256": model.weights_sha256,
            "device": device,
        },
        options=options,
        methods={},
        complete=False,
        images=[],
        errors=[],
    )


def _save_manifest(manifest: dict[str, Any], out: Path) -> None:
    from sightline.manifest import write_atomically

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


def _explain(
    model: LoadedModel,
    batch: Sequence[tuple[Photo, PIL.Image.Image]],
    settings: Settings,
    out: Path,
    manifest: dict[str, Any],
) -> list[dict[str, Any]]:
    """Every method for the classes of one batch; the classes are chosen once, from the first method's logits."""
    from sightline import explain

    images, found = [image for _, image in batch], []
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
        classes = explanation.classes
        manifest["methods"][method] = {"layers": explanation.layers, "options": explanation.options}
        found.append(explanation)
    return [_finish_photo(photo, image, i, found, settings, out) for i, (photo, image) in enumerate(batch)]


def _layers_for(method: str, settings: Settings) -> list[str] | None:
    """The layers that were named, for the methods that look at a layer (a method at the pixels has none)."""
    from sightline.methods import get_method

    looking = [name for name in settings.methods if "activations" in get_method(name).needs]
    return list(settings.layers) if settings.layers and (method in looking or not looking) else None


def _finish_photo(
    photo: Photo,
    image: PIL.Image.Image,
    i: int,
    found: Sequence[Explanation],
    settings: Settings,
    out: Path,
) -> dict[str, Any]:
    """Write the panel of photo i of the batch and return its entry in the manifest."""
    from sightline.manifest import write_atomically
    from sightline.panel import Cell, panel

    rows, results = [], []
    for explanation in found:
        heatmaps = explanation.heatmaps(normalise=settings.normalise, percentile=settings.percentile)[i].cpu()
        cells = []
        for k, prediction in enumerate(explanation.predictions(**settings.box_options)[i]):
            signed = None if explanation.signed is None else explanation.signed[i, k].cpu()
            cells.append(
                Cell(heatmaps[k], prediction.category, prediction.score, prediction.boxes_xyxy, signed)
            )
            results.append(
                {
                    "method": explanation.method,
                    "class_index": prediction.class_index,
                    "category": prediction.category,
                    "score": round(prediction.score, 6),
                    "boxes_xyxy": [[round(x, 2) for x in box] for box in prediction.boxes_xyxy.tolist()],
                }
            )
        rows.append((explanation.method, cells))
    geometry = found[0].geometries[i]
    picture = panel(
        image,
        rows,
        title=Path(photo.name).name,
        caption=_caption(found[0].model_name, settings),
        shown_xyxy=geometry.shown_xyxy,
        colormap=settings.colormap,
        threshold=settings.threshold if settings.standard == "max" else None,
    )
    file = f"{photo.stem}.png"
    write_atomically(out / file, partial(picture.save, format="PNG"))
    return {
        "path": photo.name,
        "panel": file,
        "photo_hw": list(geometry.photo_hw),
        "input_hw": list(geometry.input_hw),
        "shown_xyxy": list(geometry.shown_xyxy),
        "results": results,
    }


def _caption(model_name: str, settings: Settings) -> str:
    """What the picture shows, in one line.

    >>> _caption("resnet50", Settings(["cam"]))
    'resnet50 · view: whole · heat: minmax · box: largest region ≥ 0.2 of the maximum'
    """
    of = {"max": "maximum", "percentile": f"{settings.percentile:g}th percentile"}[settings.standard]
    regions = {"largest": "largest region", "all": "every region"}[settings.select]
    parts = (model_name, f"view: {settings.view}", f"heat: {settings.normalise}")
    return " · ".join([*parts, f"box: {regions} ≥ {settings.threshold:g} of the {of}"])
