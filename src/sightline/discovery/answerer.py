"""Visual question answering (Zhou et al. 2015; Zhou et al. 2016, section 4): one layer on words and GAP features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.data.adapters.vqa import Question
from sightline.discovery.answer_text import normalised
from sightline.discovery.concept import words
from sightline.discovery.features import Features
from sightline.discovery.linear import LinearHead, attach_head
from sightline.errors import InputError, unknown
from sightline.models.loading import LoadedModel

FUSIONS = ("add", "product", "question")
EPOCHS, RATE, DECAY, BATCH = 60, 0.01, 1e-3, 256


class Answerer(nn.Module):
    """A softmax layer over answers, given a bag of words q (N, V) and GAP features f (N, C).

    - ``add``: s = W_q q + W_f f + b, the paper's iBOWIMG: the image's evidence for an answer does not depend
      on the question.
    - ``product``: s = W_q q + W_f (G q ⊙ f) + b: the question gates the features.
    - ``question``: s = W_q q + b, blind to the image.

    The layer standardises features by the ``mean`` and ``deviation`` of the training images.

    >>> Answerer(5, 4, 3)(torch.ones(2, 5), torch.ones(2, 4)).shape
    torch.Size([2, 3])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, vocabulary: int, channels: int, answers: int, fusion: str = "add") -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise unknown("fusion", fusion, FUSIONS)
        self.fusion = fusion
        self.word = nn.Linear(vocabulary, answers)
        self.image = nn.Linear(channels, answers, bias=False)
        self.gate = nn.Linear(vocabulary, channels)
        nn.init.ones_(self.gate.bias)
        nn.init.normal_(self.gate.weight, std=0.1)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def forward(self, bags: Tensor, features: Tensor) -> Tensor:
        scores: Tensor = self.word(bags)
        if self.fusion == "question":
            return scores
        standardised = (features - self.mean) / self.deviation
        if self.fusion == "product":
            standardised = standardised * self.gate(bags)
        evidence: Tensor = self.image(standardised)
        return scores + evidence

    def image_weights(self, bags: Tensor, answers: Tensor) -> Tensor:
        """The class map's weights (N, C) for each question's answer (N,): ∂s_a / ∂f."""
        weight = self.image.weight[answers] / self.deviation
        return weight * self.gate(bags) if self.fusion == "product" else weight


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The indexed words of the questions, and the indexed answers."""

    words: tuple[str, ...]
    answers: tuple[str, ...]

    @classmethod
    def of(cls, questions: Sequence[Question], most_answers: int = 1000, least: int = 2) -> Vocabulary:
        """Words that occur at least ``least`` times, and the ``most_answers`` most frequent answers.

        Raises `InputError` if all questions have the same answer.
        """
        counted = Counter(word for question in questions for word in words(question.text))
        answer_counts = Counter(question.answer for question in questions)
        if len(answer_counts) < 2:
            raise InputError(
                f"every question has the answer {next(iter(answer_counts), '')!r}; expected at least 2 answers"
            )
        known = sorted(word for word, count in counted.items() if count >= least)
        answers = sorted(answer_counts, key=lambda answer: (-answer_counts[answer], answer))[:most_answers]
        return cls(tuple(known), tuple(answers))

    def bags(self, texts: Sequence[str]) -> Tensor:
        """Bags of words (N, V): 1 for each word in the question; unknown words are ignored.

        >>> Vocabulary(("cat", "dog"), ("no", "yes")).bags(["A dog, a dog?"])
        tensor([[0., 1.]])
        """
        place = {word: i for i, word in enumerate(self.words)}
        found = torch.zeros(len(texts), len(self.words))
        for row, text in enumerate(texts):
            for word in words(text):
                if word in place:
                    found[row, place[word]] = 1
        return found

    def targets(self, questions: Sequence[Question]) -> Tensor:
        """The index (N,) of each answer; -1 for an answer outside the vocabulary."""
        place = {answer: i for i, answer in enumerate(self.answers)}
        return torch.tensor([place.get(question.answer, -1) for question in questions])


def train_answerer(
    vocabulary: Vocabulary,
    questions: Sequence[Question],
    features: NDArray[np.float32],
    *,
    fusion: str = "add",
    epochs: int = EPOCHS,
    seed: int = 0,
) -> Answerer:
    """Cross-entropy with AdamW (rate 0.01, cosine decay), weight decay 1e-3; ``features`` (N, C), one row per question.

    Questions whose answer is not in the vocabulary are skipped. The caller's random state is left unchanged.
    """
    targets = vocabulary.targets(questions)
    keep = targets >= 0
    bags = vocabulary.bags([question.text for question in questions])[keep]
    values, targets = torch.from_numpy(features)[keep], targets[keep]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Answerer(bags.shape[1], values.shape[1], len(vocabulary.answers), fusion)
        model.mean, model.deviation = values.mean(0), values.std(0).clamp(min=1e-6)
        optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(values)), BATCH):
                optimiser.zero_grad()
                loss = nn.functional.cross_entropy(model(bags[rows], values[rows]), targets[rows])
                torch.autograd.backward(loss)
                optimiser.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def pooled_model(model: nn.Module, channels: int) -> LoadedModel:
    """The network up to its GAP features f (N, C), with an identity head; an answer's score is a function of f."""
    names = tuple(f"channel {k}" for k in range(channels))
    identity = LinearHead(np.eye(channels, dtype=np.float32), np.zeros(channels, np.float32), names)
    return attach_head(model, identity)


