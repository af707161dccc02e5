"""Data sets in their official layouts, one adapter per file, read without conversion."""

from sightline.data.registry import (
    detect_dataset,
    get_dataset,
    list_datasets,
    load_dataset,
    parse_data_options,
    register_dataset,
    unregister_dataset,
)

__all__ = [
    "detect_dataset",
    "get_dataset",
    "list_datasets",
    "load_dataset",
    "parse_data_options",
    "register_dataset",
    "unregister_dataset",
]
