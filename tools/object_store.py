"""A batch run from and into an object store which fails now and then, by both engines: as on the disk, bit for bit?

python tools/object_store.py --engine local --engine ray      # needs moto[server] and s3fs, and the extra `ray`
python tools/object_store.py --store gs                       # or az; see loopback_stores.py for what they need

Everything stays on 127.0.0.1: an emulator holds photos and results, and a proxy in front of it answers some requests
with 500 (half of them only after the store has done what was asked) and others late. Photos by a folder's URL, by a
Parquet list and in a tar. At the end, a run of the command line is killed once its first shard is there, and started
again; and in the middle of another the store is gone, which must be one line.

`--silent` instead shows how long the store's package waits for a store that takes requests and never answers.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from loopback_stores import Moody, loopback
from soak_batch import make_photos, save_model

BUCKET, SHARD = "photos", 32
GONE = 100  # requests after which the store is gone


def fill(folder: Path, protocol: str) -> None:
    """Put the photos into the bucket: singly, as a list, and as a tar."""
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.jpg"))]
    pq.write_table(pa.table({"path": names}), folder / "list.parquet")
    with tarfile.open(folder / "all.tar", "w") as archive:
        for name in names:
            archive.add(folder / name, name)
    store = fsspec.filesystem(protocol)
    store.mkdir(BUCKET)
    for name in (*names, "list.parquet", "all.tar"):
        store.pipe_file(f"{BUCKET}/{name}", (folder / name).read_bytes())


def rows(out: str, scratch: Path) -> list[dict[str, Any]]:
    """What a run found, by photo: all but where the photo was; its heatmaps and overlays by their checksums."""
    import fsspec
    import numpy as np
    from pyarrow.parquet import read_table

    if "://" in out:
        shutil.rmtree(scratch, ignore_errors=True)
        protocol, _, path = out.partition("://")
        store = fsspec.filesystem(protocol, use_listings_cache=False)
        for name in store.find(path):
            target = scratch / name.removeprefix(f"{path}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.cat_file(name))
        out = str(scratch)
    found = read_table(f"{out}/results").to_pylist()
    for row in found:
        heatmap = np.load(f"{out}/{row.pop('heatmap_file')}", mmap_mode="r")[row.pop("heatmap_row")]
        row["heatmap"] = hashlib.sha256(heatmap.tobytes()).hexdigest()
        del row["path"], row["image_id"]
    drawn = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(out).rglob("*.png"))
    return [*sorted(found, key=lambda row: (row["sha256"], row["rank"])), {"overlays": drawn}]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", default="s3", choices=["s3", "gs", "az"])
    parser.add_argument("--azurite", help="the program azurite-blob, if it is not on PATH")
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--share", type=float, default=0.05, help="of requests that fail; as many are late")
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--engine", action="append", choices=["local", "ray"])
    given = parser.parse_args()
    with loopback(given.store, given.azurite), tempfile.TemporaryDirectory() as place:
        return int(bool(_compare(Path(place), given)))


def _compare(place: Path, given: argparse.Namespace) -> int:
    from sightline import load_model
    from sightline.batch.run import engine_of, explain_batch
    from sightline.batch.worker import BatchOptions

    bucket = f"{given.store}://{BUCKET}"
    known = make_photos(place / "photos", given.photos)
    bad = sum(checksum is None for checksum in known.values())
    weights = save_model(place / "small.safetensors")
    model, options = load_model(weights), BatchOptions(shard_size=SHARD, overlays=True)
    fill(place / "photos", given.store)
    if given.silent:
        return _silent(bucket)
    local = engine_of("local", 0)
    explain_batch(model, sorted((place / "photos").glob("0*")), place / "disk", options, local)
    expected, wrong = rows(str(place / "disk"), place), 0

    def compare(name: str, source: str, out: str, engine: Any) -> None:
        nonlocal wrong
        started = time.monotonic()
        manifest = explain_batch(model, [f"{bucket}/{source}"], out, options, engine)
        whole = manifest["errors"] == bad
        counts, took = dict(Moody.counts), time.monotonic() - started
        Moody.share = 0.0
        whole = whole and rows(out, place / "copy") == expected
        Moody.share = given.share
        wrong += not whole
        print(
            f"{name}, {source} into {given.store if '://' in out else 'a folder'}: {manifest['images']} images, "
            f"{manifest['errors']} bad, {'whole' if whole else 'NOT WHOLE'}; {counts.get('requests', 0)} requests, "
            f"{counts.get('failed', 0)} failed, {counts.get('late', 0)} late; {took:.0f} s",
            flush=True,
        )
        Moody.counts.clear()

    Moody.share = given.share
    Moody.counts.clear()
    for name in given.engine or ["local"]:
        engine = engine_of("local", workers=1) if name == "local" else engine_of("ray", device="cpu")
        for source in ("000/", "list.parquet", "all.tar"):
            out = f"{name}-{source.strip('/')}"
            for where in (str(place / out), f"{bucket}/out/{out}"):
                compare(name, source, where, engine)
    _killed(_command(weights, bucket, f"{bucket}/out/killed"), f"{bucket}/out/killed")
    compare("killed, then local", "000/", f"{bucket}/out/killed", local)
    wrong += not _gone(_command(weights, bucket, str(place / "gone"), "--workers", "1"))
    compare("gone, then local", "000/", str(place / "gone"), local)
    return wrong


def _command(weights: Path, bucket: str, out: str, *more: str) -> list[str]:
    """The command line of a run like the others."""
    options = ["--model", str(weights), "--out", out, "--overlays", "--shard-size", str(SHARD)]
    workers = more or ("--workers", "0")
    return [sys.executable, "-m", "sightline", "batch", f"{bucket}/000/", *options, *workers]


def _killed(command: list[str], out: str) -> None:
    """A run that is killed with SIGKILL once its first shard is in the store."""
    import fsspec

    Moody.written.clear()
    run = subprocess.Popen(command)
    while run.poll() is None and not Moody.written.wait(0.05):
        pass
    if run.poll() is not None:
        raise RuntimeError("the run ended before it could be killed")
    run.kill()
    run.wait()
    store = fsspec.filesystem(out.partition("://")[0], use_listings_cache=False)
    there = [name.rpartition("/")[2] for name in store.find(f"{out}/results")]
    print(f"killed with {', '.join(there)} in the store", flush=True)


def _gone(command: list[str]) -> bool:
    """A run in whose middle the store is gone: whether it ends with exit code 2 and one line."""
    share, Moody.share, Moody.left = Moody.share, 0.0, GONE
    run = subprocess.run(command, capture_output=True, text=True)
    Moody.share, Moody.left = share, math.inf
    lines = run.stderr.splitlines()
    told = [line for line in lines if " tries on" not in line]  # a minute's silence may be told, too
    print(f"gone after {GONE} requests: exit code {run.returncode}; {' / '.join(lines)}", flush=True)
    return run.returncode == 2 and len(told) == 1


def _silent(bucket: str) -> int:
    """How long each kind of access waits, all at once."""
    from sightline.batch.listing import read_items
    from sightline.batch.places import place_of
    from sightline.data.items import Item
    from sightline.errors import InputError

    place, photo = place_of(f"{bucket}/out/silent"), Item("a", f"{bucket}/000/000000.jpg")
    kinds: dict[str, Callable[[], object]] = {
        "manifest": place.manifest,
        "shard": lambda: place.write("results/a.parquet", lambda file: file.write(b"1")),
        "overlays": lambda: place.write_each({"overlays/a.png": b"1"}),
        "photo": photo.read,
        "listing": lambda: read_items([f"{bucket}/000/"]),
    }

    def wait(kind: str) -> None:
        started = time.monotonic()
        try:
            kinds[kind]()
        except InputError as error:
            print(f"{kind}: gave up after {time.monotonic() - started:.0f} s: {error}", flush=True)

    Moody.left, Moody.silent = 0, True
    threads = [threading.Thread(target=wait, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
