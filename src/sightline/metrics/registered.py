"""The faithfulness metrics that come with sightline, in the order of the table's columns."""

from __future__ import annotations

from torch import Tensor

from sightline.metrics import faithfulness
from sightline.metrics.pointing import energy_in_mask, pointing_game, relevance_rank_accuracy
from sightline.metrics.registry import Column, MetricContext, register_metric
from sightline.metrics.road import road
from sightline.metrics.sanity import max_sensitivity

Scores = dict[str, Tensor]
STEPS = "Insertion and deletion: {steps} steps."


@register_metric(
    "drop",
    columns={
        "average_drop": Column(
            "average drop", "↓", "max(0, Y − O)/Y, O under the heatmap (Chattopadhyay 2018)"
        ),
        "increase": Column("increase", "↑", "share of images with O > Y (Chattopadhyay 2018)"),
    },
)
def drop(context: MetricContext, images: Tensor, heatmaps: Tensor) -> Scores:
    """Average drop and increase in confidence under the heatmap (Chattopadhyay et al., WACV 2018)."""
    found = faithfulness.drop_and_increase(context.score, images, heatmaps)
    return {"average_drop": found.drop, "increase": found.increase}


@register_metric(
    "insertion",
    columns={
        "insertion": Column(
            "insertion", "↑", "area under the probability, best pixels into a blur (Petsiuk 2018)"
        )
    },
    note=STEPS,
)
def insertion(context: MetricContext, images: Tensor, heatmaps: Tensor) -> Scores:
    """Insertion: pixels replace a blurred image, most relevant first (Petsiuk et al., BMVC 2018)."""
    return {"insertion": faithfulness.insertion(context.score, images, heatmaps, context.steps).auc}


@register_metric(
    "deletion",
    columns={
        "deletion": Column(
            "deletion", "↓", "area under the probability, best pixels made mean grey (Petsiuk 2018)"
        )
    },
    note=STEPS,
)
def deletion(context: MetricContext, images: Tensor, heatmaps: Tensor) -> Scores:
    """Deletion: pixels become mean grey, most relevant first (Petsiuk et al., BMVC 2018)."""
    return {"deletion": faithfulness.deletion(context.score, images, heatmaps, context.steps).auc}


@register_metric(
    "road",
    columns={
        "road_morf": Column("ROAD MoRF", "↓", "mean probability, best pixels imputed first (Rong 2022)"),
        "road_lerf": Column("ROAD LeRF", "↑", "mean probability, worst pixels imputed first (Rong 2022)"),
        "road_combined": Column("ROAD", "↑", "(LeRF − MoRF)/2, from −50 to 50 (Rong 2022)"),
    },
)
def road_scores(context: MetricContext, images: Tensor, heatmaps: Tensor) -> Scores:
    """ROAD: pixels are removed by imputation, best first and worst first (Rong et al., ICML 2022)."""
    found = road(context.score, images, heatmaps, seed=context.seed)
    return {
        "road_morf": found.morf.mean(1),
        "road_lerf": found.lerf.mean(1),
        "road_combined": found.combined,
    }


@register_metric(
    "pointing",
    columns={
        "pointing": Column("pointing game", "↑", "the maximum lies in a true box (Zhang 2016)"),
        "energy": Column("energy in box", "↑", "share of the heat in the true boxes (Wang 2020)"),
        "rank_accuracy": Column(
            "rank accuracy", "↑", "share of the K hottest pixels in boxes of K pixels (Arras 2022)"
        ),
    },
    needs={"boxes"},
    note="Pointing game, energy and rank accuracy: the true class's map against the true boxes.",
)
def pointing(context: MetricContext, images: Tensor, heatmaps: Tensor) -> Scores:
    """Pointing game, energy in the true boxes and rank accuracy: is the heat on the object?"""
    assert context.masks is not None  # needs boxes
    return {
        "pointing": pointing_game(heatmaps, context.masks),
        "energy": energy_in_mask(heatmaps, context.masks),
        "rank_accuracy": relevance_rank_accuracy(heatmaps, context.masks),
    }


@register_metric(
    "pointing15",
    columns={
        "pointing15": Column("pointing game, 15 px", "↑", "the maximum lies within 15 pixels of a true box"),
        "pointing15_classes": Column(
            "pointing game, 15 px, mean over classes",
            "↑",
            "the same per true class, then the mean over the classes, as published (Zhang 2016)",
            class_mean_of="pointing15",
        ),
    },
    needs={"boxes"},
    default=False,
    note="Pointing game, 15 px: the published tolerance (Zhang 2016), in pixels of the network's input.",
)
def pointing15(context: MetricContext, images: Tensor, heatmaps: Tensor) -> Scores:
    """Pointing game with the published tolerance of 15 pixels (Zhang et al., ECCV 2016), over images and classes."""
    assert context.masks is not None  # needs boxes
    return {"pointing15": pointing_game(heatmaps, context.masks, tolerance=15)}


@register_metric(
    "sensitivity",
    columns={
        "sensitivity": Column(
            "max-sensitivity",
            "↓",
            "relative change under ±0.02 of noise, not in per cent (Yeh 2019)",
            share=False,
        )
    },
    default=False,
)
def sensitivity(context: MetricContext, images: Tensor, heatmaps: Tensor) -> Scores:
    """Max-sensitivity: how much the map changes under small noise (Yeh et al., NeurIPS 2019); 11 maps per image."""
    return {"sensitivity": max_sensitivity(context.explain, images, seed=context.seed)}
