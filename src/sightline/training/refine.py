"""Pseudo-box refinement: a classifier's own maps teach a box regressor (PSOL: Zhang et al., CVPR 2020).

1. The maps of a trained classifier give every training photo a box for its known label.
2. A class-agnostic regressor, initialised from the classifier's trunk, learns these boxes. It learns what they
   have in common, not their individual errors.
3. One forward pass of the result gives class and box.

No true boxes are used in training. Those of a held-out part of the training set choose a single number, the
maps' threshold, unless the recipe gives it.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from torch import Tensor

from sightline.data import load_dataset
from sightline.data.photos import PhotoBatch
from sightline.data.splits import hold_out
from sightline.errors import InputError, UnsupportedError
from sightline.files import read_json
from sightline.models.families.gapnet import GapNet
from sightline.models.families.refined import RefinedNet
from sightline.models.loading import LoadedModel, load_model, tiny40_file
from sightline.reports.manifest import describe_run
from sightline.reports.output_folder import OutputFolder, make_folder, write_atomically
from sightline.training.box_data import BoxData, BoxedPhotos, KeptViews
from sightline.training.box_module import BoxRegression
from sightline.training.checkpoint import read_checkpoint, save_checkpoint, sha256
from sightline.training.data import Photos
from sightline.training.devices import one_process_only
from sightline.training.folds import fold_model, fold_numbers, fold_weights, split_folds
from sightline.training.pseudo_boxes import (
    PseudoBoxes,
    choose_threshold,
    preprocess_of,
    pseudo_boxes,
    read_pseudo_boxes,
)
from sightline.training.readable import readable
from sightline.training.refine_recipe import RefineRecipe, read_refine_recipe
from sightline.training.refine_scores import predicted_shares, score_boxes, summary, table
from sightline.training.run import fit, make_trainer, quiet
from sightline.types import Dataset


@dataclass(frozen=True)
class Teacher:
    """The classifier, its path, and the description in its file."""

    model: LoadedModel
    path: Path
    description: dict[str, Any]


FILES = ("weights.safetensors", "threshold.json", "scores.json", "scores.md", "round-1")  # and `recipe.yaml`


def refine(
    recipe: RefineRecipe,
    resume: bool = False,
    train: Dataset | None = None,
    held_out: Dataset | None = None,
    test: Dataset | None = None,
) -> Path:
    """Run the refinement ``recipe`` and return the path of the weights; the last three arguments replace its data.

    The folder ``recipe.run.out`` then contains ``weights.safetensors``, the resolved ``recipe.yaml``,
    ``threshold.json``, ``manifest.json``, for each round ``round-R/`` with ``pseudo-boxes.csv`` and
    ``log.csv``, and, if the recipe names a test split, ``scores.json`` and ``scores.md``. With ``resume``
    an interrupted run continues after its last finished epoch. Only ids, photos and labels of ``train`` are read.
    Raises `InputError` if the folder already contains a run and ``resume`` is off.
    """
    one_process_only("refine")
    out = Path(recipe.run.out)
    OutputFolder(recipe.run.out, "refine").check_owner()
    _begin(recipe, out, resume)
    teacher = load_teacher(recipe.teacher.model, _device(recipe), recipe.run.channels_last)
    train, skipped = _training_photos(recipe, train)
    threshold = _threshold(recipe, teacher, held_out, out)
    photos = Photos([sample.source for sample in train.samples], recipe.data.cache)
    boxes = _first_boxes(recipe, teacher, train, photos, threshold, out, resume)
    for number in range(1, recipe.self_training.rounds + 1):
        folder = out / f"round-{number}"
        weights = _train_round(recipe, teacher, photos, boxes, folder, resume)
        if number < recipe.self_training.rounds:
            following = out / f"round-{number + 1}" / "pseudo-boxes.csv"
            kept = _saved_boxes(following)
            if kept is None:
                own = _predicted(recipe, teacher, weights, boxes, photos, train, folder, resume)
                kept = _blend(recipe, boxes, own, following)
            boxes = kept
    final = out / "weights.safetensors"
    with weights.open("rb") as source:
        write_atomically(final, lambda file: shutil.copyfileobj(source, file))
    scores = _score(recipe, teacher, threshold, final, test, out)
    _write_manifest(recipe, teacher, threshold, train, skipped, final, scores, out)
    return final


def plan(recipe: RefineRecipe) -> list[str]:
    """Read the data and build the network without training; describe the run, one line per item."""
    teacher = load_teacher(recipe.teacher.model, _device(recipe), recipe.run.channels_last)
    train, skipped = _training_photos(recipe, None)
    network = build(recipe, teacher)
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    t = recipe.teacher
    at = (
        f"threshold {t.threshold}"
        if t.threshold is not None
        else f"threshold chosen on {recipe.data.choose_on}"
    )
    return [
        f"{recipe.name}: boxes of {' + '.join(t.methods)} of {teacher.path.name}, {at}",
        f"train: {len(train)} photos ({recipe.data.train}), {recipe.folds.count} fold(s)",
        *([f"skipped: {len(skipped)} photos that cannot be read"] if skipped else []),
        f"regressor: {learning:,} parameters, {recipe.regressor.shared} part(s) of the trunk shared",
        f"{recipe.self_training.rounds} round(s) of {recipe.optimiser.epochs} epochs; test: {recipe.data.test}",
        f"result: {recipe.run.out}",
    ]


def load_teacher(model: str, device: str | None = None, channels_last: bool = False) -> Teacher:
    """Load a classifier trained by sightline, by the path of its checkpoint or ``bundled``; it must have a trunk."""
    path = tiny40_file() if model == "bundled" else Path(model)
    loaded = load_model(path, device=device)
    if not isinstance(loaded.network, GapNet):
        raise UnsupportedError(
            f"{model} is {loaded.name}; expected a network with pooling and one linear layer, such as small-tap"
        )
    preprocess_of(loaded)
    if channels_last:
        loaded.to(memory_format=torch.channels_last)
    return Teacher(loaded, path, read_checkpoint(path)[1])


def build(recipe: RefineRecipe, teacher: Teacher) -> RefinedNet:
    """The classifier plus a regressor initialised from its trunk; the seed determines the head's weights."""
    lightning.seed_everything(recipe.run.seed, verbose=False)
    r = recipe.regressor
    return RefinedNet(copy.deepcopy(teacher.model.network), r.shared, r.hidden, r.grid, r.head, r.depth)


