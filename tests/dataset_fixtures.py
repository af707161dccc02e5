"""Small real data sets in each official layout, drawn: coloured shapes whose boxes are known to the pixel.

For tests and for dry runs of recipes where the real data set is not at hand. Every writer takes
``(root, *, classes, per_class, side, seed)`` and returns what it drew: split -> `Drawing`s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from drawings import Drawing, Shape, drawings, names, wnids

Drawn = dict[str, list[Drawing]]


def _splits(splits: str, seed: int, **options: Any) -> Iterator[tuple[str, list[Drawing]]]:
    for index, split in enumerate(splits.split()):
        yield split, drawings(seed=1000 * seed + index, **options)


def _lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _joined(separator: str, *values: object) -> str:
    return separator.join(map(str, values))


def write_folder_fixture(
    root: Path, *, classes: int = 3, per_class: int = 4, side: int = 48, seed: int = 0
) -> Drawn:
    """Class folders ``train`` and ``val``, each with its ``boxes.csv``."""
    drawn = dict(_splits("train val", seed, classes=classes, per_class=per_class, side=side))
    for split, items in drawn.items():
        rows = ["file,x0,y0,x1,y1"]
        for item in items:
            file = f"{names(classes)[item.label]}/{item.number:04d}.jpg"
            item.save(root / split / file)
            rows += [_joined(",", file, *shape.box) for shape in item.shapes]
        _lines(root / split / "boxes.csv", rows)
    return drawn


def write_tiny_imagenet_fixture(
    root: Path, *, classes: int = 3, per_class: int = 4, side: int = 64, seed: int = 0
) -> Drawn:
    """Tiny ImageNet: one box in each image, corners inclusive."""
    options: dict[str, Any] = {"classes": classes, "per_class": per_class, "side": side, "wide": False}
    drawn = {
        split: [_first_shape(d) for d in items] for split, items in _splits("train val", seed, **options)
    }
    ids = wnids(classes)
    _lines(root / "wnids.txt", ids)
    _lines(
        root / "words.txt", [f"{wnid}\t{name}, shape" for wnid, name in zip(ids, names(classes), strict=True)]
    )
    tables: dict[int, list[str]] = {label: [] for label in range(classes)}
    for item in drawn["train"]:
        file = f"{ids[item.label]}_{item.number}.JPEG"
        item.save(root / "train" / ids[item.label] / "images" / file)
        tables[item.label].append(_joined("\t", file, *item.shapes[0].inclusive))
    for label, rows in tables.items():
        _lines(root / "train" / ids[label] / f"{ids[label]}_boxes.txt", rows)
    rows = []
    for item in drawn["val"]:
        item.save(root / "val" / "images" / f"val_{item.number}.JPEG")
        rows.append(_joined("\t", f"val_{item.number}.JPEG", ids[item.label], *item.shapes[0].inclusive))
    _lines(root / "val" / "val_annotations.txt", rows)
    return drawn


def _first_shape(item: Drawing) -> Drawing:
    return Drawing(item.number, item.label, item.size_wh, item.shapes[:1])


def write_ilsvrc_fixture(
    root: Path, *, form: str = "devkit", classes: int = 3, per_class: int = 4, side: int = 48, seed: int = 0
) -> Drawn:
    """ILSVRC CLS-LOC with the 2012 devkit beside it, or with Kaggle's tables (``form="kaggle"``).

    The devkit's class numbers run against the order of the WordNet ids, so that who mixes them up is seen.
    The blacklist names the last validation image.
    """
    drawn = dict(_splits("train val", seed, classes=classes, per_class=per_class, side=side))
    ids, top = wnids(classes), root / "ILSVRC"
    stems = {
        "train": [f"{ids[item.label]}/{ids[item.label]}_{item.number}" for item in drawn["train"]],
        "val": [f"ILSVRC2012_val_{number:08d}" for number in range(1, len(drawn["val"]) + 1)],
    }
    for split, items in drawn.items():
        for stem, item in zip(stems[split], items, strict=True):
            item.save(top / "Data" / "CLS-LOC" / split / f"{stem}.JPEG")
            xml = voc_xml(item, ids, f"{stem.split('/')[-1]}.JPEG", first_pixel=0)
            _lines(top / "Annotations" / "CLS-LOC" / split / f"{stem}.xml", [xml])
        listing = "train_cls.txt" if split == "train" else "val.txt"
        _lines(
            top / "ImageSets" / "CLS-LOC" / listing, [f"{stem} {n}" for n, stem in enumerate(stems[split], 1)]
        )
    if form == "kaggle":
        _write_kaggle(root, stems["val"], drawn["val"], ids)
    else:
        _write_devkit(root / "ILSVRC2012_devkit_t12" / "data", drawn["val"], ids)
    return drawn


def _write_kaggle(root: Path, stems: list[str], items: list[Drawing], ids: list[str]) -> None:
    _lines(
        root / "LOC_synset_mapping.txt",
        [f"{i} {n}, shape" for i, n in zip(ids, names(len(ids)), strict=True)],
    )
    rows = ["ImageId,PredictionString"]
    for stem, item in zip(stems, items, strict=True):
        boxes = " ".join(_joined(" ", ids[shape.label], *shape.inclusive) for shape in item.shapes)
        rows.append(f"{stem},{boxes} ")
    _lines(root / "LOC_val_solution.csv", rows)


def _write_devkit(data: Path, items: list[Drawing], ids: list[str]) -> None:
    import numpy as np
    from scipy.io import savemat

    synsets: list[tuple[object, ...]] = [
        (len(ids) - label, wnid, f"{name}, shape", 0)
        for label, (wnid, name) in enumerate(zip(ids, names(len(ids)), strict=True))
    ]
    synsets.append((len(ids) + 1, "n09999999", "shape", len(ids)))  # the synset above them: not a class
    fields = [(field, object) for field in ("ILSVRC2012_ID", "WNID", "words", "num_children")]
    data.mkdir(parents=True)
    savemat(data / "meta.mat", {"synsets": np.array(synsets, dtype=fields).reshape(-1, 1)})
    _lines(data / "ILSVRC2012_validation_ground_truth.txt", [str(len(ids) - item.label) for item in items])
    _lines(data / "ILSVRC2014_clsloc_validation_blacklist.txt", [str(len(items))])


def voc_xml(
    item: Drawing, classes: list[str], file: str, *, first_pixel: int, difficult: int | None = None
) -> str:
    """A VOC annotation; the first pixel is 1 in VOC, 0 in ILSVRC. Shape ``difficult`` is marked so."""
    lines = ["<annotation>", f"  <filename>{file}</filename>"]
    lines.append(
        f"  <size><width>{item.size_wh[0]}</width><height>{item.size_wh[1]}</height><depth>3</depth></size>"
    )
    for index, shape in enumerate(item.shapes):
        corners = zip(("xmin", "ymin", "xmax", "ymax"), shape.inclusive, strict=True)
        box = "".join(f"<{name}>{value + first_pixel}</{name}>" for name, value in corners)
        lines.append(
            f"  <object><name>{classes[shape.label]}</name><difficult>{int(index == difficult)}</difficult>"
        )
        lines.append(f"    <bndbox>{box}</bndbox>")
        # Like VOC's people, whose hands and heads have boxes of their own.
        corner = "<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>"
        lines.append(f"    <part><name>part</name><bndbox>{corner}</bndbox></part>")
        lines.append("  </object>")
    return "\n".join([*lines, "</annotation>"])


def write_cub_fixture(
    root: Path, *, masks: bool = True, classes: int = 3, per_class: int = 4, side: int = 48, seed: int = 0
) -> Drawn:
    """CUB-200-2011: one box in each image; half of the images train, half test."""
    top = root / "CUB_200_2011"
    folders = [f"{label + 1:03d}.{name.replace(' ', '_')}" for label, name in enumerate(names(classes))]
    options: dict[str, Any] = {"classes": classes, "per_class": per_class, "side": side}
    drawn = {
        split: [_first_shape(d) for d in items] for split, items in _splits("train test", seed, **options)
    }
    tables: dict[str, list[str]] = {}
    tables["classes.txt"] = [f"{label} {folder}" for label, folder in enumerate(folders, 1)]
    everything = [(split, item) for split, items in drawn.items() for item in items]
    for key, (split, item) in enumerate(everything, 1):
        file = f"{folders[item.label]}/{split}_{item.number:04d}.jpg"
        item.save(top / "images" / file)
        x0, y0, x1, y1 = item.shapes[0].box
        rows = {
            "images.txt": file,
            "image_class_labels.txt": str(item.label + 1),
            "train_test_split.txt": str(int(split == "train")),
            "bounding_boxes.txt": f"{x0:.1f} {y0:.1f} {x1 - x0:.1f} {y1 - y0:.1f}",
        }
        for table, row in rows.items():
            tables.setdefault(table, []).append(f"{key} {row}")
        if masks:
            _save_mask(item.size_wh, item.shapes[:1], (root / "segmentations" / file).with_suffix(".png"))
    for table, lines in tables.items():
        _lines(top / table, lines)
    return drawn


def _save_mask(size_wh: tuple[int, int], shapes: tuple[Shape, ...], path: Path) -> None:
    """White rectangles on black: masks are of the boxes, so that tests can count their pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", size_wh, 0)
    for shape in shapes:
        mask.paste(255, shape.box)
    mask.save(path)


