"""BLEU, ROUGE and Distinct of many replies at once: n-grams are integers, and one sort replaces a loop over replies.

Values equal those of NLTK, sacrebleu and rouge-score, which score a reply at a time.

Letters in names: N replies, S words of all texts as spaces cut them, T the same as a rule cuts them, U different words
of a row (a reply and its reference), K different n-grams of a row. Where replies are scored against references, the
texts are the N replies and then the N references.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

BLEU_ORDERS = (1, 2, 4)
ROUGE_ORDERS = (1, 2)
DISTINCT_ORDERS = (1, 2, 3)
EPSILON = 0.1
"""Matches that smoothing method 1 of Chen & Cherry (2014) counts where there is none."""
REPETITION_WINDOW = 20
"""A word is repeated if it stands among this many words before it."""
BLOCK = 1000
"""Pairs scored at once: arrays that stay in the processor's cache are several times as fast."""
KEY_BITS = 63
"""Bits of a sort key, the sign left out."""
WORD_BITS = 64
"""Places of a reference that one machine word stands for."""

_END = "END"
"""Stands between texts: they are lower-cased, so it is a word of none."""
_JOINED_LINES = "-\0"
"""Stands for a hyphen at a line's end, which 13a takes out with the line break."""
_RULES_13A = (
    (re.compile(r"([{-~[-` -&(-+:-@/])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_NOT_ROUGE = re.compile(r"[^a-z0-9]+")


def split_13a(word: str) -> list[str]:
    """A lower-case word without spaces by the rules of mteval-v13a, as sacrebleu's default tokenizer splits it. They
    look one character far, so they split a text as they split its words."""
    word = word.replace("<skipped>", "").replace(_JOINED_LINES, "")
    for entity, character in _ENTITIES:
        word = word.replace(entity, character)
    word = f" {word} "
    for pattern, replacement in _RULES_13A:
        word = pattern.sub(replacement, word)
    return word.split()


def split_rouge(word: str) -> list[str]:
    """A lower-case word's runs of a-z and 0-9, as rouge-score splits a text without a stemmer."""
    return _NOT_ROUGE.sub(" ", word).split()


@dataclass(frozen=True)
class Words:
    """Texts as integers, end to end.

    Attributes:
        id_T: the word, 0..size-1.
        text_T: the text it is of.
        position_T: its place in that text, from 0.
        lengths: words of each text.
        size: different words.
    """

    id_T: np.ndarray
    text_T: np.ndarray
    position_T: np.ndarray
    lengths: np.ndarray
    size: int


class Splitter:
    """Texts to words by one rule, `split_13a` or `split_rouge`: each different spaced word is split once."""

    def __init__(self, rule: Callable[[str], list[str]]):
        self._rule = rule
        self._ids: dict[str, int] = {}
        self._pieces: dict[str, list[int]] = {}

    def __call__(self, spaced: Spaced) -> Words:
        pieces = [self._pieces.get(word) or self._split(word) for word in spaced.words]
        piece_count = np.fromiter(map(len, pieces), np.int64, len(pieces))
        piece_ids = np.fromiter(chain.from_iterable(pieces), np.int64, int(piece_count.sum()))
        count_S = piece_count[spaced.id_S]
        text_T = np.repeat(spaced.text_S, count_S)
        first_S = (np.cumsum(piece_count) - piece_count)[spaced.id_S] - (np.cumsum(count_S) - count_S)
        id_T = piece_ids[np.repeat(first_S, count_S) + np.arange(len(text_T))]
        lengths = np.bincount(text_T, minlength=spaced.count)
        position_T = np.arange(len(text_T)) - (np.cumsum(lengths) - lengths)[text_T]
        return Words(id_T, text_T, position_T, lengths, len(self._ids))

    def _split(self, word: str) -> list[int]:
        self._pieces[word] = found = [self._ids.setdefault(piece, len(self._ids)) for piece in self._rule(word)]
        return found


class Spaced:
    """Texts cut at spaces, which both rules begin with.

    Attributes:
        words: different ones.
        id_S, text_S: each spaced word and the text it is of.
        count: texts.
    """

    def __init__(self, texts: Sequence[str]):
        lines = (text.lower().rstrip().replace("-\n", _JOINED_LINES) for text in texts)
        cut = f" {_END} ".join([*lines, ""]).split()
        ids: defaultdict[str, int] = defaultdict()
        ids.default_factory = ids.__len__
        end = ids[_END]
        id_S = np.fromiter(map(ids.__getitem__, cut), np.int64, len(cut))
        is_end_S = id_S == end
        self.words = list(ids)[1:]
        self.id_S = id_S[~is_end_S] - 1
        self.text_S = np.cumsum(is_end_S)[~is_end_S]
        self.count = len(texts)


@dataclass(frozen=True)
class Overlap:
    """n-grams of one order, by reply; both (N,).

    Attributes:
        matches: n-grams of the reply, each counted at most as often as its reference has it.
        distinct: different n-grams of the reply.
    """

    matches: np.ndarray
    distinct: np.ndarray


def overlaps(words: Words, count: int, orders: int) -> list[Overlap]:
    """Compare the n-grams of texts 0..count-1 (replies) with those of texts count..2*count-1 (their references), for
    each order from 1 to `orders`.

    One sort serves all orders: an n-gram is an integer whose highest bits are those of its first words.

    Raises:
        ValueError: a reply and its reference have more different words than fit (32,767 for order 4).
    """
    is_reference_T, row_T = np.divmod(words.text_T, count)
    local_T, most = _words_within_rows(row_T * words.size + words.id_T, words.size)
    bits = most.bit_length()
    if orders * bits + 1 > KEY_BITS:
        raise ValueError(f"a reply and its reference have {most:,} different words; their {orders}-grams don't fit")
    key_T = local_T
    for order in range(2, orders + 1):
        following_T = np.zeros_like(local_T)
        following_T[: 1 - order] = local_T[order - 1 :]
        following_T[words.position_T + order > words.lengths[words.text_T]] = 0
        key_T = key_T << bits | following_T
    if orders * bits + 1 + count.bit_length() > KEY_BITS:
        order_T = np.lexsort((is_reference_T, key_T, row_T))
        key_T, row_T, is_reference_T = key_T[order_T], row_T[order_T], is_reference_T[order_T]
    else:
        packed_T = np.sort((row_T << orders * bits | key_T) << 1 | is_reference_T)
        is_reference_T, key_T = packed_T & 1, packed_T >> 1
        row_T, key_T = key_T >> orders * bits, key_T & (1 << orders * bits) - 1
    prefixes = [key_T >> (orders - order) * bits for order in range(1, orders + 1)]
    return [_count_prefixes(prefix_T, bits, row_T, is_reference_T, count) for prefix_T in prefixes]


def _count_prefixes(
    gram_T: np.ndarray, bits: int, row_T: np.ndarray, is_reference_T: np.ndarray, count: int
) -> Overlap:
    """Count equal neighbours; a gram whose last `bits` are 0 goes beyond its text's end and is none."""
    changes_T = np.ones(len(gram_T), bool)
    changes_T[1:] = (gram_T[1:] != gram_T[:-1]) | (row_T[1:] != row_T[:-1])
    start_K = np.flatnonzero(changes_T)  # K: different n-grams of a row, of either side
    total_K = np.diff(start_K, append=len(gram_T))
    reference_K = np.diff(np.cumsum(is_reference_T)[start_K + total_K - 1], prepend=0)
    reply_K = total_K - reference_K
    complete_K = gram_T[start_K] & (1 << bits) - 1 > 0
    reply_K[~complete_K] = 0
    row_K = row_T[start_K]
    matches = np.bincount(row_K, weights=np.minimum(reply_K, reference_K), minlength=count)
    return Overlap(matches.astype(np.int64), np.bincount(row_K[reply_K > 0], minlength=count))


def _words_within_rows(key_T: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """Number the words of each row anew, from 1, and the highest number. `key_T` is row * size + word."""
    different_U, group_T = np.unique(key_T, return_inverse=True)
    row_U = different_U // max(size, 1)
    first_U = np.searchsorted(row_U, row_U)
    local_U = np.arange(len(row_U)) - first_U + 1
    return local_U[group_T], int(local_U.max(initial=0))


def lcs_lengths(words: Words, count: int) -> np.ndarray:
    """Length of the longest common subsequence of each reply and its reference, (N,).

    Bit-parallel (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"), for all replies of one length in
    machine words of their references at once.
    """
    found = np.zeros(count, np.int64)
    machine_words = np.where(words.lengths[:count] > 0, -(-words.lengths[count:] // WORD_BITS), 0)
    for width in np.unique(machine_words[machine_words > 0]):
        rows = np.flatnonzero(machine_words == width)
        rows = rows[np.argsort(-words.lengths[rows], kind="stable")]  # those still being read are always the first
        found[rows] = _lcs_of_width(words, count, rows, int(width))
    return found


def _lcs_of_width(words: Words, count: int, rows: np.ndarray, width: int) -> np.ndarray:
    starts = np.cumsum(words.lengths) - words.lengths
    is_row = np.zeros(count, bool)
    is_row[rows] = True
    is_reference_T, row_T = np.divmod(words.text_T, count)
    kept_T = is_row[row_T]
    key_T = np.where(kept_T, row_T * words.size + words.id_T, -1)
    different, group_T = np.unique(key_T, return_inverse=True)
    where_T = np.flatnonzero(kept_T & (is_reference_T == 1))
    position = words.position_T[where_T]
    # masks[u, w]: bit b is set where the word u stands at place 64 w + b of its reference.
    masks = np.zeros((len(different), width), np.uint64)
    bits = np.uint64(1) << (position % WORD_BITS).astype(np.uint64)
    np.bitwise_or.at(masks, (group_T[where_T], position // WORD_BITS), bits)
    state = np.full((width, len(rows)), ~np.uint64(0))
    lengths = words.lengths[rows]
    for place in range(lengths[0]):
        active = int(np.searchsorted(-lengths, -place, side="left"))
        match = masks[group_T[starts[rows[:active]] + place]]
        carry = np.zeros(active, np.uint64)
        for word in range(width):
            before = state[word, :active]
            common = before & match[:, word]
            total = before + common
            overflow = total < before
            total += carry
            carry = (overflow | (total < carry)).astype(np.uint64)
            state[word, :active] = total | (before & ~match[:, word])
    # Bits beyond a reference's end match nothing and stay set.
    return WORD_BITS * width - np.bitwise_count(state).sum(axis=0, dtype=np.int64)


def repetition_rates(words: Words) -> np.ndarray:
    """Share of each text's words that stand among the `REPETITION_WINDOW` words before them in the text (rep/l of
    Welleck et al. 2020, section 6.1, with l = 20); 0 for an empty text."""
    longest = int(words.lengths.max(initial=1))
    key_T = np.sort((words.text_T * words.size + words.id_T) * longest + words.position_T)
    word_T, position_T = np.divmod(key_T, longest)
    near = (np.diff(word_T) == 0) & (np.diff(position_T) <= REPETITION_WINDOW)
    repeated = np.bincount(word_T[1:][near] // max(words.size, 1), minlength=len(words.lengths))
    return repeated / np.maximum(words.lengths, 1)


@dataclass(frozen=True)
class PairScores:
    """Scores of N replies against a reference each; arrays are (N,) where nothing else is said.

    Attributes:
        bleu: by order 1, 2 and 4: sentence BLEU as NLTK's with smoothing method 1.
        rouge: by "1", "2" and "L": F1 as rouge-score's without stemming.
        distinct: by order: different n-grams over n-grams; 0 for a reply with fewer than n words.
        repetition: of the replies, as `repetition_rates`.
        matches: of orders 1 to 4, as `Overlap`'s, in words of `split_13a`; (4, N).
        reply_lengths, reference_lengths: in words of `split_13a`.
    """

    bleu: dict[int, np.ndarray]
    rouge: dict[str, np.ndarray]
    distinct: dict[int, np.ndarray]
    repetition: np.ndarray
    matches: np.ndarray
    reply_lengths: np.ndarray
    reference_lengths: np.ndarray


def score_pairs(replies: Sequence[str], references: Sequence[str]) -> PairScores:
    """Score each reply against its reference.

    Raises:
        ValueError: no reply, or lengths that differ.
    """
    if not replies or len(replies) != len(references):
        raise ValueError(f"{len(replies)} replies and {len(references)} references")
    split = Splitter(split_13a), Splitter(split_rouge)
    starts = range(0, len(replies), BLOCK)
    blocks = [_score_block(replies[i : i + BLOCK], references[i : i + BLOCK], *split) for i in starts]
    return PairScores(
        bleu={key: np.concatenate([block.bleu[key] for block in blocks]) for key in blocks[0].bleu},
        rouge={key: np.concatenate([block.rouge[key] for block in blocks]) for key in blocks[0].rouge},
        distinct={key: np.concatenate([block.distinct[key] for block in blocks]) for key in blocks[0].distinct},
        repetition=np.concatenate([block.repetition for block in blocks]),
        matches=np.concatenate([block.matches for block in blocks], axis=1),
        reply_lengths=np.concatenate([block.reply_lengths for block in blocks]),
        reference_lengths=np.concatenate([block.reference_lengths for block in blocks]),
    )


def _score_block(
    replies: Sequence[str], references: Sequence[str], split_bleu: Splitter, split_rouge: Splitter
) -> PairScores:
    count = len(replies)
    spaced = Spaced([*replies, *references])
    words, rouge_words = split_bleu(spaced), split_rouge(spaced)
    shared = overlaps(words, count, max(BLEU_ORDERS))
    lengths, reference_lengths = words.lengths[:count], words.lengths[count:]
    penalty = brevity_penalty(lengths, reference_lengths)
    rouge_lengths = rouge_words.lengths[:count], rouge_words.lengths[count:]
    rouge = {"L": _f1(lcs_lengths(rouge_words, count), *rouge_lengths)}
    for order, found in enumerate(overlaps(rouge_words, count, max(ROUGE_ORDERS)), 1):
        rouge[str(order)] = _f1(found.matches, *(gram_counts(length, order) for length in rouge_lengths))
    return PairScores(
        bleu={n: smoothed_bleu([found.matches for found in shared[:n]], lengths, penalty) for n in BLEU_ORDERS},
        rouge=rouge,
        distinct={n: shared[n - 1].distinct / np.maximum(gram_counts(lengths, n), 1) for n in DISTINCT_ORDERS},
        repetition=repetition_rates(words)[:count],
        matches=np.stack([found.matches for found in shared]),
        reply_lengths=lengths,
        reference_lengths=reference_lengths,
    )


def gram_counts(lengths: np.ndarray, order: int) -> np.ndarray:
    """How many n-grams texts of these lengths have."""
    return np.maximum(lengths - order + 1, 0)


def corpus_bleu(scores: PairScores, order: int) -> float:
    """BLEU over the corpus with uniform weights up to `order`, in [0, 1] and unsmoothed: sacrebleu's value over 100
    (13a, lower-cased). A corpus without one match of an order has 0."""
    matches = scores.matches[:order].sum(axis=1)
    totals = [int(gram_counts(scores.reply_lengths, n).sum()) for n in range(1, order + 1)]
    if not matches.all():
        return 0.0
    penalty = brevity_penalty(scores.reply_lengths.sum(), scores.reference_lengths.sum())
    return float(penalty * np.exp(np.mean(np.log(matches) - np.log(totals))))


def brevity_penalty(reply_lengths: np.ndarray, reference_lengths: np.ndarray) -> np.ndarray:
    """1 for replies longer than their reference, else exp(1 - reference/reply) (Papineni et al. 2002, section 2.3)."""
    ratio = reference_lengths / np.maximum(reply_lengths, 1)
    return np.where(reply_lengths > 0, np.exp(np.minimum(1 - ratio, 0.0)), 0.0)


def smoothed_bleu(matches: Sequence[np.ndarray], lengths: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Sentence BLEU (N,) with uniform weights over as many orders as matches are given for: smoothing method 1 of
    Chen & Cherry (2014), 0 for a reply that shares no word with its reference, as in NLTK.

    Args:
        lengths: of the replies.
        penalty: as `brevity_penalty`.
    """
    logs = [
        np.log(np.where(matched > 0, matched, EPSILON) / np.maximum(gram_counts(lengths, order), 1))
        for order, matched in enumerate(matches, 1)
    ]
    return np.where(matches[0] > 0, penalty * np.exp(np.mean(logs, axis=0)), 0.0)


def _f1(shared: np.ndarray, replies: np.ndarray, references: np.ndarray) -> np.ndarray:
    precision, recall = shared / np.maximum(replies, 1), shared / np.maximum(references, 1)
    return 2 * precision * recall / np.where(shared > 0, precision + recall, 1.0)
