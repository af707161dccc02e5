# %% [markdown]
# # Train a localiser on your folder
#
# Class folders of photos, without a single box, become a network that draws boxes. Needs the extras `train` and `notebook`.

# %%
import random
from pathlib import Path

import PIL.Image
import torch
from PIL import ImageDraw

import sightline

random.seed(0)
torch.manual_seed(0)

# %% [markdown]
# ## The folder
#
# `photos/train/CLASS/*.jpg` and `photos/val/CLASS/*.jpg`. Here they are drawn; `boxes.csv` is for scoring only, and only
# in `val`: training never sees it.

# %%
root, side = Path("photos"), 24


def draw(label: int) -> tuple[PIL.Image.Image, tuple[int, int, int, int]]:
    photo = PIL.Image.new("RGB", (side, side), (random.randint(90, 150),) * 3)
    x, y, size = random.randint(0, 12), random.randint(0, 12), random.randint(8, 11)
    pen = ImageDraw.Draw(photo)
    (pen.ellipse, pen.rectangle)[label](
        (x, y, x + size, y + size), fill=((230, 60, 20), (20, 90, 230))[label]
    )
    return photo, (x, y, x + size + 1, y + size + 1)


for split, count in (("train", 24), ("val", 8)):
    rows = ["file,x0,y0,x1,y1"]
    for label, name in enumerate(("disc", "square")):
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            photo, box = draw(label)
            photo.save(folder / f"{number}.png")
            rows.append(",".join([f"{name}/{number}.png", *map(str, box)]))
    if split == "val":
        (root / split / "boxes.csv").write_text("\n".join(rows) + "\n")

# %% [markdown]
# ## The recipe
#
# A small network from scratch. For your own photos start from published weights, such as `name: resnet50-gap`; see
# `recipes/` and `sightline train --help`.

# %%
recipe = Path("recipe.yaml")
recipe.write_text(
    """
data: {root: photos, dataset: folder, train: train, test: val}
model: {name: small-gap, options: {stem: 8, widths: [16], blocks: [1], strides: [2]}}
optimiser: {epochs: 6, batch_size: 8, lr: 0.1, head_lr_factor: 1, ema: 0.8}
augment: {sizes: {0: 24}, cutmix: 0, plain_epochs: 6}
test: {sizes: [24]}
run: {out: run, accelerator: cpu, devices: 1, progress: false, tensorboard: false, half_weights: false}
"""
)
weights = sightline.train(recipe)
print(weights)

# %% [markdown]
# ## Does it find the objects?
#
# Boxes from heatmaps, scored on `val`, with the centre box and the best constant box as baselines.

# %%
model = sightline.load_model(str(weights))
report = sightline.evaluate(model, sightline.load_dataset(root, split="val"), ["cam"], resamples=200)
print(report.markdown())

# %%
found = sightline.explain(model, sorted(str(path) for path in root.glob("val/*/0.png")), method="cam")
found

# %% [markdown]
# ## Boxes for annotators
#
# In the format of your labelling tool, with the doubtful ones listed first (`sightline boxes photos/ -m run/weights…`):

# %%
from sightline.labelling.run import label_files

manifest = label_files(model, root / "val", "labels", format="yolo", method="cam")
print(manifest["boxes"], "boxes;", Path("labels/review.csv").read_text().splitlines()[1])
