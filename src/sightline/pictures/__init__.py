"""Pictures for people: overlays, panels, contact sheets, curves."""
