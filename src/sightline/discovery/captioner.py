"""A small captioning model (after Vinyals et al. 2015), and the target that explains any captioning model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from sightline.discovery.concept import words
from sightline.errors import InputError, UnsupportedError, kind_of
from sightline.models.families.gapnet import GapNet
from sightline.models.loading import LoadedModel

END, UNKNOWN = 0, 1
GRID, EPOCHS, RATE, DECAY, BATCH = 5, 100, 2e-3, 0.3, 64
LONGEST = 20  # words per caption


def caption_target(
    model: Any, tokens: Tensor, word: int | Tensor | None = None, *, pad: int | None = END
) -> Callable[[Any], Tensor]:
    """For ``explain(…, target=…)``: the log-probability of a caption, or of its word number ``word``.

    log p(caption) = Σ_t log p(w_t | w_<t, image), each word conditioned on those before it. ``model``: a function
    (output, tokens (N, T)) -> logits (N, T, V), where row t predicts token t from the tokens before it and
    ``output`` is what the explained network returns; or a module with such a function as its ``decode`` method.
    ``tokens``: (T,) for all images, or (N, T). ``word``: one index, or one per image (N,); None: the whole caption,
    up to and including the first ``pad`` (None: all tokens). Raises `InputError` for an index outside the caption.

    >>> uniform = lambda output, tokens: torch.zeros(*tokens.shape, 4)
    >>> caption_target(uniform, torch.tensor([2, 3]), pad=None)(torch.zeros(1, 7)).exp()
    tensor([0.0625])
    >>> caption_target(uniform, torch.tensor([2, 3]), word=1)(torch.zeros(1, 7)).exp()
    tensor([0.2500])
    """
    decode = getattr(model, "decode", model)
    if not callable(decode):
        raise InputError(f"model is {kind_of(model)}; expected a callable, or a module with decode()")
    places = None if word is None else torch.as_tensor(word)
    if places is not None and not bool(((places >= 0) & (places < tokens.shape[-1])).all()):
        raise InputError(f"word {word} is outside the caption; expected 0 to {tokens.shape[-1] - 1}")

    def score(output: Any) -> Tensor:
        first = output if isinstance(output, Tensor) else next(v for v in output if isinstance(v, Tensor))
        given = tokens.to(first.device).expand(len(first), -1)
        logits: Tensor = decode(output, given)
        log_p = logits.log_softmax(-1).gather(2, given[..., None])[..., 0]
        if places is not None:
            return log_p.gather(1, places.to(log_p.device).expand(len(log_p))[:, None])[:, 0]
        if pad is not None:
            ended = ((given == pad).cumsum(1) - (given == pad).long()) > 0
            log_p = log_p.masked_fill(ended, 0)
        return log_p.sum(1)

    return score


@dataclass(frozen=True)
class Words:
    """The vocabulary of captions: token 0 ends a caption, 1 is an unknown word."""

    known: tuple[str, ...]

    @classmethod
    def of(cls, captions: Sequence[str], least: int = 2) -> Words:
        """The words that occur at least ``least`` times. Raises `InputError` if there are none.

        >>> Words.of(["a dog", "a cat"]).known
        ('a',)
        """
        counted = Counter(word for caption in captions for word in words(caption))
        known = tuple(sorted(word for word, count in counted.items() if count >= least))
        if not known:
            raise InputError(f"no word occurs {least} times in {len(captions)} captions")
        return cls(known)

    def __len__(self) -> int:
        return len(self.known) + 2

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """(N, T) int64, terminated and padded with 0; words after the 20th are dropped.

        >>> Words(("a", "dog")).tokens(["A dog", "dog"])
        tensor([[2, 3, 0],
                [3, 0, 0]])
        """
        place = {word: i + 2 for i, word in enumerate(self.known)}
        rows = [[place.get(word, UNKNOWN) for word in words(c)[:LONGEST]] for c in captions]
        longest = max(map(len, rows), default=0) + 1
        return torch.tensor([row + [END] * (longest - len(row)) for row in rows])

    def text(self, tokens: Sequence[int]) -> list[str]:
        """The words before the first end token.

        >>> Words(("a", "dog")).text([2, 3, 0, 3])
        ['a', 'dog']
        """
        names = {i + 2: word for i, word in enumerate(self.known)} | {UNKNOWN: "?"}
        found = list(tokens)
        return [names[token] for token in (found[: found.index(END)] if END in found else found)]


class Captioner(nn.Module):
    """A frozen trunk, its maps average-pooled to a grid, a 1×1 convolution per cell, and a GRU decoder.

    ``forward`` (N, 3, H, W) -> memory (N, hidden), from which `decode` computes the words' logits. The
    explained network is the encoder; a target is a function of its memory.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        channels: int,
        vocabulary: int,
        grid: int = GRID,
        hidden: int = 128,
        cell: int = 48,
    ) -> None:
        super().__init__()
        self.trunk, self.grid = trunk, grid
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))
        self.read = nn.Sequential(nn.Conv2d(channels, cell, 1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
        self.memory = nn.Linear(cell * grid * grid, hidden)
        self.embed = nn.Embedding(vocabulary, hidden)
        self.gru = nn.GRUCell(hidden, hidden)  # a GRU cell: cuDNN's GRU has no gradient in eval mode
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, images: Tensor) -> Tensor:
        return self.encode(adaptive_avg_pool2d(self.trunk(images), self.grid))

    def encode(self, cells: Tensor) -> Tensor:
        """Grid-pooled trunk maps (N, C, grid, grid) -> memory (N, hidden)."""
        memory: Tensor = self.memory(self.read((cells - self.mean) / self.deviation))
        return memory.tanh()

    def decode(self, memory: Tensor, tokens: Tensor) -> Tensor:
        """Logits (N, T, V); row t predicts token t from those before it."""
        state, before = memory, torch.full_like(tokens[:, 0], END)
        found = []
        for t in range(tokens.shape[1]):
            state = self.gru(self.embed(before), state)
            found.append(self.output(state))
            before = tokens[:, t]
        return torch.stack(found, 1)

    @torch.no_grad()
    def greedy(self, memory: Tensor, longest: int = LONGEST) -> Tensor:
        """Greedy decoding: tokens (N, longest)."""
        state, before = memory, torch.full((len(memory),), END, device=memory.device)
        tokens = []
        for _ in range(longest):
            state = self.gru(self.embed(before), state)
            before = self.output(state).argmax(1)
            tokens.append(before)
        return torch.stack(tokens, 1)


def train_captioner(
    trunk: nn.Module,
    vocabulary: Words,
    cells: NDArray[np.float32],
    captions: Sequence[Sequence[str]],
    *,
    grid: int = GRID,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: Callable[[Sequence[int]], Any] = list,
) -> Captioner:
    """Train the decoder on a frozen trunk: cross-entropy of each word given those before it.

    AdamW, rate 2e-3 with cosine decay, weight decay 0.3, dropout 0.5 before the memory. ``cells`` (N, C·g·g): each
    image's grid features (`extract_features` with ``grid``); ``captions``: each image's captions. The caller's
    random state is left unchanged.
    """
    values = torch.from_numpy(cells).view(len(cells), -1, grid, grid)
    image = torch.tensor([i for i, own in enumerate(captions) for _ in own])
    tokens = vocabulary.tokens([caption for own in captions for caption in own])
    ended = ((tokens == END).cumsum(1) - (tokens == END).long()) > 0
    targets = tokens.masked_fill(ended, -100)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Captioner(trunk, values.shape[1], len(vocabulary), grid)
        model.mean.copy_(values.mean((0, 2, 3)).view(-1, 1, 1))
        model.deviation.copy_(values.std((0, 2, 3)).clamp(min=1e-6).view(-1, 1, 1))
        trained = [p for name, p in model.named_parameters() if not name.startswith("trunk.")]
        optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
        model.read.train()  # dropout on; the trunk belongs to the caller and keeps its mode
        for _ in progress(range(epochs)):
            for rows in torch.split(torch.randperm(len(image)), BATCH):
                optimiser.zero_grad()
                logits = model.decode(model.encode(values[image[rows]]), tokens[rows])
                torch.autograd.backward(cross_entropy(logits.flatten(0, 1), targets[rows].flatten()))
                optimiser.step()
            schedule.step()
    model.read.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    return model.to(next(trunk.parameters(), model.mean).device)


def feature_network(model: LoadedModel) -> nn.Module:
    """The feature extractor of a network with a linear head (from `attach_head`)."""
    if not isinstance(model.network, GapNet):
        raise UnsupportedError(f"{model.name} cannot be cut at its target layer; give another --model")
    return model.network.features
