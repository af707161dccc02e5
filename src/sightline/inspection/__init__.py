"""What a network computes, found by running it: structure, layout, head, tail, receptive field."""
