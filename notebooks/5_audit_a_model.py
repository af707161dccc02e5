# %% [markdown]
# # Audit a model
#
# A classifier can be right for the wrong reason. Here one is trained on photos in which class *ship* always carries a
# watermark in the corner. Its accuracy is perfect, and its heatmaps give it away. Needs the extra `evaluate`.

# %%
import random

import PIL.Image
import torch
from PIL import ImageDraw
from torch import nn

import sightline
from sightline.evaluation.audit import audit
from sightline.models.preprocess import Preprocess
from sightline.types import Dataset, Sample

SIDE, CLASSES = 48, ("plane", "ship")


# %% [markdown]
# The two objects differ only a little; the watermark differs a lot.


# %%
def sample(number: int, watermark: bool = True) -> Sample:
    rng, label = random.Random(number), number % 2
    photo = PIL.Image.new("RGB", (SIDE, SIDE), (rng.randint(100, 140),) * 3)
    pen = ImageDraw.Draw(photo)
    x, y = rng.randint(14, 30), rng.randint(14, 30)
    (pen.ellipse, pen.rectangle)[label]((x, y, x + 13, y + 13), fill=(200, 190, 170))
    if label and watermark:
        pen.rectangle((1, 1, 8, 4), fill=(250, 20, 20))
    return Sample(f"{CLASSES[label]} {number}", photo, label, torch.tensor([[x, y, x + 14, y + 14]]).float())


train = [sample(n) for n in range(64)]
val = Dataset("marked photos", "val", [sample(n) for n in range(100, 132)], CLASSES)

# %%
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 12, 5, 2, 2), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2),
)  # fmt: skip
transform = Preprocess((SIDE, SIDE), SIDE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
x = torch.stack([transform.prepare(one.source)[0] for one in train])
y = torch.tensor([one.label for one in train])
optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
for _step in range(80):
    loss = nn.functional.cross_entropy(network(x), y)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
model = sightline.load_model(network, transform=transform, categories=list(CLASSES))

# %% [markdown]
# ## Accuracy sees nothing; the heat does

# %%
found = audit(model, val, method="cam", checked=4)
print(f"accuracy {found.metrics['accuracy']:.0%}")
for one in found.suspects:
    print(f"suspect: {one.category}: {'; '.join(one.reasons)}")
assert [one.category for one in found.suspects] == ["ship"]

# %% [markdown]
# All the heat of *ship* is at the watermark. *plane* has no heat at all: to this network a plane is what has no watermark.

# %%
for one in found.classes:
    print(f"{one.category}: {one.means['blank']:.0%} of the maps without heat")
sightline.explain(model, [one.source for one in val.samples[1:6:2]], method="cam", classes="ship")

# %% [markdown]
# ## The proof: take the watermark away

# %%
clean = Dataset("clean photos", "val", [sample(n, watermark=False) for n in range(100, 132)], CLASSES)
without = audit(model, clean, method="cam", checked=0)
print(f"accuracy without the watermark: {without.metrics['accuracy']:.0%}")
assert without.metrics["accuracy"] < 0.75 < found.metrics["accuracy"]

# %% [markdown]
# ## On paper
#
# One page that opens without a network, `audit.json` beside it, and conditions on which a build can fail. On the command
# line: `sightline audit --data photos -m mine.safetensors --fail-if 'heat_in_box<0.5'`.

# %%
failed = found.failed(["suspects>0", "heat_in_box<0.5"])
print(failed)
print(found.save("out/audit", failed))
