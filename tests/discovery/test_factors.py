"""Deep feature factorisation: known factors found again, slow multiplicative updates, the classifier's answers."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest
import torch

import sightline
from sightline.discovery.factors import answers, factorise, photo_factors
from sightline.errors import InputError
from sightline.methods import get_method
from sightline.methods.observation import observe_for
from sightline.models.preprocess import Preprocess
from sightline.pictures.factors import COLOURS, painted
from toynets import build, make_images


def multiplicative_updates(a: torch.Tensor, h: torch.Tensor, w: torch.Tensor, steps: int) -> float:
    """Lee & Seung 2001: W ← W ⊙ HᵀA / HᵀHW, H ← H ⊙ AWᵀ / HWWᵀ; the relative error after ``steps``."""
    for _ in range(steps):
        w = w * (h.T @ a) / (h.T @ h @ w).clamp(min=1e-12)
        h = h * (a @ w.T) / (h @ w @ w.T).clamp(min=1e-12)
    return float((a - h @ w).norm() / a.norm())


def test_known_factors_are_found_again() -> None:
    # Each concept alone somewhere: the factors are unique but for order and scale.
    generator = torch.Generator().manual_seed(0)
    components = torch.rand(3, 8, generator=generator, dtype=torch.float64)
    maps = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    for r in range(3):
        maps[0, :, 0, r] = 0
        maps[0, r, 0, r] = 1
        components[:, r] = 0
        components[r, r] = 1
    found, parts, error = factorise(torch.einsum("nrhw,rc->nchw", maps, components), 3, iterations=20000)
    assert error < 1e-3
    order = [int(parts[:, r].argmax()) for r in range(3)]
    assert sorted(order) == [0, 1, 2]
    torch.testing.assert_close(found[:, order], maps, rtol=0, atol=2e-2)
    torch.testing.assert_close(parts[order], components, rtol=0, atol=2e-2)


def test_the_error_is_that_of_slow_multiplicative_updates() -> None:
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(2, 6, 4, 4, generator=generator, dtype=torch.float64) - 0.2
    maps, components, error = factorise(a, 3)
    rows = a.clamp(min=0).permute(0, 2, 3, 1).reshape(-1, 6)
    product = torch.einsum("nrhw,rc->nchw", maps, components)
    assert error == pytest.approx(float((a.clamp(min=0) - product).norm() / rows.norm()), abs=1e-9)
    starts = [
        (torch.rand(32, 3, generator=generator), torch.rand(3, 6, generator=generator)) for _ in range(5)
    ]
    slow = min(multiplicative_updates(rows, h.double(), w.double(), 500) for h, w in starts)
    assert error <= slow * 1.02
    assert maps.min() >= 0
    assert components.min() >= 0
    torch.testing.assert_close(maps.amax((0, 2, 3)), torch.ones(3, dtype=torch.float64))


def test_rank_one_by_hand() -> None:
    # A = (1, 2, 4) at places times (3, 0, 1) over channels: H = (1/4, 1/2, 1), W = 4 · (3, 0, 1).
    a = torch.tensor([1.0, 2, 4])[None, None, None] * torch.tensor([3.0, 0, 1])[None, :, None, None]
    maps, components, error = factorise(a, 1)
    torch.testing.assert_close(maps, torch.tensor([[[[0.25, 0.5, 1]]]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(components, torch.tensor([[12.0, 0, 4]]), atol=1e-4, rtol=0)
    assert error < 1e-6


def test_the_answer_on_an_averaging_head_is_that_of_the_component() -> None:
    net, x = build("gap"), make_images()
    evidence, _ = observe_for(get_method("eigencam"), net, x)
    components = torch.rand(4, 6, dtype=torch.float64)
    torch.testing.assert_close(answers(evidence, components), net.fc(components).detach())


def test_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="rank=9; expected 1 to 2"):
        factorise(torch.rand(1, 2, 3, 3), 9)
    with pytest.raises(InputError, match="nothing above 0"):
        factorise(-torch.ones(1, 2, 3, 3), 1)
    with pytest.raises(InputError, match="2 maps and 1 colours"):
        painted(PIL.Image.new("RGB", (4, 4)), torch.rand(2, 2, 2), COLOURS[:1])


def test_photos_get_maps_names_and_a_picture(tmp_path: Path) -> None:
    net = build("gap", dtype=torch.float32)
    model = sightline.load_model(
        net, transform=Preprocess((16, 16), resize=16), categories=["a, b", "c", "d", "e"]
    )
    generator = torch.Generator().manual_seed(0)
    photos = [
        PIL.Image.fromarray(
            torch.randint(0, 256, (20, 30, 3), generator=generator, dtype=torch.uint8).numpy()
        )
        for _ in range(3)
    ]
    result, found = photo_factors(model, [*photos, tmp_path / "gone.jpg"], 2, batch_size=2)
    assert found.maps.shape == (3, 2, 8, 8)
    assert found.components.shape == (2, 6)
    torch.testing.assert_close(found.logits, net.fc(found.components).detach())
    assert len(result.rows) == 2
    assert result.settings["images"] == 3
    assert [row["classes"][0] in ("a, b", "c", "d", "e") for row in result.numbers] == [True, True]
    assert sum(row["share"] for row in result.numbers) == pytest.approx(1)
    assert list(result.skipped) == [str(tmp_path / "gone.jpg")]
    assert {path.name for path in result.save(tmp_path / "out")} >= {
        "factors.png",
        "table.md",
        "manifest.json",
    }
