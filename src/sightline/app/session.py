"""One visitor's photos and what was found in them; nothing here knows a browser."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sightline.app.choices import Choices, offered_methods, takes_layer
from sightline.app.limits import Limits
from sightline.data.images import decode_image, open_picture
from sightline.data.photos import PhotoBatch
from sightline.errors import ImageError, InputError, unknown
from sightline.explanation import Explanation
from sightline.inspection.naming import describe_layers
from sightline.methods.spec import MethodSpec
from sightline.models.loading import LoadedModel
from sightline.pipeline import explain, load_photos
from sightline.scores import ScoreRule
from sightline.targets import Text
from sightline.targets.embedding import image_encoder

KEPT = 64  # explanations of one visitor: going back to a class or a method then computes nothing


@dataclass(frozen=True, eq=False)
class Photo:
    """A visitor's photo, upright RGB, and as the network takes it."""

    name: str
    image: Image.Image
    batch: PhotoBatch


@dataclass
class Offer:
    """What the server shows to everybody: the model, the methods and layers to choose from, the limits."""

    model: LoadedModel
    methods: dict[str, MethodSpec] = field(default_factory=offered_methods)
    limits: Limits = field(default_factory=Limits)
    layers: tuple[str, ...] = ()
    classes: int = 0

    def __post_init__(self) -> None:
        if self.model.preprocess is None:
            raise InputError("the app shows photos to the network, and this model has no transform")
        height, width = self.model.preprocess.input_hw
        blank = PhotoBatch.of_tensor(torch.zeros(1, 3, height, width)).to(self.model)
        if not self.layers:
            network = image_encoder(self.model.network) or self.model.network
            self.layers = tuple(row.name for row in describe_layers(network, blank.images))
        if not self.classes and not self.embeds_text:
            logits = explain(self.model, blank).logits
            self.classes = 0 if logits is None else logits.shape[1]

    @property
    def embeds_text(self) -> bool:
        """Whether it compares photos with a text (CLIP), instead of having classes."""
        return image_encoder(self.model.network) is not None

    def category(self, index: int) -> str:
        """A class by its name, or "class 7"."""
        names = self.model.categories
        return names[index] if names else f"class {index}"


class Session:
    """Photos of one visitor, the one that is looked at, and the explanations that were computed for it."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.photos: list[Photo] = []
        self.current = 0
        self.computed = 0  # explanations that had to be computed
        self._kept: OrderedDict[tuple[Any, ...], Explanation] = OrderedDict()

    def __repr__(self) -> str:
        return f"Session({len(self.photos)} photos)"

    def open(self, files: Sequence[tuple[str, bytes]]) -> list[str]:
        """Replace the photos by these, (name, bytes) each; returns why some were left out.

        Raises `InputError` for too many or too large files and where none is a photo; the old photos then stay.
        """
        limits = self.offer.limits
        if not files:
            raise InputError("no photo was sent")
        if len(files) > limits.photos:
            raise InputError(f"{len(files)} photos; at most {limits.photos} at a time")
        if (size := sum(len(data) for _, data in files)) > limits.megabytes * 1e6:
            raise InputError(f"{size / 1e6:.1f} MB; at most {limits.megabytes:g} MB at a time")
        photos: list[Photo] = []
        errors: list[str] = []
        left = limits.megapixels * 1e6
        for name, data in files:
            try:
                image = _decoded(data, _plain_name(name), left)
                left -= image.width * image.height
                photos.append(Photo(_unused(name, photos), image, self._prepared(image)))
            except ImageError as error:
                errors.append(str(error))
        if not photos:
            raise InputError(errors[0])
        self.forget()
        self.photos = photos
        return errors

    def forget(self) -> None:
        """Drop the photos and everything computed from them."""
        self.photos, self.current = [], 0
        self._kept.clear()

    def select(self, number: int) -> None:
        """Look at another of the photos."""
        if not 0 <= number < len(self.photos):
            raise InputError(f"photo {number + 1}; there are {len(self.photos)}")
        self.current = number

    @property
    def photo(self) -> Photo:
        """The photo that is looked at."""
        if not self.photos:
            raise InputError("open a photo first")
        return self.photos[self.current]

    def top(self, count: int = 5) -> list[tuple[int, float]]:
        """The most probable classes of the photo, (index, score) each; empty for a network that embeds."""
        scores = self.scores()
        if scores is None:
            return []
        best = scores.topk(min(count, len(scores)))
        return [(int(i), float(s)) for s, i in zip(best.values, best.indices, strict=True)]

    def scores(self) -> Tensor | None:
        """The score of every class (C,) for the photo; None for a network without classes."""
        if self.offer.embeds_text:
            return None
        first = self.explained(next(iter(self.offer.methods)), Choices())
        assert first.logits is not None
        assert first.score_rule is not None
        return first.score_rule.probabilities(first.logits)[0]

    @property
    def score_rule(self) -> ScoreRule | None:
        """How this photo's scores are to be read."""
        if self.offer.embeds_text:
            return None
        return self.explained(next(iter(self.offer.methods)), Choices()).score_rule

    @property
    def unsure(self) -> bool:
        """Whether no class reaches what the model counts as sure."""
        sure = (
            None if self.offer.embeds_text else self.explained(next(iter(self.offer.methods)), Choices()).sure
        )
        return sure == [False]

    def explained(self, method: str, choices: Choices, number: int | None = None) -> Explanation:
        """The explanation of a photo (default: the one looked at) by one of the methods, computed once.

        The box rule and the colours play no part in it. Raises `InputError` for a method, class or layer that the
        server does not offer.
        """
        offer, photo = self.offer, self.photo if number is None else self.photos[number]
        if method not in offer.methods:
            raise unknown("method", method, offer.methods)
        if choices.layer is not None and choices.layer not in offer.layers:
            raise unknown("layer", choices.layer, offer.layers)
        spec = offer.methods[method]
        layer = choices.layer if takes_layer(spec) else None
        wanted: dict[str, Any] = {"classes": "top1"}
        if offer.embeds_text:
            if not choices.text.strip():
                raise InputError("write what to look for, such as: a photo of a dog")
            wanted = {"target": Text(choices.text.strip()[:200])}
        elif choices.class_index is not None:
            wanted = {"classes": choices.class_index}
        key = (id(photo), method, layer, str(wanted))
        if key not in self._kept:
            self._kept[key] = self._computed(photo, spec, layer, wanted)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _computed(
        self, photo: Photo, spec: MethodSpec, layer: str | None, wanted: dict[str, Any]
    ) -> Explanation:
        self.computed += 1
        found = explain(self.offer.model, photo.batch, method=spec, layer=layer, **wanted)
        return replace(found, _evidence=None)  # it holds the network's activations

    def _prepared(self, image: Image.Image) -> PhotoBatch:
        return load_photos(self.offer.model, [image]).to(self.offer.model)


