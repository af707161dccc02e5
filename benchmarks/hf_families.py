"""A small random network of every image classifier in transformers: `AutoModelForImageClassification` and its variants.

Each family's configuration is shrunk by what differs from its defaults; the modules are those of the published models.
"""

from __future__ import annotations

from typing import Any

_VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 64,
    "patch_size": 8,
}
_STAGES = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
_PVT = {**_STAGES, "num_attention_heads": [1, 2, 2, 4]}
_SWIN = {"image_size": 64, "embed_dim": 8, "depths": [1, 2, 1], "num_heads": [1, 2, 2], "window_size": 4}
_TEXT = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}

# family: what differs from its default configuration; three classes where it does not say.
SMALL: dict[str, dict[str, Any]] = {
    "beit": _VIT,
    "bit": {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1], "num_groups": 8},
    "clip": {"vision_config": _VIT},
    "convnext": _STAGES,
    "convnextv2": _STAGES,
    "cvt": {"embed_dim": [8, 16, 32], "depth": [1, 2, 3], "num_heads": [1, 2, 2]},
    "data2vec-vision": _VIT,
    "deit": _VIT,
    "dinov2": _VIT,
    "dinov2_with_registers": {**_VIT, "num_register_tokens": 2},
    "donut-swin": _SWIN,
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    "focalnet": {**_SWIN, "depths": [1, 1, 1], "hidden_sizes": [8, 16, 32], "focal_levels": [1, 1, 1],
                 "focal_windows": [3, 3, 3]},
    "hiera": {"image_size": [64, 64], "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]},
    "ijepa": _VIT,
    "imagegpt": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 513},
    "levit": {"image_size": 224, "hidden_sizes": [16, 32, 48], "num_attention_heads": [1, 2, 3], "depths": [1, 1, 1],
              "key_dim": [8, 8, 8]},
    "metaclip_2": {"vision_config": _VIT},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "mobilevit": {"image_size": 128, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64]},
    "mobilevitv2": {"image_size": 128, "width_multiplier": 0.25},
    "perceiver": {"num_latents": 8, "d_latents": 16, "num_blocks": 1, "num_self_attends_per_block": 1,
                  "num_self_attention_heads": 1, "num_cross_attention_heads": 1, "image_size": 32},
    "poolformer": _STAGES,
    "pp_lcnet": {"scale": 0.25},
    "pvt": {**_PVT, "image_size": 64},
    "pvt_v2": {**_PVT, "image_size": 64},
    "regnet": {**_STAGES, "embedding_size": 8, "groups_width": 8},
    "resnet": {**_STAGES, "embedding_size": 8, "layer_type": "basic"},
    "segformer": {**_PVT, "decoder_hidden_size": 16},
    "shieldgemma2": {"text_config": _TEXT, "vision_config": _VIT, "mm_tokens_per_image": 16, "image_token_index": 60,
                     "yes_token_index": 5, "no_token_index": 7},
    "siglip": {"vision_config": _VIT},
    "siglip2": {"vision_config": {**_VIT, "num_patches": 64}},
    "swiftformer": {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 16, 32]},
    "swin": _SWIN,
    "swinv2": _SWIN,
    "timm_wrapper": {"architecture": "test_vit"},
    "vit": _VIT,
    "vit_msn": _VIT,
}  # fmt: skip
# Further inputs that are held fixed: here a place for each of the image's 16 tokens between those of a text.
HELD = {"shieldgemma2": {"input_ids": [2, *[60] * 16, 3, 4], "attention_mask": [1] * 19}}
_SIDES = {  # 160: the others
    "perceiver": 32,
    **dict.fromkeys(
        ("beit", "clip", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers", "donut-swin", "focalnet",
         "hiera", "ijepa", "imagegpt", "metaclip_2", "pvt", "pvt_v2", "shieldgemma2", "siglip", "siglip2", "swin",
         "swinv2", "vit", "vit_msn"), 64),
    **dict.fromkeys(("cvt", "mobilevit", "mobilevitv2"), 128),
    **dict.fromkeys(("levit", "PerceiverForImageClassificationConvProcessing"), 224),
}  # fmt: skip


def classifiers() -> dict[str, str]:
    """'hf/CLASS' -> its family, for every class that `AutoModelForImageClassification` may give."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KINDS

    found = {}
    for family, made in KINDS.items():
        for name in made if isinstance(made, tuple) else (made,):
            found[f"hf/{name}"] = family
    return found


def build_small(name: str) -> tuple[Any, int, str]:
    """The network with random weights, the side of its images, and its family.

    Weights are drawn with a spread that keeps what goes through: with transformers' own 0.02 small networks die out.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    kind, family = name.partition("/")[2], classifiers()[name]
    options = {"num_labels": 3, **SMALL.get(family, {})}
    net = getattr(transformers, kind)(transformers.AutoConfig.for_model(family, **options)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
        make_attention_local(net)
    if family in HELD:
        from sightline.inspection.inputs import holding

        net = holding(net, {argument: torch.tensor([ids]) for argument, ids in HELD[family].items()}, 1)
    return net, _SIDES.get(kind, _SIDES.get(family, 160)), family


def make_attention_local(net: Any) -> None:
    """Biases that make a position look at those near it, in LeViT's attention: random ones move every cell alike.

    ``attention_bias_idxs`` (queries, keys) says which bias belongs to a pair of positions of two square grids.
    """
    import torch

    for module in net.modules():
        pairs = getattr(module, "attention_bias_idxs", None)
        if pairs is None:
            continue
        sides = [round(count**0.5) for count in pairs.shape]
        points = [torch.cartesian_prod(torch.arange(s), torch.arange(s)) * (sides[1] / s) for s in sides]
        module.attention_biases[:, pairs] = -torch.cdist(points[0], points[1])
