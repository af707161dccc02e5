"""Batch mode compared with the bare model: throughput, memory, and time against the number of images.

    .venv/bin/python benchmarks/batch.py --photos imagenet-sample --write benchmarks/batch.md
    .venv/bin/python benchmarks/batch.py --parts --write benchmarks/batch.md       (appends)
    .venv/bin/python benchmarks/batch.py --growth --write benchmarks/batch.md      (appends)
    .venv/bin/python benchmarks/batch.py --whole lite0 resnet50 --write benchmarks/batch.md      (appends)

Whole: the process `sightline batch` beside a process that runs PyTorch as usual: photos decoded beforehand, contiguous
tensors, the usual allocator, the same batches, all cores. By the clock; the verb decodes, explains, finds boxes and
writes as well; its first batch, and the start-up, are left out.

Throughput: ResNet-50 (random weights), Grad-CAM and box, ImageNet photos from disk. Each engine processes N, then 3 N
images; the difference is the cost of 2 N images, the rest of the first run is start-up. Before and after it the bare
model processes N decoded images in the same memory format, threads and batches. Wall time is what a user waits for; CPU
time, over the whole process tree, is not distorted by a busy machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
SIZES = (1_000, 5_000, 20_000, 50_000)


class Cost(NamedTuple):
    wall: float
    cpu: float

    def __sub__(self, other: Cost) -> Cost:  # type: ignore[override]
        return Cost(self.wall - other.wall, self.cpu - other.cpu)


def tree(root: int) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        parents.setdefault(parent, []).append(int(stat.parent.name))
    found = [root]
    for one in found:
        found += parents.get(one, [])
    return found


def cpu_seconds() -> float:
    """CPU time so far of this process and its descendants, including those that have ended and been waited for."""
    total = 0
    for one in tree(os.getpid()):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(fields[place]) for place in (11, 12, 13, 14))
    return total / TICKS


def resident_mb(root: int) -> float:
    """Resident memory of a process and its descendants; shared pages are counted in each."""
    total = 0
    for one in tree(root):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:
            continue
    return total * os.sysconf("SC_PAGESIZE") / 2**20


def timed(work: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    return Cost(time.perf_counter() - wall, cpu_seconds() - cpu)


def machine() -> str:
    import torch

    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread(s) for the model, load average {os.getloadavg()[0]:.1f} at the start."
    )


def repeated(photos: Path, count: int, folder: Path) -> Path:
    """``count`` links that cycle through the photos, with unique names."""
    files = sorted(photos.glob("*.JPEG"))
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06d}.JPEG").symlink_to(files[number % len(files)].resolve())
    return folder


def throughput(arguments: argparse.Namespace) -> list[str]:
    import torch

    from sightline import load_model
    from sightline.batch.decode import prepare
    from sightline.batch.listing import items_of, read_items
    from sightline.batch.local_engine import LocalEngine
    from sightline.batch.run import explain_batch
    from sightline.batch.worker import BatchOptions, ready

    torch.manual_seed(0)
    lines, scratch = [machine(), ""], Path(tempfile.mkdtemp())
    model, n = load_model("resnet50", weights="none"), arguments.images
    work = BatchOptions(batch_size=arguments.batch_size, shard_size=n)
    small, large = (repeated(arguments.photos, k * n, scratch / str(k)) for k in (1, 3))
    items = list(items_of(read_items([str(small)])))
    chunks = [items[start : start + work.batch_size] for start in range(0, n, work.batch_size)]
    images = [
        prepare(chunk, model.preprocess, "whole").photos.images.contiguous(memory_format=torch.channels_last)
        for chunk in chunks
    ]
    ready(model, work)

    def bare() -> Cost:
        def forward() -> None:
            with torch.inference_mode():
                for batch in images:
                    model(batch)

        return timed(forward)

    def batch_run(engine: object, source: Path) -> Cost:
        out = Path(tempfile.mkdtemp(dir=scratch))
        return timed(lambda: explain_batch(model, [source], out, work, engine))  # type: ignore[arg-type]

    def decoding() -> Cost:
        return timed(lambda: [prepare(chunk, model.preprocess, "whole") for chunk in chunks])

    bare(), decoding()
    alone = decoding()
    lines += [f"Decoding and transforming alone: {1e3 * alone.cpu / n:.2f} ms of CPU time an image.", ""]
    lines += [
        "| engine | ms/image, bare | ms/image, batch run | throughput of the bare model's | by CPU time | start-up |"
    ]
    lines += ["|---|---|---|---|---|---|"]
    engines = [("local", LocalEngine(workers=1))]
    if arguments.ray:
        from sightline.batch.ray_engine import RayEngine

        start = timed(lambda: engines.append(("ray", RayEngine())))  # type: ignore[arg-type]
        lines.insert(
            2, f"Starting Ray: {start.wall:.1f} s. Its actors: {engines[1][1].describe()['actors']}.\n"
        )
    for name, engine in engines:
        found = []
        for _ in range(arguments.pairs):
            before, first, third, after = bare(), batch_run(engine, small), batch_run(engine, large), bare()
            plain = Cost(*((a + b) / 2 / n for a, b in zip(before, after, strict=True)))
            each = Cost(*(value / (2 * n) for value in third - first))
            share = getattr(engine, "actors", 1)  # this many models run at once; the bare model runs alone
            found.append(
                (
                    plain,
                    each,
                    plain.wall / share / each.wall,
                    plain.cpu / each.cpu,
                    first.wall - n * each.wall,
                )
            )
            print(name, found[-1], flush=True)
        plain_ms = statistics.median(1e3 * row[0].wall for row in found)
        run_ms = statistics.median(1e3 * row[1].wall for row in found)
        shares = [statistics.median(row[place] for row in found) for place in (2, 3)]
        spans = [
            f"{min(row[place] for row in found):.0%}–{max(row[place] for row in found):.0%}"
            for place in (2, 3)
        ]
        lines.append(
            f"| {name} | {plain_ms:.1f} | {run_ms:.1f} | {shares[0]:.0%} ({spans[0]}) | {shares[1]:.0%} ({spans[1]}) "
            f"| {statistics.median(row[4] for row in found):.1f} s |"
        )
        print(lines[-1], flush=True)
    shutil.rmtree(scratch)
    return lines


def parts(arguments: argparse.Namespace) -> list[str]:
    """CPU time of the bare forward pass and of each part of batch mode, interleaved batch by batch, in one process."""
    import torch

    import sightline
    from sightline import load_model
    from sightline.batch.decode import prepare
    from sightline.batch.listing import items_of, read_items
    from sightline.batch.shards import Folder
    from sightline.batch.worker import BatchOptions, explain_prepared, ready

    torch.manual_seed(0)
    sightline.tune_cpu()
    lines, work = [machine(), ""], BatchOptions(batch_size=arguments.batch_size)
    named = arguments.model
    model = ready(load_model(named, weights=None if named == "lite0" else "none"), work)
    items = list(items_of(read_items([str(arguments.photos)])))[: arguments.images]
    scratch = Path(tempfile.mkdtemp())
    folder = Folder(scratch)
    with folder.claimed():
        folder.begin({"kind": "batch"})
    found = []
    for number, start in enumerate(range(0, len(items), work.batch_size)):
        clock = [time.process_time()]
        batch = prepare(items[start : start + work.batch_size], model.preprocess, "whole", channels_last=True)
        clock.append(time.process_time())
        images = batch.photos.images.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            if not number:
                model(images)  # warm-up
            clock.append(time.process_time())
            model(images)
        clock.append(time.process_time())
        done = explain_prepared(model, batch, work)
        clock.append(time.process_time())
        folder.write(number, [done])
        clock.append(time.process_time())
        decode, _, bare, explain, write = (1e3 * (b - a) / len(batch.items) for a, b in pairwise(clock))
        found.append((bare, decode, explain, write, bare / (decode + explain + write)))
        print(found[-1], flush=True)
    shutil.rmtree(scratch)
    bare, decode, explain, write, share = (
        statistics.median(column) for column in zip(*found[1:], strict=True)
    )
    low, high = min(row[-1] for row in found[1:]), max(row[-1] for row in found[1:])
    lines += [
        "| CPU ms an image, median of the batches | |",
        "|---|---|",
        f"| bare forward pass | {bare:.2f} |",
    ]
    lines += [
        f"| read, checksum, decode, transform | {decode:.2f} |",
        f"| explain, boxes, quantise | {explain:.2f} |",
    ]
    lines += [f"| write | {write:.2f} |", f"| bare ÷ the three | {share:.1%} ({low:.1%}–{high:.1%}) |"]
    return lines


def choices(arguments: argparse.Namespace) -> list[str]:
    """CPU time of the alternatives: decoders, and the network's memory format."""
    import cv2
    import numpy as np
    import torch
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg

    from sightline import load_model
    from sightline.batch.worker import BatchOptions, ready
    from sightline.data.images import decode_image

    def draft(data: bytes) -> None:
        image = Image.open(BytesIO(data))
        image.draft("RGB", (224, 224))
        image.load()

    def forward(images: torch.Tensor) -> None:
        with torch.inference_mode():
            model(images)

    def cpu_ms(work: Callable[[object], object], given: list[object], images: int) -> str:
        found = []
        for _ in range(3):
            start = time.process_time()
            for one in given:
                work(one)
            found.append(1e3 * (time.process_time() - start) / images)
        return f"{min(found):.2f}"

    cv2.setNumThreads(1)
    torch.manual_seed(0)
    model, x = load_model("resnet50", weights="none"), torch.randn(16, 3, 224, 224)
    files = [path.read_bytes() for path in sorted(arguments.photos.glob("*.JPEG"))]
    photos = [decode_image(data, "photo") for data in files]
    arrays = [np.frombuffer(data, np.uint8) for data in files]
    tensors = [torch.from_numpy(array.copy()) for array in arrays]
    rows = {
        "decode: Pillow, as `explain` does": (lambda data: decode_image(data, "photo"), files, len(files)),
        "decode: Pillow's draft mode (other pixels)": (draft, files, len(files)),
        "decode: OpenCV": (lambda array: cv2.imdecode(array, cv2.IMREAD_COLOR), arrays, len(files)),
        "decode: torchvision": (lambda data: decode_jpeg(data, ImageReadMode.RGB), tensors, len(files)),
        "resize, normalise": (model.preprocess.prepare, photos, len(files)),
        "forward pass, contiguous": (forward, [x], 16),
    }
    lines = [machine(), "", "| the least of three, CPU ms an image | |", "|---|---|"]
    lines += [f"| {name} | {cpu_ms(*row)} |" for name, row in rows.items()]
    ready(model, BatchOptions())
    x = x.contiguous(memory_format=torch.channels_last)
    return [*lines, f"| forward pass, channels last | {cpu_ms(forward, [x], 16)} |"]


