"""What replies without a generator: how much of a score is had for nothing."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from diversity_finetune.data import Pair
from trainworks.seeding import rng

ROWS_AT_ONCE = 256


def nearest_neighbour(train: Sequence[Pair], pairs: Sequence[Pair]) -> list[str]:
    """The training reply to the message that is nearest by the cosine of tf-idf, of the message's words and of the
    words of the agent's turn before it."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    sides = []
    for side in ("customer", "previous"):
        vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+|[^\w\s]", dtype=np.float32)
        with contextlib.suppress(ValueError):  # nobody said anything before a message
            known = vectorizer.fit_transform([getattr(pair, side) for pair in train]).T.tocsc()
            sides.append((vectorizer.transform([getattr(pair, side) for pair in pairs]), known))
    found: list[str] = []
    for start in range(0, len(pairs), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        similarity: Any = sum(asked[rows] @ known for asked, known in sides)
        found += [train[int(place)].agent for place in np.asarray(similarity.argmax(axis=1)).ravel()]
    return found


def random_of_intent(train: Sequence[Pair], pairs: Sequence[Pair], seed: int) -> list[str] | None:
    """A training reply of the same intent, drawn by the seed; of any where the intent is unknown or new. None where
    the pairs have no intents."""
    if not any(pair.intent for pair in pairs):
        return None
    by_intent: defaultdict[str | None, list[str]] = defaultdict(list)
    for pair in train:
        by_intent[pair.intent].append(pair.agent)
    anything = [pair.agent for pair in train]
    chance = rng(seed, "random reply")
    choices = (by_intent.get(pair.intent) or anything for pair in pairs)
    return [replies[int(chance.integers(len(replies)))] for replies in choices]