def write_voc_fixture(
    root: Path, *, classes: int = 3, per_class: int = 4, side: int = 48, seed: int = 0
) -> Drawn:
    """PASCAL VOC 2012, first classes; every third image has a second class, marked difficult in ``val``."""
    from sightline.data.adapters.voc import CATEGORIES

    top = root / "VOCdevkit" / "VOC2012"
    drawn = dict(_splits("train val", seed, classes=classes, per_class=per_class, side=side, mixed=True))
    for split, items in drawn.items():
        stems = [f"2012_{split}{item.number:04d}" for item in items]
        for stem, item in zip(stems, items, strict=True):
            item.save(top / "JPEGImages" / f"{stem}.jpg")
            hard = 1 if split == "val" else None
            xml = voc_xml(item, list(CATEGORIES), f"{stem}.jpg", first_pixel=1, difficult=hard)
            _lines(top / "Annotations" / f"{stem}.xml", [xml])
        _lines(top / "ImageSets" / "Main" / f"{split}.txt", stems)
    return drawn


def write_coco_fixture(
    root: Path, *, classes: int = 3, per_class: int = 4, side: int = 48, seed: int = 0
) -> Drawn:
    """COCO 2017: category ids with gaps, in falling order; in every third image a second category."""
    drawn = dict(_splits("train val", seed, classes=classes, per_class=per_class, side=side, mixed=True))
    for split, items in drawn.items():
        content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
        for label, name in reversed(list(enumerate(names(classes)))):
            content["categories"].append({"id": 3 * label + 1, "name": name, "supercategory": "shape"})
        for item in items:
            file = f"{item.number:012d}.jpg"
            item.save(root / f"{split}2017" / file)
            width, height = item.size_wh
            content["images"].append(
                {"id": 100 + item.number, "file_name": file, "width": width, "height": height}
            )
            for shape in item.shapes:
                x0, y0, x1, y1 = shape.box
                record = {"id": len(content["annotations"]), "image_id": 100 + item.number, "iscrowd": 0}
                box = {"category_id": 3 * shape.label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
                content["annotations"].append(record | box)
        _lines(root / "annotations" / f"instances_{split}2017.json", [json.dumps(content, indent=1)])
    return drawn


def write_yolo_fixture(
    root: Path, *, classes: int = 3, per_class: int = 4, side: int = 48, seed: int = 0
) -> Drawn:
    """ultralytics' layout: data.yaml, images/SPLIT, labels/SPLIT; in every third image a second class."""
    drawn = dict(_splits("train val", seed, classes=classes, per_class=per_class, side=side, mixed=True))
    for split, items in drawn.items():
        for item in items:
            item.save(root / "images" / split / f"{item.number:04d}.jpg")
            width, height = item.size_wh
            lines = []
            for shape in item.shapes:
                x0, y0, x1, y1 = shape.box
                shares = (
                    (x0 + x1) / 2 / width,
                    (y0 + y1) / 2 / height,
                    (x1 - x0) / width,
                    (y1 - y0) / height,
                )
                lines.append(_joined(" ", shape.label, *shares))
            _lines(root / "labels" / split / f"{item.number:04d}.txt", lines)
    about = ["path: /where/it/was/made", "train: images/train", "val: images/val", "names:"]
    _lines(root / "data.yaml", [*about, *(f"  {i}: {name}" for i, name in enumerate(names(classes)))])
    return drawn


def write_svt_fixture(
    root: Path, *, classes: int = 1, per_class: int = 4, side: int = 48, seed: int = 0
) -> Drawn:
    """Street View Text: img/, and one XML file per split with a rectangle for every shape; one class."""
    drawn = dict(_splits("train test", seed, classes=classes, per_class=per_class, side=side))
    for split, items in drawn.items():
        lines = ["<tagset>"]
        for item in items:
            file = f"img/{split}_{item.number:04d}.jpg"
            item.save(root / file)
            lines += ["<image>", f"<imageName>{file}</imageName>", "<taggedRectangles>"]
            for x0, y0, x1, y1 in (shape.box for shape in item.shapes):
                size = f'width="{x1 - x0}" height="{y1 - y0}"'
                lines.append(f'<taggedRectangle x="{x0}" y="{y0}" {size}><tag>A</tag></taggedRectangle>')
            lines += ["</taggedRectangles>", "</image>"]
        _lines(root / f"{split}.xml", [*lines, "</tagset>"])
    return drawn


def write_cvat_fixture(
    root: Path, *, classes: int = 3, per_class: int = 4, side: int = 48, seed: int = 0
) -> Drawn:
    """CVAT for images: annotations.xml, images/SUBSET; in every third image a second class."""
    drawn = dict(_splits("train val", seed, classes=classes, per_class=per_class, side=side, mixed=True))
    known = "".join(f"<label><name>{name}</name><color>#fff</color></label>" for name in names(classes))
    lines = [f"<annotations><version>1.1</version><meta><project><labels>{known}</labels></project></meta>"]
    for split, items in drawn.items():
        for item in items:
            file, (width, height) = f"{item.number:04d}.jpg", item.size_wh
            item.save(root / "images" / split / file)
            lines.append(f'<image id="0" name="{file}" subset="{split}" width="{width}" height="{height}">')
            for shape in item.shapes:
                x0, y0, x1, y1 = shape.box
                edges = f'xtl="{x0:.2f}" ytl="{y0:.2f}" xbr="{x1:.2f}" ybr="{y1:.2f}"'
                lines.append(
                    f'<box label="{names(classes)[shape.label]}" {edges}><attribute name="a">1</attribute></box>'
                )
            lines.append("</image>")
    _lines(root / "annotations.xml", [*lines, "</annotations>"])
    return drawn


def write_label_studio_fixture(
    root: Path, *, classes: int = 3, per_class: int = 4, side: int = 48, seed: int = 0
) -> Drawn:
    """Label Studio's JSON export, photos as uploaded: project-1.json, images/; in every third image a second class."""
    drawn = dict(_splits("all", seed, classes=classes, per_class=per_class, side=side, mixed=True))
    tasks = []
    for item in drawn["all"]:
        file, (width, height) = f"{item.number:04d}.jpg", item.size_wh
        item.save(root / "images" / file)
        regions = [{"type": "choices", "value": {"choices": ["good"]}}]
        for shape in item.shapes:
            x0, y0, x1, y1 = shape.box
            value = {"x": 100 * x0 / width, "y": 100 * y0 / height, "rotation": 0}
            value |= {"width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height}
            value["rectanglelabels"] = [names(classes)[shape.label]]
            size = {"original_width": width, "original_height": height}
            regions.append({"type": "rectanglelabels", "value": value, **size})
        task = {"id": item.number, "data": {"image": f"/data/upload/1/0123abcd-{file}"}}
        tasks.append(task | {"annotations": [{"result": regions}], "predictions": []})
    (root / "project-1.json").write_text(json.dumps(tasks))
    return drawn


def write_wsol_fixture(
    root: Path,
    *,
    name: str = "CUB",
    masks: bool = False,
    classes: int = 3,
    per_class: int = 4,
    side: int = 48,
    seed: int = 0,
) -> Drawn:
    """wsolevaluation: ``metadata/NAME`` and ``dataset/NAME``, with inclusive boxes or, as OpenImages, masks.

    The ignore mask of an image is its first column of pixels. The proxy list has every second image.
    """
    drawn = dict(_splits("train val test", seed, classes=classes, per_class=per_class, side=side))
    for split, items in drawn.items():
        folder, images = root / "metadata" / name / split, root / "dataset" / name
        ids = [f"{split}/{item.label}/{item.number:04d}.jpg" for item in items]
        truth = []
        for image_id, item in zip(ids, items, strict=True):
            item.save(images / image_id)
            if masks:
                truth += _write_masks(images, image_id, item)
            else:
                truth += [_joined(",", image_id, *shape.inclusive) for shape in item.shapes]
        _lines(folder / "image_ids.txt", ids)
        _lines(folder / "image_ids_proxy.txt", ids[::2])
        _lines(
            folder / "class_labels.txt", [f"{key},{item.label}" for key, item in zip(ids, items, strict=True)]
        )
        if not masks:
            sizes = [_joined(",", key, *item.size_wh) for key, item in zip(ids, items, strict=True)]
            _lines(folder / "image_sizes.txt", sizes)
        _lines(folder / "localization.txt", truth)
    return drawn


def _write_masks(images: Path, image_id: str, item: Drawing) -> list[str]:
    """One mask a shape; the ignore mask stands in the first line of its image only, as in the original."""
    stem, rows = image_id.removesuffix(".jpg"), []
    ignore = f"{stem}_ignore.png"
    _save_mask(item.size_wh, (Shape(0, (0, 0, 1, item.size_wh[1])),), images / ignore)
    for index, shape in enumerate(item.shapes):
        _save_mask(item.size_wh, (shape,), images / f"{stem}_m{index}.png")
        rows.append(f"{image_id},{stem}_m{index}.png,{'' if index else ignore}")
    return rows
