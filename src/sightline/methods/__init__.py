"""The methods, one paper per file; every file here is registered automatically at the first look-up."""

from sightline.methods.registry import (
    Method,
    get_method,
    list_methods,
    register_method,
    unregister_method,
)

__all__ = ["Method", "get_method", "list_methods", "register_method", "unregister_method"]
