"""Kernels compile where nothing can be written, too."""

from __future__ import annotations

import numba
import pytest

from sightline.metrics.compiled import compiled


def triple(x: int) -> int:
    return 3 * x


def test_a_read_only_installation_compiles_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = numba.njit, []

    def njit(function, **options):
        asked.append(options)
        if options.get("cache"):  # what numba says where neither the package nor the user's cache is writable
            raise RuntimeError("cannot cache function 'triple': no locator available")
        return real(function, **options)

    monkeypatch.setattr(numba, "njit", njit)
    assert compiled(triple)(14) == 42
    assert asked[:2] == [{"nogil": True, "cache": True}, {"nogil": True}]
