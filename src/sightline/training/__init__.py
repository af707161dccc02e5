"""Training on image labels, and on boxes from a classifier's own maps."""

from sightline.errors import require

require("train", "lightning")
