"""From one photo to millions: items, decoding in worker processes, batches of explanations, shards on disk."""

from sightline.errors import require

require("batch", "pyarrow", "fsspec", "filelock")
