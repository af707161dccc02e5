"""From one photo to millions: items, decoding in worker processes, batches of explanations, shards on disk."""
