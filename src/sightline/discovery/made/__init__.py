"""Example data for discovery, made of real photos, in the field's own formats; the same seed, the same data."""
