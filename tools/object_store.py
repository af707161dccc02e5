"""A batch run from and into an S3 store which fails now and then, by both engines: as on the disk, bit for bit?

python tools/object_store.py --engine local --engine ray      # needs moto[server] and s3fs, and the extra `ray`

Everything stays on 127.0.0.1: moto's server holds photos and results, and a proxy in front of it answers some requests
with 500 and others late. Photos by a folder's URL, by a Parquet list and in a tar; at the end, a run of the command
line is killed once its first shard is there, and started again.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import logging
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parent))

from soak_batch import make_photos, save_model

BUCKET, SHARD = "photos", 32
KEYS = {"FSSPEC_S3_KEY": "any", "FSSPEC_S3_SECRET": "any", "AWS_DEFAULT_REGION": "us-east-1"}


class Moody(BaseHTTPRequestHandler):
    """Passes requests on to the store; some it answers with 500, some late."""

    protocol_version = "HTTP/1.1"
    store = ("127.0.0.1", 0)
    share = 0.0  # of the requests that fail, and of those that are late
    chance = random.Random(0)
    counts: ClassVar[Counter[str]] = Counter()

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        drawn = self.chance.random()
        self.counts["requests"] += 1
        if drawn < self.share:
            self.counts["failed"] += 1
            self._answer(500, [], b"<Error><Code>InternalError</Code></Error>")
            return
        if drawn < 2 * self.share:
            self.counts["late"] += 1
            time.sleep(0.5)
        connection = http.client.HTTPConnection(*self.store)
        connection.request(self.command, self.path, body, dict(self.headers))
        found = connection.getresponse()
        content = found.read()
        self._answer(found.status, found.getheaders(), content)
        connection.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def fill(folder: Path) -> None:
    """Put the photos into the bucket: singly, as a list, and as a tar."""
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.jpg"))]
    pq.write_table(pa.table({"path": names}), folder / "list.parquet")
    with tarfile.open(folder / "all.tar", "w") as archive:
        for name in names:
            archive.add(folder / name, name)
    store = fsspec.filesystem("s3")
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
        fsspec.filesystem("s3", use_listings_cache=False).get(
            f"{out.partition('://')[2]}/", f"{scratch}/", recursive=True
        )
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
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--share", type=float, default=0.05, help="of requests that fail; as many are late")
    parser.add_argument("--engine", action="append", choices=["local", "ray"])
    given = parser.parse_args()
    from moto.server import ThreadedMotoServer

    wrong = 0
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    Moody.store = store.get_host_and_port()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    os.environ.update(KEYS, FSSPEC_S3_ENDPOINT_URL=f"http://127.0.0.1:{proxy.server_address[1]}")
    with tempfile.TemporaryDirectory() as place:
        wrong = _compare(Path(place), given)
    proxy.shutdown()
    store.stop()
    return int(bool(wrong))


def _compare(place: Path, given: argparse.Namespace) -> int:
    from sightline import load_model
    from sightline.batch.run import engine_of, explain_batch
    from sightline.batch.worker import BatchOptions

    known = make_photos(place / "photos", given.photos)
    bad = sum(checksum is None for checksum in known.values())
    weights = save_model(place / "small.safetensors")
    model, options = load_model(weights), BatchOptions(shard_size=SHARD, overlays=True)
    fill(place / "photos")
    local = engine_of("local", 0)
    explain_batch(model, sorted((place / "photos").glob("0*")), place / "disk", options, local)
    expected, wrong = rows(str(place / "disk"), place), 0

    def compare(name: str, source: str, out: str, engine: Any) -> None:
        nonlocal wrong
        started = time.monotonic()
        manifest = explain_batch(model, [f"s3://{BUCKET}/{source}"], out, options, engine)
        whole = manifest["errors"] == bad
        counts, took = dict(Moody.counts), time.monotonic() - started
        Moody.share = 0.0
        whole = whole and rows(out, place / "copy") == expected
        Moody.share = given.share
        wrong += not whole
        print(
            f"{name}, {source} into {'s3' if '://' in out else 'a folder'}: {manifest['images']} images, "
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
            for where in (str(place / out), f"s3://{BUCKET}/out/{out}"):
                compare(name, source, where, engine)
    out = f"s3://{BUCKET}/out/killed"
    _killed(weights, out)
    compare("killed, then local", "000/", out, local)
    return wrong


def _killed(weights: Path, out: str) -> None:
    """A run of the command line, killed with SIGKILL once its first shard is in the store."""
    import fsspec

    command = [
        "batch",
        f"s3://{BUCKET}/000/",
        "--model",
        str(weights),
        "--out",
        out,
        "--overlays",
        "--workers",
        "0",
    ]
    run = subprocess.Popen([sys.executable, "-m", "sightline", *command, "--shard-size", str(SHARD)])
    store = fsspec.filesystem("s3", use_listings_cache=False)
    while run.poll() is None and not store.exists(f"{out}/results/part-00000.parquet"):
        time.sleep(0.05)
    if run.poll() is not None:
        raise RuntimeError("the run ended before it could be killed")
    run.kill()
    run.wait()
    there = [name.rpartition("/")[2] for name in store.find(f"{out}/results")]
    print(f"killed with {', '.join(there)} in the store", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