class Sessions:
    """Every visitor's `Session` by a key that only their browser knows; nobody sees another's photos.

    A visitor who closes the page, or is idle for long, is forgotten with the photos.
    """

    def __init__(self, offer: Offer, clock: Callable[[], float] = time.monotonic) -> None:
        self.offer, self._clock = offer, clock
        self._known: OrderedDict[str, tuple[Session, float]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, key: str | None) -> Session:
        """The session of a visitor, made at the first call."""
        if not key:
            raise InputError("the page has no session; load it again")
        with self._lock:
            self._drop_idle()
            session = self._known[key][0] if key in self._known else Session(self.offer)
            self._known[key] = (session, self._clock())
            self._known.move_to_end(key)
            while len(self._known) > self.offer.limits.visitors:
                self._known.popitem(last=False)[1][0].forget()
            return session

    def close(self, key: str | None) -> None:
        """Forget a visitor."""
        with self._lock:
            if key is not None and key in self._known:
                self._known.pop(key)[0].forget()

    def drop_idle(self) -> None:
        """Forget the visitors who were not heard of for `Limits.idle_minutes`."""
        with self._lock:
            self._drop_idle()

    def _drop_idle(self) -> None:
        oldest = self._clock() - 60 * self.offer.limits.idle_minutes
        for key in [key for key, (_, seen) in self._known.items() if seen < oldest]:
            self._known.pop(key)[0].forget()


def _decoded(data: bytes, name: str, pixels: float) -> Image.Image:
    """The image, unless it has more pixels than are left; its header is looked at first."""
    try:
        with open_picture(data) as header:
            width, height = header.size
    except Exception:
        width = height = 0  # `decode_image` says what is wrong
    if width * height > pixels:
        raise ImageError(f"{name}: {width} × {height} pixels, more than the limit leaves room for")
    return decode_image(data, name)


def _unused(name: str, photos: Sequence[Photo]) -> str:
    """The photo's plain name, with a number if another photo's differs only in its suffix: labels are filed by it."""
    path = PurePath(_plain_name(name))
    taken, stem, number = {PurePath(one.name).stem.lower() for one in photos}, path.stem, 2
    while stem.lower() in taken:
        stem, number = f"{path.stem}-{number}", number + 1
    return stem + path.suffix


def _plain_name(name: str) -> str:
    """A file name without its folders and control characters, of at most 80 characters.

    >>> _plain_name("C:\\\\photos\\\\a.jpg"), _plain_name("../../x")
    ('a.jpg', 'x')
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[-80:].strip() or "photo"
