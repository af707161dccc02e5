"""`tools/soak_batch.py` in small: killed in the middle, with a second run on its folder, and whole in the end."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import pytest

import toybatch


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "soak_batch.py"
    spec = importlib.util.spec_from_file_location("soak_batch", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_200_photos_killed_once_are_complete(
    tool: ModuleType, processes: BaseContext, tmp_path: Path
) -> None:
    def start(arguments: Sequence[str], said: Path) -> BaseProcess:
        process = processes.Process(target=toybatch.command_line, args=(arguments, said))
        process.start()
        return process

    assert tool.soak(tmp_path, photos=200, kills=1, shard=8, start=start) == []


def test_the_tool_notices_what_is_wrong(tool: ModuleType, processes: BaseContext, tmp_path: Path) -> None:
    known = tool.make_photos(tmp_path / "photos", 40)
    model = tool.save_model(tmp_path / "small.safetensors")
    command = ["batch", str(tmp_path / "photos"), "--model", str(model), "--workers", "0"]
    process = processes.Process(
        target=toybatch.command_line, args=([*command, "--out", str(tmp_path / "out")], tmp_path / "said.txt")
    )
    process.start()
    process.join()
    good = [name for name, checksum in known.items() if checksum is not None]
    bad = [name for name, checksum in known.items() if checksum is None]
    assert tool.faults(tmp_path / "out", known) == []
    assert len(tool.faults(tmp_path / "out", {**known, good[0]: None})) == 2
    assert len(tool.faults(tmp_path / "out", {**known, bad[0]: "1"})) == 2
    (tmp_path / "out" / "results" / ".part-00001.parquet.part").write_bytes(b"")
    assert len(tool.faults(tmp_path / "out", known)) == 1
