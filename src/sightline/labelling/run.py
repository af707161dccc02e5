"""`label_files`: many photos in; annotations in one format, a review list and manifest.json out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any

from sightline.data.items import expand_paths
from sightline.data.photos import VIEWS
from sightline.errors import InputError, unknown
from sightline.files import escaped, not_text
from sightline.labelling.review import write_review
from sightline.labelling.sam import Refine, refined
from sightline.labels import LabelledPhoto, Labels
from sightline.labels.files import BOX_FORMATS, MASK_FORMATS, write_labels
from sightline.methods.registry import get_method
from sightline.methods.spec import MethodSpec, parse_method
from sightline.models.loading import LoadedModel
from sightline.pipeline import explain, load_photos
from sightline.progress import Progress
from sightline.reports.manifest import describe_run
from sightline.reports.output_folder import OutputFolder, write_atomically
from sightline.types import BoxRule

KIND = "labels"
LOG = "labels.jsonl"  # what is finished: a line with the run's options, then a line per photo
Inputs = Sequence[str | os.PathLike[str]] | str | os.PathLike[str]


@dataclass(frozen=True)
class LabelOptions:
    """How photos are labelled; validated on construction.

    ``format``       one of `BOX_FORMATS` or `MASK_FORMATS`; the latter also keep each box's region.
    ``method``       a method string.   ``classes``: as in `explain`.   ``rule``: how maps become boxes.
    ``least_score``  boxes of classes less probable than this are left out.
    ``copy_photos``  also copy the photos to where the format's readers look for them.
    ``review``       how many of the most doubtful boxes the review sheet shows.

    >>> LabelOptions(format="yolo").masks, LabelOptions(format="coco-rle").masks
    (False, True)
    """

    format: str = "coco"
    method: str = "localise"
    classes: str | int | Sequence[str | int] = "top1"
    rule: BoxRule = field(default_factory=BoxRule)
    view: str = "whole"
    least_score: float = 0.0
    copy_photos: bool = False
    batch_size: int = 8
    workers: int = 1
    review: int = 24

    def __post_init__(self) -> None:
        if self.format not in (*BOX_FORMATS, *MASK_FORMATS):
            raise unknown("format", self.format, (*BOX_FORMATS, *MASK_FORMATS))
        if self.view not in VIEWS:
            raise unknown("view", self.view, VIEWS)
        if not 0 <= self.least_score <= 1:
            raise InputError(f"least_score is {self.least_score}; expected a probability from 0 to 1")
        if self.batch_size < 1 or self.workers < 1 or self.review < 0:
            raise InputError("batch_size and workers: expected 1 or more of each; review: 0 or more")
        if get_method(self.spec.name).signed and not self.spec.combines:
            raise InputError(
                f"{self.method} marks single pixels, which form no region; expected e.g. localise"
            )

    @property
    def spec(self) -> MethodSpec:
        """The method, parsed."""
        return parse_method(self.method)

    @property
    def masks(self) -> bool:
        """Whether regions are kept beside their boxes."""
        return self.format in MASK_FORMATS

    def as_dict(self) -> dict[str, Any]:
        """What the labels depend on: neither the speed nor what is written beside them."""
        rule = self.rule.or_defaults_of(self.spec.rule)
        return {
            "method": self.method,
            "classes": self.classes if isinstance(self.classes, (str, int)) else list(self.classes),
            "view": self.view,
            "least_score": self.least_score,
            "masks": self.masks,
            **rule.as_dict(),
        }


def label_files(
    model: LoadedModel,
    inputs: Inputs,
    out: str | os.PathLike[str],
    options: LabelOptions | None = None,
    *,
    refine: Refine | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Label many photos with boxes or masks in ``out``, in one format, and list the doubtful ones for review.

    ``inputs``: files, folders and patterns. ``options``, or its fields as keywords. ``refine``: replaces each region,
    such as `sightline.labelling.sam.sam_refiner`. After an interruption the same call resumes: finished photos are in
    ``labels.jsonl`` and are not computed again; with other options it refuses the folder. review.csv lists every box,
    most doubtful first (`Label`). A photo that cannot be read is in the manifest's ``errors``. Returns the manifest.

    >>> import tempfile, PIL.Image
    >>> from sightline import load_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> PIL.Image.new("RGB", (9, 9), "red").save(folder / "red.png")
    >>> label_files(load_model(), folder, folder / "out", method="gradcam")["photos"]
    1
    """
    names = [one.name for one in fields(LabelOptions)]
    for name in changes:
        if name not in names:
            raise unknown("label_files option", name, names)
    options = replace(options or LabelOptions(), **changes)
    paths, root = _photos(inputs, out)
    with OutputFolder(out, KIND) as folder:
        described = {**options.as_dict(), "model": model.describe(), "refine": _name_of(refine)}
        done = _finished(folder.path / LOG, described)
        errors = [
            {"path": escaped(file), "error": not_text(str(path))}
            for file, path in paths.items()
            if escaped(file) != file
        ]
        left = {file: path for file, path in paths.items() if file not in done and escaped(file) == file}
        with _open_log(folder.path / LOG, described, done) as log:
            for start in range(0, len(left), options.batch_size):
                chunk = dict(list(left.items())[start : start + options.batch_size])
                for photo in _label(model, chunk, options, refine, errors):
                    done[photo.file] = photo
                    log.write(json.dumps(photo.as_dict(), ensure_ascii=False) + "\n")
                log.flush()
                if progress is not None:
                    progress(len(paths) - len(left) + start + len(chunk), len(paths))
        labels = Labels([done[file] for file in paths if file in done], tuple(model.categories or ()))
        files = write_labels(labels, folder, options.format, str(root) if options.copy_photos else None)
        files += write_review(labels, paths, folder, options.review)
        manifest = describe_run(
            model=model.describe(),
            options={**described, "format": options.format},
            photos=len(labels.photos),
            boxes=sum(len(photo.labels) for photo in labels.photos),
            files=[path.relative_to(folder.path).as_posix() for path in files][:1000],
            errors=errors,
        )
        folder.finish(manifest)
    return {"kind": KIND, **manifest}


