"""What a run leaves behind: files that are whole or not there at all, and the manifest that explains them."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
from pathlib import Path
from typing import Any

import PIL.Image

MANIFEST = "manifest.json"


def write_atomically(path: str | Path, data: bytes | str) -> Path:
    """Write ``data`` to ``path`` under another name first: a full disk or Ctrl-C leaves no half of a file.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_atomically(folder / "deep" / "note.txt", "whole").read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[:200]}.{os.getpid()}.part")
    try:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def save_picture(picture: PIL.Image.Image, path: str | Path) -> Path:
    """Write a picture, in the format of the path's suffix, whole or not at all."""
    path, buffer = Path(path), io.BytesIO()
    picture.save(buffer, PIL.Image.registered_extensions()[path.suffix.lower()])
    return write_atomically(path, buffer.getvalue())


def save_manifest(folder: str | Path, manifest: dict[str, Any]) -> Path:
    """Write ``manifest.json`` into the folder; see `as_json`."""
    return write_atomically(Path(folder) / MANIFEST, as_json(manifest) + "\n")


def as_json(content: Any) -> str:
    """Strict JSON (no NaN), two spaces; tensors as lists, paths as strings.

    >>> import torch
    >>> print(as_json({"box": torch.tensor([0., 1.5])}))
    {
      "box": [
        0.0,
        1.5
      ]
    }
    """
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def versions() -> dict[str, str]:
    """The versions that decide a result: sightline, Python, and the libraries that compute.

    >>> sorted(versions())
    ['numpy', 'opencv-python-headless', 'pillow', 'python', 'sightline', 'timm', 'torch', 'torchvision']
    """
    libraries = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless")
    found = {"sightline": _version("sightline"), "python": platform.python_version()}
    return found | {name: _version(name) for name in libraries}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
