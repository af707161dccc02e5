"""Targets for networks that return an embedding: similarity to another image, or to a text."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from sightline.errors import InputError, UnsupportedError
from sightline.targets.base import OutputTarget, Setting, described

_NAMES = ("image_embeds", "image_features", "pooler_output", "embedding", "embeddings", "logits")


@dataclass(frozen=True, eq=False)
class Similarity(OutputTarget):
    """The cosine between the embedding of each image (N, D) and that of a reference, (D,) or (N, D).

    To compare two images: ``Similarity(network(other)[0])``, or `Similarity.to`. The embedding is the output itself,
    or its ``image_embeds``, ``image_features`` or ``pooler_output``.

    >>> Similarity(torch.tensor([1.0, 0.0]))(torch.tensor([[3.0, 4.0]]))
    tensor([0.6000])
    """

    reference: Tensor
    name: str = "a reference"

    def __repr__(self) -> str:
        return f"Similarity(to {self.name}, {tuple(self.reference.shape)})"

    def __call__(self, output: Any) -> Tensor:
        found = embedding_of(output)
        reference = self.reference.to(found)
        if reference.shape[-1] != found.shape[-1] or (
            reference.ndim == 2 and len(reference) not in (1, len(found))
        ):
            raise InputError(
                f"{self}: the network's embedding has shape {tuple(found.shape)}; expected the same length"
            )
        return cosine_similarity(found, reference.expand_as(found), dim=1)

    def at(self, rows: Tensor) -> Similarity:
        several = self.reference.ndim == 2 and len(self.reference) > 1
        return Similarity(self.reference[rows.to(self.reference.device)], self.name) if several else self

    @classmethod
    def to(cls, network: nn.Module, images: Tensor) -> Similarity:
        """Similarity to other images (1 or N, 3, H, W), embedded now, in eval mode, without gradient.

        >>> Similarity.to(nn.Flatten(), torch.ones(1, 3, 2, 2))
        Similarity(to an image, (1, 12))
        """
        modes = [module for module in network.modules() if module.training]
        network.eval()
        try:
            with torch.no_grad():
                return cls(embedding_of(network(images)), "an image")
        finally:
            for module in modes:
                module.training = True


@dataclass(frozen=True)
class Text(OutputTarget):
    """Similarity to a text, for networks that embed images and texts in one space (CLIP, SigLIP).

    The network has ``encode_image`` and ``encode_text`` (open_clip, OpenAI's CLIP) or ``get_image_features`` and
    ``get_text_features`` (Hugging Face); the score is the cosine of the two. ``tokenizer``: texts -> tokens; default:
    the network's own ``tokenizer`` or ``processor`` attribute, or open_clip's if the vocabulary is its usual one.

    >>> Text("a photo of a dog")
    Text('a photo of a dog')
    """

    text: str
    tokenizer: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        return f"Text({self.text!r})"

    def __call__(self, output: Any) -> Tensor:
        raise InputError(f"{self} needs a network to embed its text; pass it to `explain` as target=")

    def bind(self, setting: Setting) -> tuple[nn.Module, OutputTarget]:
        network = setting.network
        image = _first(network, "encode_image", "get_image_features")
        text = _first(network, "encode_text", "get_text_features")
        if image is None or text is None:
            raise UnsupportedError(
                f"{self} needs a network with encode_image and encode_text, or get_image_features and "
                f"get_text_features (CLIP, SigLIP); {type(network).__name__} has neither; give Similarity(embedding)"
            )
        tokens = _on_device(_tokens(network, self), network)
        with torch.no_grad():
            found = text(**tokens) if isinstance(tokens, dict) else text(tokens)
        return ImageEncoder(network, image), Similarity(embedding_of(found), repr(self.text))


class ImageEncoder(nn.Module):
    """The image encoder of a network: the same modules under the same names; its output is the image embedding."""

    def __init__(self, network: nn.Module, encode: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self._modules = network._modules
        self._encode = encode

    def forward(self, images: Tensor) -> Tensor:
        return embedding_of(self._encode(images))


def embedding_of(output: Any) -> Tensor:
    """The embedding (N, D) in a network's output.

    >>> embedding_of({"image_embeds": torch.zeros(1, 8)}).shape
    torch.Size([1, 8])
    """
    candidates = [output]
    if isinstance(output, dict):
        candidates += [output.get(name) for name in _NAMES]
    else:
        candidates += [getattr(output, name, None) for name in _NAMES]
    if isinstance(output, (list, tuple)):
        candidates += output[:1]
    for one in candidates:
        if isinstance(one, Tensor) and one.ndim == 2:
            return one
    raise InputError(f"expected an embedding (N, D); the network returns {described(output)}")


def image_encoder(network: nn.Module) -> ImageEncoder | None:
    """The image encoder of a network that embeds images and texts in one space, so that `Text` can be its target.

    >>> image_encoder(nn.Linear(2, 2)) is None
    True
    """
    image = _first(network, "encode_image", "get_image_features")
    text = _first(network, "encode_text", "get_text_features")
    return None if image is None or text is None else ImageEncoder(network, image)


def _first(network: nn.Module, *names: str) -> Callable[..., Any] | None:
    return next((getattr(network, name) for name in names if callable(getattr(network, name, None))), None)


def _tokens(network: nn.Module, target: Text) -> Any:
    processor = getattr(network, "processor", None)
    tokenizer = (
        target.tokenizer or getattr(network, "tokenizer", None) or getattr(processor, "tokenizer", None)
    )
    if tokenizer is None and getattr(network, "vocab_size", None) == 49408:
        with suppress(ImportError):
            open_clip = importlib.import_module("open_clip")
            tokenizer = open_clip.SimpleTokenizer(context_length=getattr(network, "context_length", 77))
    if tokenizer is None:
        raise InputError(
            f"{target}: this network has no tokenizer; give one: Text({target.text!r}, tokenizer=…), e.g. "
            "open_clip.get_tokenizer(NAME) or transformers.AutoTokenizer.from_pretrained(NAME)"
        )
    if hasattr(tokenizer, "convert_tokens_to_ids"):  # Hugging Face: returns lists unless asked for tensors
        kind = str(getattr(getattr(network, "config", None), "model_type", ""))
        padding: Any = (
            "max_length" if kind.startswith("siglip") else True
        )  # SigLIP was trained on full lengths
        return dict(tokenizer([target.text], return_tensors="pt", padding=padding))
    return tokenizer([target.text])


def _on_device(tokens: Any, network: nn.Module) -> Any:
    like = next(network.parameters(), None)
    if like is None:
        return tokens
    if isinstance(tokens, dict):
        return {name: value.to(like.device) for name, value in tokens.items()}
    return tokens.to(like.device)