def _photos(inputs: Inputs, out: str | os.PathLike[str]) -> tuple[dict[str, Path], Path]:
    """Each photo by its path below the folder that was given, or below the one that all photos share."""
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    paths = [Path(os.path.abspath(path)) for path in expand_paths(given, without=[out])]
    root = Path(os.path.abspath(given[0]))
    if len(given) > 1 or not root.is_dir():
        root = Path(os.path.commonpath([path.parent for path in paths]))
    return {path.relative_to(root).as_posix(): path for path in paths}, root


def _name_of(refine: Refine | None) -> str | None:
    return None if refine is None else str(getattr(refine, "name", type(refine).__name__))


def _finished(log: Path, described: dict[str, Any]) -> dict[str, LabelledPhoto]:
    """The photos that an earlier run finished; a line that a kill cut short is dropped."""
    if not log.is_file():
        return {}
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    try:
        first = dict(json.loads(lines[0]))
        done = [LabelledPhoto.from_dict(json.loads(line)) for line in lines[1:]]
    except (LookupError, ValueError, TypeError):
        raise InputError(
            f"{log} is damaged, or not of `sightline boxes` or `masks`; delete it, or give another output folder"
        ) from None
    told = json.loads(json.dumps(described, default=str))
    if first != told:
        differ = [name for name in told if first.get(name) != told[name]] or ["options"]
        if differ[0] == "masks" or "masks" in differ:
            held, wanted = ("masks", "boxes") if first.get("masks") else ("boxes", "masks")
            raise InputError(
                f"{log.parent} holds {held}, and {wanted} need an output folder of their own; give another (--out)"
            )
        raise InputError(
            f"{log.parent} was begun with another {differ[0]}: give another output folder, or delete {log.name}"
        )
    return {photo.file: photo for photo in done}


@contextmanager
def _open_log(log: Path, described: dict[str, Any], done: dict[str, LabelledPhoto]) -> Iterator[IO[str]]:
    """The log, open for appending, with its whole lines only; a run that finishes no photo leaves none behind."""
    lines = [described, *(photo.as_dict() for photo in done.values())]
    text = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
    write_atomically(log, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
    try:
        with log.open("a", encoding="utf-8") as opened:
            yield opened
    finally:
        if not done:
            log.unlink(missing_ok=True)


def _label(
    model: LoadedModel,
    chunk: dict[str, Path],
    options: LabelOptions,
    refine: Refine | None,
    errors: list[dict[str, str]],
) -> Iterator[LabelledPhoto]:
    files = list(chunk)
    photos = load_photos(
        model, list(chunk.values()), options.view, workers=options.workers, on_error="collect"
    )
    errors += [{"path": files[place], "error": reason} for place, reason in photos.errors.items()]
    if not len(photos):
        return
    explanation = explain(model, photos.to(model), options.spec, options.classes)
    rule = options.rule.or_defaults_of(options.spec.rule)
    named = [files[place] for place in photos.indices]
    found = explanation.labels(rule, masks=options.masks, files=named)
    for i, photo in enumerate(found.photos):
        kept = [one for one in photo.labels if one.score is None or one.score >= options.least_score]
        if refine is not None:
            kept = refined(explanation, i, kept, refine, options.masks)
        yield replace(photo, labels=tuple(kept))
