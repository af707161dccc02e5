"""Training on image labels, and on the boxes that the maps of a classifier give."""

from sightline.errors import require

require("train", "lightning")
