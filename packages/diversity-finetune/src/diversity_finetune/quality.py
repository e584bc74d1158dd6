"""How good and how varied replies are.

Words are sacrebleu's (13a, lower-cased) except in ROUGE, which has rouge-score's own. n-grams don't cross replies.

Letters in names: N replies, G n-grams of all replies, K different n-grams of a reply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diversity_finetune.decoding import Reply
from diversity_finetune.scoring import (
    BLEU_ORDERS,
    DISTINCT_ORDERS,
    PairScores,
    Spaced,
    Splitter,
    Words,
    brevity_penalty,
    corpus_bleu,
    gram_counts,
    score_pairs,
    smoothed_bleu,
    split_13a,
)

BANDS = ((0.60, "EXCELLENT"), (0.45, "GOOD"), (0.30, "MODERATE"))
"""Least quality of each band; below them all is POOR."""
LEAST_SHARE_OF_HUMAN = 0.5
"""Of the references' corpus Distinct-2, that a band above POOR also needs: a model that says one sentence to everybody
gets about .50 from the formula alone, since that sentence repeats nothing inside itself."""
LEAST_ABOVE_SHUFFLED = 0.05
"""ROUGE-L above that of references handed to the wrong messages, that a band above POOR also needs: half of the formula
asks for variety, so varied replies that have nothing to do with the message get about .40 from it alone."""


def quality_score(bleu_4: Any, rouge_l: Any, distinct_2: Any, repetition_rate: Any) -> Any:
    """0.3 BLEU-4 + 0.3 ROUGE-L + 0.2 Distinct-2 of the reply + 0.2 (1 - repetition), of numbers or arrays in [0, 1]."""
    return 0.3 * bleu_4 + 0.3 * rouge_l + 0.2 * distinct_2 + 0.2 * (1 - repetition_rate)


def quality_band(metrics: Mapping[str, Any]) -> str:
    """EXCELLENT, GOOD, MODERATE or POOR: by `BANDS`, and POOR whatever the quality if the replies are less than
    `LEAST_SHARE_OF_HUMAN` as varied as the references, or less than `LEAST_ABOVE_SHUFFLED` nearer to them than these
    are to each other.

    Args:
        metrics: quality_score, rouge_l, shuffled_rouge_l, corpus_distinct_2 and human_corpus_distinct_2 of `measure`.
    """
    is_varied = metrics["corpus_distinct_2"] >= LEAST_SHARE_OF_HUMAN * metrics["human_corpus_distinct_2"]
    answers = metrics["rouge_l"] >= metrics["shuffled_rouge_l"] + LEAST_ABOVE_SHUFFLED
    if not (is_varied and answers):
        return "POOR"
    return next((name for least, name in BANDS if metrics["quality_score"] >= least), "POOR")


def measure(
    replies: Sequence[str], references: Sequence[str], training_replies: Sequence[str] | None = None
) -> dict[str, Any]:
    """Judge replies against one reference each.

    - bleu_1, bleu_2, bleu_4: over the corpus, unsmoothed, as sacrebleu's
    - sentence_bleu_4: mean of NLTK's sentence BLEU, smoothing method 1 of Chen & Cherry (2014)
    - rouge_1, rouge_2, rouge_l: mean F1, as rouge-score's without stemming
    - distinct_1 to 3: mean over the replies of different n-grams over n-grams; 0 for a reply of fewer than n words
    - corpus_distinct_1 to 3: different n-grams over n-grams of all replies (Li et al. 2016); falls with their number,
      so compare it with human_corpus_distinct_1 to 3, which are the references'
    - expectation_adjusted_distinct: as the function of this name, of single words; its vocabulary is the references'
    - self_bleu: as the function of this name
    - repetition_rate: mean share of a reply's words that stand among the 20 words before them
    - entropy: of the words of all replies, in nats
    - avg_length, std_length: in words
    - shuffled_rouge_l: rouge_l of the references handed to other messages: what replies get that fit any of them
    - copied, copied_4grams: share of replies, and of 4-grams, that stand in `training_replies` word for word; absent
      without them. The references' own stand in human_copied
    - quality_score: `quality_score` of bleu_4, rouge_l, distinct_2 and repetition_rate, and band: `quality_band`

    Raises:
        ValueError: no reply, or as many references as replies are not there.
    """
    scores = score_pairs(replies, references)
    own, human = CorpusStatistics.of(replies), CorpusStatistics.of(references)
    found: dict[str, Any] = {f"bleu_{order}": corpus_bleu(scores, order) for order in BLEU_ORDERS}
    found |= {f"rouge_{kind.lower()}": float(values_N.mean()) for kind, values_N in scores.rouge.items()}
    found |= {f"distinct_{order}": float(values_N.mean()) for order, values_N in scores.distinct.items()}
    found |= {"repetition_rate": float(scores.repetition.mean()), "entropy": own.entropy}
    quality = quality_score(found["bleu_4"], found["rouge_l"], found["distinct_2"], found["repetition_rate"])
    found |= {"quality_score": quality, "avg_length": float(scores.reply_lengths.mean())}
    found |= {f"corpus_distinct_{order}": value for order, value in own.distinct.items()}
    found |= {f"human_corpus_distinct_{order}": value for order, value in human.distinct.items()}
    found["expectation_adjusted_distinct"] = expectation_adjusted_distinct(
        own.different_words, own.num_words, human.different_words
    )
    found["self_bleu"] = float(self_bleu(replies).mean())
    found["sentence_bleu_4"] = float(scores.bleu[4].mean())
    found["std_length"] = float(scores.reply_lengths.std())
    found["shuffled_rouge_l"] = shuffled_rouge_l(references)
    if training_replies is not None:
        found["copied"], found["copied_4grams"] = copying(replies, training_replies)
        found["human_copied"] = copying(references, training_replies)[0]
    found["band"] = quality_band(found)
    return found


def shuffled_rouge_l(references: Sequence[str]) -> float:
    """Mean ROUGE-L of each reference against the one half the list away, which is of another dialogue; 0 for one."""
    if len(references) < 2:
        return 0.0
    half = len(references) // 2
    return float(score_pairs([*references[half:], *references[:half]], references).rouge["L"].mean())


def reply_metrics(replies: Sequence[Reply]) -> list[dict[str, float]]:
    """What can be said of each reply without a reference: distinct_1, distinct_2, distinct_3, repetition_rate, entropy
    (of the reply's own words, in nats), length (in words) and log_probability (as `Reply`)."""
    if not replies:
        return []
    texts = [reply.text for reply in replies]
    scores, entropy_N = score_pairs(texts, texts), _entropies(_words(texts))
    return [
        {
            **{f"distinct_{order}": float(scores.distinct[order][row]) for order in DISTINCT_ORDERS},
            "repetition_rate": float(scores.repetition[row]),
            "entropy": float(entropy_N[row]),
            "length": int(scores.reply_lengths[row]),
            "log_probability": reply.log_probability,
        }
        for row, reply in enumerate(replies)
    ]


def sentence_quality(scores: PairScores) -> np.ndarray:
    """`quality_score` of each reply, (N,), with its sentence BLEU."""
    return quality_score(scores.bleu[4], scores.rouge["L"], scores.distinct[2], scores.repetition)


@dataclass(frozen=True)
class CorpusStatistics:
    """Of all replies together.

    Attributes:
        distinct: by order: different n-grams over n-grams; 0 where there is none.
        entropy: of the distribution of words, in nats.
        different_words, num_words: counts.
    """

    distinct: dict[int, float]
    entropy: float
    different_words: int
    num_words: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> CorpusStatistics:
        words = _words(texts)
        made = grams(words, max(DISTINCT_ORDERS))
        counts = np.bincount(words.id_T)
        share = counts[counts > 0] / max(counts.sum(), 1)
        distinct = {order: found.size / max(len(found.id_G), 1) for order, found in enumerate(made, 1)}
        return cls(distinct, float(-(share * np.log(share)).sum()), words.size, len(words.id_T))


def expectation_adjusted_distinct(different: int, total: int, vocabulary: int) -> float:
    """Different words over those expected of as many words drawn evenly from the vocabulary (Liu et al. 2022,
    "Rethinking and Refining the Distinct Metric", equation 3), so that longer replies aren't punished; above 1 where
    words from outside the vocabulary occur. 0 without words."""
    if not total or not vocabulary:
        return 0.0
    return different / (vocabulary * -np.expm1(total * np.log1p(-1 / vocabulary))) if vocabulary > 1 else different


def self_bleu(replies: Sequence[str]) -> np.ndarray:
    """BLEU-4 of each reply against all others as references, (N,), smoothing method 1 (Zhu et al. 2018, Texygen); high
    where replies are alike. 0 for a single reply. Equals NLTK's `sentence_bleu`, in time N log N."""
    words = _words(replies)
    if len(replies) < 2:
        return np.zeros(len(replies))
    matches = [_matches_with_others(found, len(replies)) for found in grams(words, 4)]
    return smoothed_bleu(matches, words.lengths, brevity_penalty(words.lengths, _closest_other(words.lengths)))


def copying(replies: Sequence[str], training_replies: Sequence[str]) -> tuple[float, float]:
    """Share of the replies, and of their 4-grams, that stand in the training replies word for word; NaN where there
    is none."""
    words = _words([*replies, *training_replies])
    found = grams(words, 4)[-1]
    is_reply_G = found.text_G < len(replies)
    seen_G = np.isin(found.id_G[is_reply_G], found.id_G[~is_reply_G])
    whole = [part.tobytes() for part in np.split(words.id_T, np.cumsum(words.lengths)[:-1])]
    known = set(whole[len(replies) :])
    copied = [text in known for text in whole[: len(replies)]]
    return float(np.mean(copied)), float(seen_G.mean()) if len(seen_G) else float("nan")


@dataclass(frozen=True)
class Grams:
    """The n-grams of texts, in the order of the texts.

    Attributes:
        id_G: the n-gram, 0..size-1.
        text_G: the text it is of.
        size: different n-grams.
    """

    id_G: np.ndarray
    text_G: np.ndarray
    size: int


def grams(words: Words, orders: int) -> list[Grams]:
    """The n-grams of each order from 1 to `orders`, numbered over all texts."""
    made = [Grams(words.id_T, words.text_T, words.size)]
    start_G = np.arange(len(words.id_T))
    for order in range(2, orders + 1):
        long = words.position_T[start_G] + order <= words.lengths[words.text_T[start_G]]
        start_G = start_G[long]
        pair_G = made[-1].id_G[long] * words.size + words.id_T[start_G + order - 1]
        different, id_G = np.unique(pair_G, return_inverse=True)
        made.append(Grams(id_G, words.text_T[start_G], len(different)))
    return made


def _words(texts: Sequence[str]) -> Words:
    return Splitter(split_13a)(Spaced(texts))


def _matches_with_others(found: Grams, count: int) -> np.ndarray:
    """n-grams of each reply, each counted at most as often as the other reply that has it most often, (N,)."""
    key_K, count_K = np.unique(found.id_G * count + found.text_G, return_counts=True)
    gram_K, text_K = np.divmod(key_K, count)
    order_K = np.lexsort((-count_K, gram_K))
    gram_K, text_K, count_K = gram_K[order_K], text_K[order_K], count_K[order_K]
    first_K = np.searchsorted(gram_K, gram_K)  # where the gram's reply with most of it stands
    second_K = np.minimum(first_K + 1, len(gram_K) - 1)
    runner_up_K = np.where(gram_K[second_K] == gram_K, count_K[second_K], 0) * (second_K > first_K)
    others_K = np.where(first_K == np.arange(len(gram_K)), runner_up_K, count_K[first_K])
    return np.bincount(text_K, weights=np.minimum(count_K, others_K), minlength=count)


def _closest_other(lengths: np.ndarray) -> np.ndarray:
    """The length nearest to each among the others', the shorter of two."""
    different, place_N, times = np.unique(lengths, return_inverse=True, return_counts=True)
    if len(different) == 1:
        return lengths
    below = different[np.maximum(place_N - 1, 0)]
    above = different[np.minimum(place_N + 1, len(different) - 1)]
    is_below = (place_N > 0) & ((place_N == len(different) - 1) | (lengths - below <= above - lengths))
    return np.where(times[place_N] > 1, lengths, np.where(is_below, below, above))


def _entropies(words: Words) -> np.ndarray:
    """Entropy of each text's own words in nats, (N,)."""
    key_K, count_K = np.unique(words.text_T * words.size + words.id_T, return_counts=True)
    text_K = key_K // max(words.size, 1)
    share_K = count_K / np.maximum(gram_counts(words.lengths, 1), 1)[text_K]
    return np.bincount(text_K, weights=-share_K * np.log(share_K), minlength=len(words.lengths))