def input_hw(recipe: RefineRecipe, teacher: Teacher) -> tuple[int, int]:
    """The regressor's input size: the recipe's, else the classifier's."""
    side = recipe.augment.side
    return preprocess_of(teacher.model).input_hw if side is None else (side, side)


def _device(recipe: RefineRecipe) -> str:
    return "cpu" if recipe.run.accelerator == "cpu" else "auto"


def _begin(recipe: RefineRecipe, out: Path, resume: bool) -> None:
    """Write the resolved recipe to a new folder; a run can only be resumed with the recipe it started with."""
    path = out / "recipe.yaml"
    if path.exists() and not resume:
        raise InputError(
            f"{out} already contains a run; continue it with --resume, or choose another run.out"
        )
    if not path.exists():
        OutputFolder(out, "refine").check_free(FILES)
    else:
        began, now = read_refine_recipe(path).as_dict(), recipe.as_dict()
        began["run"], now["run"] = {"seed": began["run"]["seed"]}, {"seed": now["run"]["seed"]}
        differs = next((part for part in now if now[part] != began[part]), None)
        if differs is not None:
            raise InputError(
                f"{out} was started with another recipe: {differs} differs; resume with the same recipe, or "
                "choose another run.out"
            )
        return
    make_folder(out)
    text = yaml.safe_dump(recipe.as_dict(), sort_keys=False)
    write_atomically(path, lambda file: file.write(text.encode()))


def _load(recipe: RefineRecipe, split: str) -> Dataset:
    return load_dataset(recipe.data.root, dataset=recipe.data.dataset, split=split)


def _readable(recipe: RefineRecipe, photos: Dataset) -> tuple[Dataset, dict[str, str]]:
    """With ``data.skip_unreadable`` without the photos that cannot be read, and id -> why each cannot."""
    return readable(photos, recipe.run.progress) if recipe.data.skip_unreadable else (photos, {})


def _training_photos(recipe: RefineRecipe, given: Dataset | None) -> tuple[Dataset, dict[str, str]]:
    """The photos to compute pseudo-boxes for: the whole split, or ``per_class`` of each class; and those skipped."""
    whole, count = given or _load(recipe, recipe.data.train), recipe.data.per_class
    if count is not None:
        whole = replace(hold_out(whole, count, recipe.run.seed)[1], split=whole.split)
    return _readable(recipe, whole)


