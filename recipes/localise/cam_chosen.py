"""CAM with its threshold chosen on the same photos, by the same rule, as those of `localise` and `localise-fast`.

sightline --plugin recipes/localise/cam_chosen.py evaluate --method cam-chosen --method localise …
"""

from sightline.methods.named import name_method
from sightline.types import BoxRule

name_method("cam-chosen", "cam", BoxRule(threshold=0.35), "CAM at the best threshold of the choosing photos")
