# %% [markdown]
# # Your own network
#
# `explain` takes any `torch.nn.Module`. The target layer, its layout and the head are found from what the network
# computes, and verified on every pass; what cannot be verified is refused in one line.

# %%
import PIL.Image
import torch
from torch import nn
from torchvision.models import resnet18

import sightline
from sightline.models.preprocess import Preprocess

torch.manual_seed(0)
SIDE = 48

# %% [markdown]
# ## A fine-tuned ResNet
#
# A tiny data set: an orange disc or a blue square, somewhere on grey. Take your own weights instead of random ones
# (`resnet18(weights="DEFAULT")`); this notebook must run without a network.


# %%
def photo(label: int, x: int, y: int) -> PIL.Image.Image:
    from PIL import ImageDraw

    found = PIL.Image.new("RGB", (SIDE, SIDE), (120, 120, 120))
    draw = (ImageDraw.Draw(found).ellipse, ImageDraw.Draw(found).rectangle)[label]
    draw((x, y, x + 20, y + 20), fill=((230, 120, 20), (30, 60, 220))[label])
    return found


places = [(n % 2, (7 * n) % 27, (11 * n) % 27) for n in range(16)]
photos, labels = [photo(*place) for place in places], torch.tensor([label for label, _, _ in places])

# %%
network = resnet18(weights=None)
network.fc = nn.Linear(512, 2)
transform = Preprocess((SIDE, SIDE), SIDE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
x = torch.stack([transform.prepare(one)[0] for one in photos])
optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
network.train()
for _step in range(8):
    loss = nn.functional.cross_entropy(network(x), labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(f"loss {loss.item():.3f}")

# %% [markdown]
# Wrap it once with its transform and its class names; then photos go in, and boxes in photo pixels come out.

# %%
model = sightline.load_model(network, transform=transform, categories=["disc", "square"])
found = sightline.explain(model, photo(0, 24, 6), method="gradcam", classes="top2")
print(found)
print("layer:", found.layers, "box:", found.boxes()[0][0].tolist())
found

# %% [markdown]
# ## A vision transformer
#
# The layer, its 6×6 grid and the class token are found from what runs. Attention methods work as well.

# %%
import timm

vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=2, img_size=96)
image = torch.rand(1, 3, 96, 96)
for method in ("gradcam", "attention_rollout"):
    print(sightline.explain(vit, image, method=method))

# %% [markdown]
# ## A Hugging Face model
#
# Its output is not a tensor but has `logits`: these are explained.

# %%
try:
    from transformers import ViTConfig, ViTForImageClassification
except ImportError:
    print("pip install 'sightline-cam[hf]' for this part")
else:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    hugging = ViTForImageClassification(ViTConfig(**size, image_size=64, patch_size=8, num_labels=3))
    print(sightline.explain(hugging, torch.rand(1, 3, 64, 64), method="gradcam"))
