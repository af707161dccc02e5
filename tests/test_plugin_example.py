"""The example distribution: its metadata alone, on `sys.path`, makes its method and its metric known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import sightline
from sightline import plugins
from sightline.methods import unregister_method
from sightline.metrics.registry import get_metric, unregister_metric

EXAMPLE = Path(__file__).parents[1] / "examples" / "sightline-plugin-example"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What an installer would write: the entry points of pyproject.toml, beside the code."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / f"sightline_plugin_example-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLE / "src")
    monkeypatch.delitem(sys.modules, "sightline_plugin_example", raising=False)
    plugins.search_again()
    yield
    unregister_method("energycam")
    unregister_metric("spread")


@pytest.mark.usefixtures("installed")
def test_its_method_and_its_metric_are_found_and_right() -> None:
    assert sightline.list_methods()["energycam"] == "an example"
    assert sightline.list_metrics()["spread"].startswith("How large a share")
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    images = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    found = sightline.explain(net, images, method="energycam", power=1.0).maps[:, 0]
    torch.testing.assert_close(found, net[0](images).abs().sum(1))
    heatmaps = torch.tensor([[[0.5, 0.45], [0.05, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    scores = get_metric("spread").function(None, images, heatmaps)  # type: ignore[arg-type]
    assert scores["spread"].tolist() == [0.5, 1.0]