def small_tar(path: Path, count: int) -> Path:
    """A tar of ``count`` JPEGs of 64×64 noise (a hundred distinct ones)."""
    import numpy as np
    from PIL import Image

    files = []
    for number in range(100):
        sink, pixels = BytesIO(), np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(sink, "JPEG")
        files.append(sink.getvalue())
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(count):
            member, data = tarfile.TarInfo(f"{number:06d}.jpg"), files[number % 100]
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
    return path


def one_growth(source: Path, out: Path) -> None:
    """A run with a small model at 32×32, in its own process."""
    import torch
    from torch import nn

    from sightline import load_model
    from sightline.batch.local_engine import LocalEngine
    from sightline.batch.run import explain_batch
    from sightline.batch.worker import BatchOptions
    from sightline.models.preprocess import Preprocess

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    model = load_model(net, transform=Preprocess((32, 32), 32))
    start = time.perf_counter(), cpu_seconds()
    explain_batch(model, [source], out, BatchOptions(), LocalEngine(workers=1))
    print(time.perf_counter() - start[0], cpu_seconds() - start[1])


def plain(model: str, photos: Path, count: int, size: int) -> None:
    """PyTorch as usual over decoded photos: print the seconds per image."""
    import torch

    from sightline import load_model
    from sightline.data.items import expand_paths
    from sightline.data.photos import PhotoBatch

    loaded = load_model(model, weights=None if model == "lite0" else "none").eval()
    assert loaded.preprocess is not None
    files = expand_paths([photos])[:count]
    batches = [
        PhotoBatch.load(files[start : start + size], loaded.preprocess, keep_photos=False).images
        for start in range(0, len(files), size)
    ]
    with torch.no_grad():
        loaded(batches[0])
        start = time.perf_counter()
        for batch in batches:
            loaded(batch)
    print((time.perf_counter() - start) / len(files))


