# %% [markdown]
# # The paper in code
#
# Every equation of four papers beside the line that computes it, with plain PyTorch, and the picture it makes. Each is
# compared with this package's method.
#
# 1. Zhou et al., *Learning Deep Features for Discriminative Localization*, CVPR 2016
# 2. Selvaraju et al., *Grad-CAM*, ICCV 2017
# 3. Song et al., *Fully-CAM*, IEEE Access 2022 (from the paper's description; its equations were not available)
# 4. Bae et al., *Rethinking Class Activation Mapping*, ECCV 2020

# %%
import torch
import torch.nn.functional as F

import sightline
from sightline.demo_photos import photo_path
from sightline.pictures.overlay import overlay

model = sightline.load_model()
explanation = sightline.explain(model, photo_path("cat_and_coffee"), method="cam", classes=["Egyptian cat"])
photo, c = explanation.photo(0), int(explanation.classes[0, 0])
network, x = model.network, model.preprocess.prepare(photo)[0][None]


def picture(m):
    """A raw map (h, w) on the photo: upsampled bilinearly, then between its least and greatest value."""
    m = F.interpolate(m.detach()[None, None], x.shape[2:], mode="bilinear", align_corners=False)[0, 0]
    return overlay(photo, ((m - m.min()) / (m.max() - m.min())).clamp(0, 1))


# %% [markdown]
# The last convolution's activations $f_k(x, y)$, and the classifier's weights $w_k^c$:

# %%
kept = {}
hook = network.act2.register_forward_hook(lambda _module, _inputs, output: kept.update(f=output))
logits = network(x)
hook.remove()
f, w, b = kept["f"], network.classifier.weight, network.classifier.bias
print("f:", tuple(f.shape), " w:", tuple(w.shape))

# %% [markdown]
# ## 1. Zhou et al.: class activation mapping
#
# Global average pooling: $F_k = \frac{1}{Z}\sum_{x,y} f_k(x, y)$ (the paper writes the sum; the networks average)

# %%
F_k = f.mean((2, 3))

# %% [markdown]
# The class score: $S_c = \sum_k w_k^c F_k + b_c$

# %%
S = F_k @ w.T + b
assert torch.allclose(S, logits, atol=1e-4)

# %% [markdown]
# The probability: $P_c = \exp(S_c) / \sum_{c'} \exp(S_{c'})$

# %%
P = S.softmax(1)
assert torch.allclose(P[:, [c]], explanation.scores, atol=1e-5)
print(f"P = {P[0, c]:.1%}")

# %% [markdown]
# Equation 2, the class activation map: $M_c(x, y) = \sum_k w_k^c f_k(x, y)$, and equation 1, $S_c = \sum_{x,y} M_c(x, y)$
# (with averages: the mean of $M_c$ is $S_c - b_c$)

# %%
M = torch.einsum("k,khw->hw", w[c], f[0])
assert torch.allclose(M, explanation.maps[0, 0], atol=1e-4)
assert torch.allclose(M.mean() + b[c], S[0, c], atol=1e-4)
picture(M)

# %% [markdown]
# Section 3.2, the box: keep the values of at least 20 % of the maximum, take the largest connected region, draw the box
# that covers it. Figure 2: the channel maps that sum to the class map.

# %%
print("box:", explanation.boxes()[0][0].tolist())
parts = explanation.contributions(top=f.shape[1])
assert torch.allclose(parts.maps.sum(2)[0, 0], M, atol=1e-3)
print("strongest channels:", parts.channels[0, 0, :4].tolist())

# %% [markdown]
# Global max pooling, which the paper compares: $F_k = \max_{x,y} f_k(x, y)$. It identifies one place, not the extent.

# %%
F_max = f.amax((2, 3))
print("GMP would score", (F_max[0] @ w[c] + b[c]).item(), "where GAP scores", S[0, c].item())

# %% [markdown]
# ## 2. Grad-CAM
#
# $\alpha_k^c = \frac{1}{Z}\sum_{i,j} \partial y^c / \partial A^k_{ij}$ and $L^c = \mathrm{ReLU}(\sum_k \alpha_k^c A^k)$

# %%
A = f.detach().requires_grad_()
y = network.classifier(A.mean((2, 3)))[0, c]
g = torch.autograd.grad(y, A)[0]
alpha = g.mean((2, 3))
L = torch.einsum("k,khw->hw", alpha[0], A[0]).relu()
assert torch.allclose(L, explanation.with_method("gradcam").maps[0, 0], atol=1e-4)
picture(L)

# %% [markdown]
# On such a head $\alpha_k^c = w_k^c / Z$: Grad-CAM is ReLU(CAM)/Z, a generalisation of CAM.

# %%
Z = A.shape[2] * A.shape[3]
assert torch.allclose(L, M.relu() / Z, atol=1e-4)

# %% [markdown]
# ## 3. Fully-CAM
#
# The gradient module, for every convolution $n$: $M^n = \sum_k \mathrm{ReLU}(g^{nk}) \odot \mathrm{ReLU}(A^{nk})$. Here for
# the last one; the method takes all of them.

# %%
M_n = (g.relu() * A.relu()).sum(1)[0]
one = explanation.with_method("fullycam", layers=["act2"])
expected = F.interpolate(M_n.detach()[None, None], x.shape[2:], mode="bilinear", align_corners=False)[0, 0]
assert torch.allclose(expected / expected.max(), one.maps[0, 0], atol=1e-3)

# %% [markdown]
# The fusing module: $\sum_n \mathrm{up}(M^n) / \max$, divided by its maximum

# %%
fused = explanation.with_method("fullycam")
print(len(fused.layers), "convolutions")
picture(fused.maps[0, 0])

# %% [markdown]
# ## 4. Rethinking CAM
#
# Thresholded average pooling (TAP), instead of GAP: $p_k = \sum F_k 1[F_k > \theta \max F_k] / \#\{F_k > \theta \max F_k\}$

# %%
from sightline.models.pooling import make_pooling

positive, theta = f.relu(), 0.1
keep = positive > theta * positive.amax((2, 3), keepdim=True)
p = (positive * keep).sum((2, 3)) / keep.sum((2, 3)).clamp(min=1)
assert torch.allclose(p, make_pooling("tap", theta)(positive).flatten(1), atol=1e-5)

# %% [markdown]
# Negative weight clamping (NWC): $M_c = \sum_k \max(w_k^c, 0) A^k$

# %%
M_nwc = torch.einsum("k,khw->hw", w[c].clamp(min=0), f[0])
assert torch.allclose(M_nwc, explanation.with_method("cam", nwc=True).maps[0, 0], atol=1e-4)
picture(M_nwc)

# %% [markdown]
# Percentile as a standard for thresholding (PaS): $t = \theta_{loc} \cdot \mathrm{percentile}_i(M_c)$ instead of a share of
# the maximum

# %%
heat = explanation.heatmaps()[0, 0]
t = 0.35 * torch.quantile(heat, 0.9)
mask = explanation.masks(relative_to="percentile", threshold=0.35, percentile=90, select="all")[0, 0]
assert ((heat >= t) != mask).float().mean() < 1e-3
print(f"t = {t:.3f} of the maximum; box: {explanation.boxes(relative_to='percentile')[0][0].tolist()}")
