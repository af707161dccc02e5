"""Panels and localisation scores during anybody's training; the metrics, merged as devices merge them."""

from __future__ import annotations

import csv
import warnings
from typing import Any

import lightning
import numpy as np
import PIL.Image
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import nn

from colournet import Colours
from sightline.errors import InputError
from sightline.metrics.torch_metrics import GTKnownLocalisation, HeatInBox, HeatOnBorder, MaxBoxAccuracy
from sightline.training.watch import LocalisationLog, log_localisation

BOX = torch.tensor([[2.0, 2, 6, 6]])


def batch(n: int = 2) -> torch.Tensor:
    """Images of 8×8 with a red square at 2 to 6."""
    images = torch.zeros(n, 3, 8, 8)
    images[:, 0, 2:6, 2:6] = 1
    return images


def test_the_metrics_by_hand() -> None:
    maps, other = batch(1)[:, 0], [torch.tensor([[0.0, 0, 4, 4]])]  # IoU 4/28; a quarter of the heat
    metric = GTKnownLocalisation((8, 8))
    metric.update(maps, [BOX])
    metric.update(maps, other)
    assert float(metric.compute()) == 0.5
    heat = HeatInBox((8, 8))
    heat.update(maps, [BOX])
    heat.update(maps, other)
    assert float(heat.compute()) == pytest.approx(0.625)
    best = MaxBoxAccuracy((8, 8), deltas=(0.1, 0.5))
    best.update(maps, other)
    assert float(best.compute()) == 0.5
    border = HeatOnBorder((8, 8))
    border.update(torch.cat([maps, torch.zeros(1, 8, 8)]))
    assert float(border.compute()) == 0.0


@pytest.mark.parametrize("make", [GTKnownLocalisation, HeatInBox, MaxBoxAccuracy])
def test_states_merge_by_adding(make) -> None:
    maps = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(1))
    boxes = [BOX] * 6
    whole, left, right = (make((8, 8)) for _ in range(3))
    whole.update(maps, boxes)
    left.update(maps[:2], boxes[:2])
    right.update(maps[2:], boxes[2:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left.merge_state(right)
    assert torch.isclose(left.compute(), whole.compute())
    with pytest.raises(InputError, match="one tensor"):
        whole.update(maps, boxes[:2])


def test_the_best_threshold_is_that_of_evaluate() -> None:
    from sightline.metrics.localisation import MaxBoxAcc
    from sightline.types import Geometry

    maps = torch.rand(8, 5, 5, generator=torch.Generator().manual_seed(2))
    metric, reference = MaxBoxAccuracy((8, 8)), MaxBoxAcc("exact")
    metric.update(maps, [BOX] * 8)
    reference.update(list(maps), [BOX] * 8, [Geometry.identity((8, 8))] * 8)
    assert float(metric.compute()) == pytest.approx(reference.compute())


class Writer:
    """What TensorBoard's SummaryWriter would get."""

    def __init__(self) -> None:
        self.scalars: dict[str, tuple[float, int]] = {}
        self.images: dict[str, np.ndarray] = {}

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars[name] = (value, step)

    def add_image(self, name: str, image: np.ndarray, step: int, dataformats: str) -> None:
        assert dataformats == "HWC"
        self.images[name] = image


def test_a_plain_loop(tmp_path) -> None:
    writer, table = Writer(), tmp_path / "log.csv"
    network = Colours().train()
    for step in (0, 5):
        scores = log_localisation(
            network,
            batch(),
            torch.zeros(2).long(),
            step,
            boxes=[BOX] * 2,
            writer=writer,
            csv_file=table,
            panels=1,
        )
    assert network.training
    assert all(p.grad is None for p in network.parameters())
    assert scores == {"heat_on_border": 0.0, "accuracy": 1.0, "heat_in_box": 1.0, "gt_known": 1.0}
    assert writer.scalars["sightline/gt_known"] == (1.0, 5)
    assert list(writer.images) == ["sightline/panel0"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["step"] for row in rows] == ["0", "5"]
    with pytest.raises(InputError, match="name another file"):
        log_localisation(network, batch(), torch.zeros(2).long(), 6, csv_file=table)


class Plain(lightning.LightningModule):
    """Somebody's module, which knows nothing of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Colours()

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def train(logger: Any, epochs: int = 2, **options: Any) -> None:
    data = torch.utils.data.TensorDataset(batch(), torch.zeros(2).long())
    loader = torch.utils.data.DataLoader(data)
    log = LocalisationLog(batch(), torch.zeros(2).long(), [BOX] * 2, network="network", panels=2, **options)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=logger, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, log_every_n_steps=1, callbacks=[log],
    )  # fmt: skip
    trainer.fit(Plain(), loader, loader)


@pytest.mark.filterwarnings("ignore")  # Lightning's own, on small loaders
def test_a_lightning_training(tmp_path) -> None:
    loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "board")]
    pictures: list[Any] = []
    loggers[0].log_image = lambda key, images, step: pictures.append(
        (key, len(images), step)
    )  # as W&B's logger
    train(loggers, every=2)
    rows = list(csv.DictReader((tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()))
    assert [row["sightline/heat_in_box"] for row in rows if row.get("sightline/heat_in_box")] == ["1.0"]
    assert pictures == [("sightline/panels", 2, 2)]
    event = b"".join(path.read_bytes() for path in (tmp_path / "board").rglob("events*"))
    assert b"sightline/panel1" in event
    with pytest.raises(InputError, match="expected 1 or more"):
        LocalisationLog(batch(), torch.zeros(2).long(), every=0)


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    train(logger, epochs=1)
    scores = logger.experiment.summary["sightline/heat_in_box"]
    logger.experiment.finish()
    assert scores == 1.0
    assert list(tmp_path.rglob("media/images/sightline/panels*.png"))


@pytest.mark.filterwarnings("ignore")
def test_mlflow_in_a_folder(tmp_path, monkeypatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    train(MLFlowLogger(tracking_uri=f"file:{tmp_path}"), epochs=1)
    (score,) = tmp_path.rglob("metrics/sightline/heat_in_box")
    assert score.read_text().split()[1] == "1.0"
    assert len(list(tmp_path.rglob("*sightline-panel1*.png"))) == 1


def test_mlflow_pictures() -> None:
    """MLflow's client takes the run's name and the picture."""

    class Client:
        def log_image(self, run_id: str, image: np.ndarray, key: str, step: int) -> None:
            got.append((run_id, image.ndim, key, step))

    class Logger:
        experiment, run_id = Client(), "run"

    got: list[Any] = []
    log = LocalisationLog(batch(), torch.zeros(2).long())
    log.log_pictures(Logger(), [PIL.Image.new("RGB", (4, 4))], 3)
    assert got == [("run", 3, "sightline-panel0", 3)]