def answer_target(
    answerer: Answerer, vocabulary: Vocabulary, texts: Sequence[str], answers: Sequence[int] | Tensor
) -> Callable[[Tensor], Tensor]:
    """f (N, C) -> the pre-softmax score (N,) of each question's answer, for ``explain(pooled_model(…), target=…)``.

    Its Grad-CAM map is ReLU(Σ_k w_k A_k) / Z with the answer's image weights.

    >>> vocabulary = Vocabulary(("dog",), ("no", "yes"))
    >>> answer_target(Answerer(1, 4, 2), vocabulary, ["dog?"], [1])(torch.rand(1, 4)).shape
    torch.Size([1])
    """
    bags, chosen = vocabulary.bags(texts), torch.as_tensor(answers)

    def score(features: Tensor) -> Tensor:
        scores: Tensor = answerer(
            bags, features.to(bags)
        )  # the layer stays on the CPU, wherever the network is
        return scores.gather(1, chosen[:, None])[:, 0]

    return score


def vqa_accuracy(predicted: str, answers: Sequence[str]) -> float:
    """VQA v2's accuracy: min(1, matching answers / 3), averaged over all subsets of nine of the ten annotators.

    Answers match after the challenge's normalisation (`sightline.discovery.answer_text`). With fewer than ten answers,
    1 if ``predicted`` is the most frequent answer, else 0.

    >>> vqa_accuracy("red", ["red"] * 3 + ["blue"] * 7), vqa_accuracy("red", ["red"])
    (0.9, 1.0)
    >>> vqa_accuracy("t shirt", ["t-shirt"] * 9 + ["shirt"])
    1.0
    """
    predicted, answers = normalised(predicted), [normalised(answer) for answer in answers]
    if len(answers) < 10:
        return float(predicted == Counter(answers).most_common(1)[0][0])
    agrees = [answer == predicted for answer in answers]
    return sum(min(1.0, (sum(agrees) - one) / 3) for one in agrees) / len(agrees)


def per_question(
    questions: Sequence[Question], sources: Sequence[object], features: Features
) -> tuple[list[Question], NDArray[np.float32]]:
    """The questions whose image could be read, and each one's feature vector; ``sources`` as given for extraction."""
    row_of = {str(sources[row]): i for i, row in enumerate(features.rows)}
    kept = [question for question in questions if str(question.source) in row_of]
    return kept, features.values[[row_of[str(question.source)] for question in kept]]