def _threshold(recipe: RefineRecipe, teacher: Teacher, held_out: Dataset | None, out: Path) -> float:
    """The recipe's threshold, or the best on the held-out part, saved with the scores of all that were tried."""
    if recipe.teacher.threshold is not None:
        return recipe.teacher.threshold
    path = out / "threshold.json"
    if not path.exists():
        split, skipped = _readable(recipe, held_out or _load(recipe, str(recipe.data.choose_on)))
        chosen, shares = choose_threshold(teacher.model, split, recipe.teacher)
        found = {"threshold": chosen, "split": split.split, "images": len(split), "skipped": skipped}
        _write_json(path, {**found, "gt_known": shares})
    return float(read_json(path)["threshold"])


def _first_boxes(
    recipe: RefineRecipe,
    teacher: Teacher,
    train: Dataset,
    photos: Photos,
    threshold: float,
    out: Path,
    resume: bool,
) -> PseudoBoxes:
    """The first round's boxes: from the teacher, or fold by fold from classifiers not trained on the photo."""
    path = out / "round-1" / "pseudo-boxes.csv"
    if (kept := _saved_boxes(path)) is not None:
        return kept
    if recipe.folds.count == 1:
        found = pseudo_boxes(teacher.model, train, recipe.teacher, threshold, photos)
    else:
        found = _fold_boxes(recipe, teacher, train, threshold, out, resume)
    if not found.used.any():
        raise InputError("no pseudo-box is left to train on; widen teacher.area or lower min_confidence")
    make_folder(path.parent)
    found.save(path)
    return read_pseudo_boxes(path)  # so that a resumed run uses the same rounded numbers


def _fold_boxes(
    recipe: RefineRecipe, teacher: Teacher, train: Dataset, threshold: float, out: Path, resume: bool
) -> PseudoBoxes:
    parts = []
    for k, (others, own) in enumerate(split_folds(train, recipe.folds.count, recipe.run.seed)):
        if recipe.folds.models:
            model = load_model(recipe.folds.models[k])
        else:
            folder = fold_weights(out, k).parent
            model = fold_model(teacher.path, others, folder, resume, recipe.run.progress)
        parts.append(
            pseudo_boxes(model.to(next(teacher.model.parameters()).device), own, recipe.teacher, threshold)
        )
    return _combined(parts, train)


def _combined(parts: list[PseudoBoxes], train: Dataset) -> PseudoBoxes:
    """The folds combined, in the order of the data set."""
    whole = PseudoBoxes(
        tuple(name for part in parts for name in part.ids),
        tuple(label for part in parts for label in part.labels),
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "confidence", "used")),
    )
    place = {name: i for i, name in enumerate(whole.ids)}
    order = [place[sample.id] for sample in train.samples]
    return PseudoBoxes(
        tuple(whole.ids[i] for i in order),
        tuple(whole.labels[i] for i in order),
        *(tensor[order] for tensor in (whole.boxes, whole.confidence, whole.used)),
    )


def _saved_boxes(path: Path) -> PseudoBoxes | None:
    return read_pseudo_boxes(path) if path.exists() else None


def _train_round(
    recipe: RefineRecipe, teacher: Teacher, photos: Photos, boxes: PseudoBoxes, folder: Path, resume: bool
) -> Path:
    """Train a regressor on one set of boxes and return its checkpoint; a finished round is not repeated."""
    weights = folder / "weights.safetensors"
    if weights.exists():
        return weights
    make_folder(folder)
    rows = boxes.used.nonzero()[:, 0].tolist()
    ids = [boxes.ids[i] for i in rows]
    size = input_hw(recipe, teacher)
    preprocess = replace(preprocess_of(teacher.model), input_hw=size)
    boxed = BoxedPhotos([photos[i] for i in rows], boxes.boxes[rows], ids, size, recipe)
    with quiet():
        module = BoxRegression(build(recipe, teacher), recipe, preprocess, ids)
        driver: Any = recipe  # the trainer reads only fields that both kinds of recipe have
        trainer = make_trainer(driver, folder)
        begun = folder / "resume.ckpt"
        data = boxed if recipe.augment.views is None else KeptViews(boxed, module, recipe.augment.views)
        _fit(trainer, module, BoxData(data, recipe), begun if resume and begun.exists() else None)
    save_checkpoint(weights, module.average.eval(), describe(recipe, teacher), half=recipe.run.half_weights)
    return weights


def _fit(trainer: lightning.Trainer, module: Any, data: Any, begun: Path | None) -> None:
    fit(trainer, module, data, begun)