def whole(arguments: argparse.Namespace) -> list[str]:
    """`sightline batch` as a process beside PyTorch as usual, by the clock."""
    scratch, n, size = Path(tempfile.mkdtemp()), arguments.images, arguments.batch_size
    source = repeated(arguments.photos, n, scratch / "photos")
    lines = [
        machine(),
        "",
        "| network | engine | PyTorch as usual, ms per image | the verb, ms per image | times as fast | start-up, s |",
    ]
    lines += ["|---|---|---|---|---|---|"]
    for model in arguments.whole:
        command = [sys.executable, __file__, "--plain", model, "--photos", str(source)]
        command += ["--images", str(n), "--batch-size", str(size)]
        usual = [float(_said(command)) for _ in range(arguments.pairs)]
        before = statistics.median(usual)
        for engine in arguments.engines:
            command = [sys.executable, __file__, "--verb", model, engine, str(scratch / f"{model}-{engine}")]
            command += ["--photos", str(source), "--images", str(n), "--batch-size", str(size)]
            start = time.perf_counter()
            each = float(_said(command))
            started = time.perf_counter() - start - n * each
            lines.append(
                f"| {model} | {engine} | {1e3 * before:.1f} | {1e3 * each:.1f} | {before / each:.2f} | {started:.1f} |"
            )
            print(lines[-1], flush=True)
    shutil.rmtree(scratch)
    return lines


