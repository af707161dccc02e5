"""Batch mode, for up to millions of photos: listing, decoding in worker processes, explaining, shards on disk."""

from sightline.errors import require

require("batch", "pyarrow", "fsspec")