def describe(recipe: RefineRecipe, teacher: Teacher) -> dict[str, Any]:
    """The checkpoint's description: enough for `load_model` to rebuild the network."""
    base, size = teacher.description, input_hw(recipe, teacher)
    r = recipe.regressor
    return {
        "architecture": "refined",
        "architecture_options": {
            "base": base["architecture"], "base_options": base.get("architecture_options", {}),
            "shared": r.shared, "hidden": r.hidden, "grid": r.grid, "head": r.head,
            **({} if r.depth is None else {"depth": r.depth}),
        },
        "categories": base["categories"],
        "preprocess": {**base["preprocess"], "input_hw": list(size), "resize": min(size)},
        "recipe": recipe.as_dict(),
        "teacher": {"weights": teacher.path.name, "sha256": sha256(teacher.path)},
    }  # fmt: skip


def _predicted(
    recipe: RefineRecipe,
    teacher: Teacher,
    weights: Path,
    boxes: PseudoBoxes,
    photos: Photos,
    train: Dataset,
    folder: Path,
    resume: bool,
) -> Tensor:
    """The round's boxes of all training photos (N, 4): with folds, of each photo by a regressor that never saw it.

    A fold's regressor starts from that fold's classifier and learns the boxes of the other folds (Cinbis et al.: the
    folds hold in every round).
    """
    if recipe.folds.count == 1:
        return _regressed(recipe, weights, photos, range(len(boxes.ids)))
    numbers = torch.tensor(fold_numbers(train, recipe.folds.count, recipe.run.seed))
    own = torch.zeros_like(boxes.boxes)
    for k in range(recipe.folds.count):
        inside = numbers == k
        first = recipe.folds.models[k] if recipe.folds.models else str(fold_weights(Path(recipe.run.out), k))
        start = load_teacher(first, _device(recipe), recipe.run.channels_last)
        others = replace(boxes, used=boxes.used & ~inside)
        trained = _train_round(recipe, start, photos, others, folder / f"fold-{k}", resume)
        own[inside] = _regressed(recipe, trained, photos, inside.nonzero()[:, 0].tolist())
    return own


def _regressed(recipe: RefineRecipe, weights: Path, photos: Photos, rows: Sequence[int]) -> Tensor:
    """A regressor's boxes of some photos, averaged over both mirrorings: (n, 4), shares of the photo."""
    model = load_model(weights, device=_device(recipe))
    preprocess, own = preprocess_of(model), list[Tensor]()
    assert isinstance(model.network, RefinedNet)
    for start in range(0, len(rows), 200):
        some = [photos[i] for i in rows[start : start + 200]]
        images = PhotoBatch.load(some, preprocess, keep_photos=False).to(model).images
        own.append(predicted_shares(model.network, images, flip=True))
    return torch.cat(own)


def _blend(recipe: RefineRecipe, before: PseudoBoxes, own: Tensor, path: Path) -> PseudoBoxes:
    """The next round's boxes: (1 - b) · the previous ones + b · the regressor's."""
    mixed = torch.lerp(before.boxes, own.to(before.boxes), recipe.self_training.blend)
    make_folder(path.parent)
    replace(before, boxes=mixed).save(path)
    return read_pseudo_boxes(path)


def _score(
    recipe: RefineRecipe, teacher: Teacher, threshold: float, weights: Path, test: Dataset | None, out: Path
) -> dict[str, Any] | None:
    """Score maps and regressor on the test split, once; None if the recipe names none."""
    if test is None and recipe.data.test is None:
        return None
    dataset = test or _load(recipe, str(recipe.data.test))
    refined = load_model(weights, device=_device(recipe))
    report = score_boxes(teacher.model, refined, dataset, recipe.teacher, threshold)
    images = len(dataset) - len(report.skipped)
    scores = {"split": dataset.split, "images": images, "skipped": report.skipped, **summary(report)}
    _write_json(out / "scores.json", scores)
    write_atomically(out / "scores.md", lambda file: file.write((table(scores) + "\n").encode()))
    return scores


def _write_manifest(
    recipe: RefineRecipe,
    teacher: Teacher,
    threshold: float,
    train: Dataset,
    skipped: dict[str, str],
    weights: Path,
    scores: dict[str, Any] | None,
    out: Path,
) -> None:
    manifest = describe_run(
        **describe(recipe, teacher),
        dataset={"name": train.name, "split": train.split, "photos": len(train)},
        skipped=skipped,
        threshold=threshold,
        weights={"file": weights.name, "sha256": sha256(weights), "bytes": weights.stat().st_size},
        scores=scores,
    )
    OutputFolder(out, "refine").finish(manifest)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