def _said(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]


def verb(model: str, engine: str, out: Path, photos: Path, size: int) -> None:
    """`sightline batch` in this process: print the seconds per image from the second batch on."""
    from sightline import cli
    from sightline.batch import run

    told: list[tuple[float, int]] = []
    whole_run = run.explain_batch

    def watched(*given: Any, **named: Any) -> Any:
        parts = list(given)
        parts[5] = lambda done, total: told.append((time.perf_counter(), done))  # instead of the progress bar
        return whole_run(*parts, **named)

    run.explain_batch = watched  # type: ignore[assignment]
    words = ["batch", str(photos), "--model", model, "--engine", engine, "--batch-size", str(size)]
    cli.main([*words, *([] if model == "lite0" else ["--weights", "none"]), "--out", str(out)])
    (start, first), (end, last) = told[0], told[-1]
    print((end - start) / (last - first))


def growth(arguments: argparse.Namespace) -> list[str]:
    lines = [
        "",
        "| images | seconds | CPU seconds | CPU ms/image beyond the row above | peak resident memory |",
    ]
    lines += ["|---|---|---|---|---|"]
    scratch, last = Path(tempfile.mkdtemp()), (0, 0.0)
    for count in SIZES[: arguments.sizes]:
        tar = small_tar(scratch / f"{count}.tar", count)
        command = [sys.executable, __file__, "--one", str(tar), str(scratch / f"out{count}")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peak, ended = 0.0, threading.Event()

        def watch(pid: int = process.pid, ended: threading.Event = ended) -> None:
            nonlocal peak
            while not ended.wait(0.25):
                peak = max(peak, resident_mb(pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        out, _ = process.communicate()
        ended.set()
        watcher.join()
        wall, cpu = (float(word) for word in out.split())
        each = f"{1e3 * (cpu - last[1]) / (count - last[0]):.2f}" if last[0] else "(start-up)"
        lines.append(f"| {count:,} | {wall:.1f} | {cpu:.1f} | {each} | {peak:.0f} MiB |")
        print(lines[-1], flush=True)
        last = (count, cpu)
        tar.unlink()
    shutil.rmtree(scratch)
    return lines


def plan(ms: float, row_bytes: float) -> list[str]:
    """The cost of a large job: ``ms`` milliseconds per image on one core, ``row_bytes`` per row."""
    lines = [
        f"One image: {ms:g} ms of one core; one row: {row_bytes:g} bytes; heatmaps: 224 · 224 = 50,176 bytes, or the "
        "7 · 7 map itself in 16 bits, 98 bytes.",
        "",
        "| images | core hours | on 64 cores | on 640 cores | rows | heatmaps, input size | heatmaps, map size |",
        "|---|---|---|---|---|---|---|",
    ]
    for count in (1_281_167, 1_000_000_000):
        hours = count * ms / 3.6e6
        sizes = (_bytes(count * each) for each in (row_bytes, 50_176, 98))
        lines.append(
            f"| {count:,} | {hours:,.0f} | {hours / 64:,.1f} h | {hours / 640:,.1f} h | {' | '.join(sizes)} |"
        )
    return lines


def _bytes(count: float) -> str:
    return f"{count / 1e12:,.1f} TB" if count >= 1e12 else f"{count / 1e9:,.1f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, default=Path("imagenet-sample"))
    parser.add_argument("--images", type=int, default=120, help="N")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument(
        "--parts", action="store_true", help="CPU time of the parts of batch mode, in one process"
    )
    parser.add_argument("--choices", action="store_true", help="CPU time of decoders and memory formats")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--sizes", type=int, default=len(SIZES))
    parser.add_argument(
        "--plan", nargs=2, type=float, metavar=("MS", "BYTES"), help="milliseconds per image, bytes per row"
    )
    parser.add_argument("--whole", nargs="+", metavar="MODEL", help="the verb beside PyTorch as usual")
    parser.add_argument("--engines", nargs="+", default=["local", "onnx"])
    parser.add_argument("--model", default="resnet50", help="for --parts")
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    parser.add_argument("--verb", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        one_growth(*arguments.one)
        return
    if arguments.plain:
        plain(arguments.plain, arguments.photos, arguments.images, arguments.batch_size)
        return
    if arguments.verb:
        model, engine, out = arguments.verb
        verb(model, engine, Path(out), arguments.photos, arguments.batch_size)
        return
    if arguments.plan:
        print("\n".join(plan(*arguments.plan)))
        return
    measure = next(
        (one for one in (growth, parts, choices, whole) if getattr(arguments, one.__name__)), throughput
    )
    lines = measure(arguments)
    print("\n".join(lines))
    if arguments.write:
        with arguments.write.open("a") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
