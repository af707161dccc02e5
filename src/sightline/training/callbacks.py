"""End-of-epoch callbacks: a line in the log, and a file to resume an interrupted run from."""

from __future__ import annotations

import csv
import io
import os
import time
from pathlib import Path
from typing import Any

import lightning

from sightline.files import read_text, reading
from sightline.reports.output_folder import write_atomically
from sightline.training.base import Diverged

COLUMNS = ("epoch", "side", "lr", "loss", "accuracy", "seconds")


class EpochLog(lightning.Callback):
    """Appends epoch, photo side, rate, mean loss and test accuracy to ``log.csv``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = 0.0

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        epoch, metrics = (
            trainer.current_epoch,
            trainer.callback_metrics,
        )  # the means are over all processes
        if not trainer.is_global_zero:
            return
        rows = [row for row in read_log(self.path) if int(row["epoch"]) < epoch]
        rows.append(
            {
                "epoch": str(epoch),
                "side": str(module.recipe.side(epoch)),
                "lr": f"{trainer.optimizers[0].param_groups[0]['lr']:.6f}",
                "loss": f"{float(metrics['loss']):.6f}",
                "accuracy": f"{float(metrics['accuracy']):.4f}" if "accuracy" in metrics else "",
                "seconds": f"{time.perf_counter() - self.started:.1f}",
            }
        )
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, lambda file: file.write(text.getvalue().encode()))


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a ``log.csv``; empty if there is no file."""
    if not path.exists():
        return []
    with reading(path):
        return list(csv.DictReader(io.StringIO(read_text(path), newline="")))


class ResumeFile(lightning.Callback):
    """Writes ``resume.ckpt`` after each epoch, atomically: an interruption leaves the last complete file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if not all(bool(p.isfinite().all()) for p in module.network.parameters()):
            raise Diverged(
                f"the weights are no longer finite after epoch {trainer.current_epoch}; the last good "
                f"checkpoint is kept in {self.path.parent}: try a lower optimiser.lr"
            )
        partial = self.path.with_name(f".{self.path.name}.part")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.replace(partial, self.path)
