"""Boxes and masks as annotation teams keep them: one object, and one file per format."""

from sightline.labels.types import Label, LabelledPhoto, Labels

__all__ = ["Label", "LabelledPhoto", "Labels"]
