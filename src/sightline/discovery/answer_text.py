"""When two answers to a question are the same: the VQA challenge's normalisation of case, punctuation and words."""

from __future__ import annotations

import re

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBERS)}}
_ARTICLES = ("a", "an", "the")
_CONTRACTED = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd "
    "how'll how's i'm i've isn't it'd it'll let's ma'am might've mightn't must've mustn't needn't not've "
    "o'clock oughtn't shan't should've shouldn't somebody'd somebody's someone'd someone's something'd "
    "something'll that'd that's there'd there're there's they'd they'll they're they've 'twas wasn't "
    "we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's "
    "who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've "
)
_CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}


def normalised(answer: str) -> str:
    """An answer as the VQA challenge compares it (Antol et al., ICCV 2015; its evaluation code).

    Lower case; a punctuation mark beside a space is dropped, any other becomes a space, and so for commas in numbers;
    periods outside decimals are dropped; number words become digits; articles are dropped; contractions get their
    apostrophe.

    >>> normalised("The T-shirt."), normalised("two dogs"), normalised("it dont, 2.5")
    ('t shirt', '2 dogs', "it don't 2.5")
    """
    text = " ".join(answer.split())
    number = re.search(r"\d,\d", text) is not None
    for mark in _MARKS:
        beside = f"{mark} " in text or f" {mark}" in text
        text = text.replace(mark, "" if beside or number else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
