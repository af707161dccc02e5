"""Draws the pictures of docs/gallery.md from the demo photos, which are public domain.

.venv/bin/python tools/gallery.py            # writes docs/images/gallery/*.jpg and docs/gallery.md
"""

from __future__ import annotations

import re
from pathlib import Path

import sightline
from sightline.demo_photos import photo_path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "images" / "gallery"
WIDTH = 360  # pixels; JPEG at quality 82 keeps the page under 1 MB

# title -> rows of (photo, class, method string); a page of what each method shows of the same photo
SECTIONS: dict[str, list[tuple[str, str, str]]] = {
    "One photo, two classes": [
        ("cat_and_coffee", name, method)
        for method in ("cam", "gradcam", "layercam:flip:affinity", "localise")
        for name in ("Egyptian cat", "espresso")
    ],
    "Class maps": [
        ("chelsea", "Egyptian cat", method)
        for method in (
            *("cam", "cam:nwc=true", "gradcam", "gradcam_pp", "xgradcam", "hirescam", "layercam", "fullycam"),
            *("eigencam", "eigengradcam", "finercam", "smoothgradcam_pp"),
        )
    ],
    "Perturbation": [
        ("coffee", "espresso", method)
        for method in ("scorecam:channels=64", "ablationcam", "recipro_cam", "occlusion", "rise:masks=500")
    ],
    "Pixels": [
        ("rocket", "missile", method)
        for method in ("saliency", "smoothgrad", "input_x_gradient", "integrated_gradients", "fullgrad")
    ],
    "Sharper without training": [
        ("coffee", "espresso", method)
        for method in (
            "cam",
            "cam:flip",
            "cam:scales=1,1.5,2",
            "cam:affinity",
            "cam:flip:affinity",
            "localise-fast",
        )
    ],
    "Layers, early to late": [
        ("coffee", "espresso", f"layercam:layer={layer}")
        for layer in ("blocks.1", "blocks.2", "blocks.4", "blocks.6")
    ],
}


def main() -> None:
    model = sightline.load_model()
    OUT.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Gallery",
        "",
        "Drawn by `python tools/gallery.py` with the default model from public-domain photos. The white box is the",
        "method's default box.",
    ]
    for title, rows in SECTIONS.items():
        lines += ["", f"## {title}", "", '<div class="gallery" markdown>', ""]
        for photo, category, method in rows:
            explanation = sightline.explain(model, photo_path(photo), method=method, classes=category)
            picture = explanation.overlay(0, 0)
            picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)))
            name = re.sub(r"[^a-z0-9]+", "-", f"{photo} {category} {method}".lower())
            picture.save(OUT / f"{name}.jpg", quality=82)
            alt = f"{photo}: where {method} looks for {category}"
            lines += [f"![{alt}](images/gallery/{name}.jpg)", f"`{method}`", ""]
        lines += ["</div>"]
    (ROOT / "docs" / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
