# %% [markdown]
# # A first heatmap
#
# Where does a classifier look, and can it therefore find the object? The default model (EfficientNet-Lite0, ImageNet's
# 1,000 classes) and the photo come with the package, so this runs offline.

# %%
import sightline
from sightline.demo_photos import photo_path

model = sightline.load_model()
explanation = sightline.explain(model, photo_path("cat_and_coffee"), classes=["Egyptian cat", "espresso"])
explanation  # in a notebook: the panel; as text: two lines

# %% [markdown]
# One forward pass gave both columns. The network was never shown a box: each box is the largest region whose heat is at
# least 20 % of the maximum (Zhou et al. 2016, section 3.2).

# %%
for seen in explanation.predictions()[0]:
    print(f"{seen.category}: {seen.score:.1%}, box {[round(x) for x in seen.boxes_xyxy[0].tolist()]}")

# %% [markdown]
# The same as a table, with another threshold:

# %%
explanation.to_dataframe(threshold=0.5)[["category", "score", "x0", "y0", "x1", "y1"]]

# %% [markdown]
# Other methods see other things. `with_method` explains the same photo again; `localise` is the method for boxes.

# %%
for method in ("cam", "layercam", "localise-fast"):
    again = explanation.with_method(method)
    print(method, [round(x) for x in again.boxes()[0][0][0].tolist()])

# %% [markdown]
# Sliders for class, method and threshold. Moving the threshold moves the box without computing the map again.

# %%
explorer = explanation.explore()
explorer.threshold.value = 0.6  # what the slider does
print(explorer.note.value)
explorer

# %% [markdown]
# Pictures, a manifest, and annotations:

# %%
folder = explanation.save("out/first-heatmap")
print(sorted(path.name for path in folder.iterdir()))
print(explanation.to_coco()["annotations"][0]["bbox"])
