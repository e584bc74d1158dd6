"""Text to word numbers and back.

Words are lower-cased, and their spelling comes back from how each is usually written: a reply is "Thank you, Ann."
again. A word that stood without a space before it carries a joiner, so that the spacing comes back as it was.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainworks.console import UserError
from trainworks.files import write_json

PAD, UNKNOWN, BEGIN, END = "<pad>", "<unknown>", "<begin>", "<end>"
SPECIAL = (PAD, UNKNOWN, BEGIN, END)
JOINER = "\u2581"
"""Stands before a word that follows without a space."""
_WORDS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+|[^\w\s]|_")
_SENTENCE_END = re.compile(r"[.!?]$")
SCHEMA = 1
"""Version of tokenizer.json's layout."""


def split_words(text: str) -> list[str]:
    """Words, numbers and signs in the text's own spelling; one that follows without a space begins with `JOINER`."""
    found: list[str] = []
    end = 0
    for match in _WORDS.finditer(text):
        joined = found and match.start() == end
        found.append(JOINER + match.group() if joined else match.group())
        end = match.end()
    return found


class Tokenizer:
    """A vocabulary and its two directions. Make one with `train`, `load` or `from_json`.

    Attributes:
        kind: "word" or "bpe".
        pad_id, unknown_id, begin_id, end_id: the special words' ids, the same in every tokenizer.
    """

    pad_id, unknown_id, begin_id, end_id = range(len(SPECIAL))

    def __init__(self, kind: Literal["word", "bpe"], words: Sequence[str] = (), spelling: Any = None, bpe: Any = None):
        """
        Args:
            words: the vocabulary in the order of its ids, the special words first (kind "word").
            spelling: of lower-case words, how each is written inside a sentence (kind "word").
            bpe: a `tokenizers.Tokenizer` (kind "bpe").
        """
        self.kind = kind
        self._words = list(words)
        self._ids = {word: number for number, word in enumerate(self._words)}
        self._spelling: dict[str, str] = dict(spelling or {})
        self._bpe = bpe
        if bpe is not None:
            bpe.encode_special_tokens = True  # so that a text that spells "<end>" has letters, no end

    @property
    def size(self) -> int:
        """Number of ids, the special ones counted."""
        return len(self._words) if self._bpe is None else self._bpe.get_vocab_size()

    @classmethod
    def train(
        cls, texts: Iterable[str], kind: Literal["word", "bpe"] = "word", max_size: int = 8000, min_count: int = 2
    ) -> Tokenizer:
        """Learn a vocabulary: the most frequent words, or byte-level BPE merges (Sennrich et al. 2016).

        Args:
            max_size: ids, at most.
            min_count: times that a word must occur in `texts`.
        """
        if kind == "bpe":
            return cls("bpe", bpe=_train_bpe(texts, max_size, min_count))
        counts: Counter[str] = Counter()
        spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            starts = True
            for word in split_words(text):
                bare = word.removeprefix(JOINER)
                counts[word.lower()] += 1
                if not starts:
                    spellings[bare.lower()][bare] += 1
                starts = bool(_SENTENCE_END.search(bare))
        ranked = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
        kept = ranked[: max_size - len(SPECIAL)]
        usual = {
            word: spellings[word].most_common(1)[0][0]
            for word in {w.removeprefix(JOINER) for w in kept}
            if spellings[word]
        }
        return cls("word", [*SPECIAL, *kept], {word: usual[word] for word in sorted(usual) if usual[word] != word})

    def tokenize(self, text: str) -> list[int]:
        """The ids of a text, without an end."""
        if self._bpe is not None:
            return self._bpe.encode(text).ids
        return [self._id(word.lower()) for word in split_words(text)]

    def _id(self, word: str) -> int:
        """Of a word that was only seen with, or without, a space before it: that one's."""
        found = self._ids.get(word)
        if found is None:
            other = word.removeprefix(JOINER) if word.startswith(JOINER) else JOINER + word
            found = self._ids.get(other, self.unknown_id)
        return found

    def encode(self, text: str, length: int) -> np.ndarray:
        """Ids (length,) int32: the words, the end, then padding. A longer text loses its last words, never its end."""
        ids = self.tokenize(text)[: length - 1]
        encoded = np.full(length, self.pad_id, np.int32)
        encoded[: len(ids)] = ids
        encoded[len(ids)] = self.end_id
        return encoded

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids up to the first end; special ids are left out."""
        kept = []
        for number in ids:
            if number == self.end_id:
                break
            if number >= len(SPECIAL):
                kept.append(int(number))
        if self._bpe is not None:
            return self._bpe.decode(kept).strip()
        text, starts = "", True
        for number in kept:
            word = self._words[number]
            bare = word.removeprefix(JOINER)
            if text and not word.startswith(JOINER):
                text += " "
            spelled = self._spelling.get(bare, bare)
            text += spelled[:1].upper() + spelled[1:] if starts else spelled
            starts = bool(_SENTENCE_END.search(bare))
        return text

    def to_json(self) -> dict[str, Any]:
        """Plain data, which `from_json` reads."""
        content: dict[str, Any] = {"schema": SCHEMA, "kind": self.kind}
        if self._bpe is not None:
            return content | {"bpe": json.loads(self._bpe.to_str())}
        return content | {"words": self._words, "spelling": self._spelling}

    @classmethod
    def from_json(cls, content: Any) -> Tokenizer:
        """Raises KeyError, TypeError or ValueError if the data is not what `to_json` gives."""
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}; this version reads schema {SCHEMA}")
        if content["kind"] == "bpe":
            import tokenizers

            return cls("bpe", bpe=tokenizers.Tokenizer.from_str(json.dumps(content["bpe"])))
        if tuple(content["words"][: len(SPECIAL)]) != SPECIAL:
            raise ValueError("the special words are not the first")
        return cls("word", content["words"], content["spelling"])

    def save(self, path: str | Path) -> None:
        """Publish as JSON."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or is no tokenizer.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"no tokenizer at {path}; diversity-finetune prepare makes one") from None
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is not a tokenizer of diversity-finetune: {error}") from None


def _train_bpe(texts: Iterable[str], max_size: int, min_count: int) -> Any:
    from tokenizers import Tokenizer as BPE
    from tokenizers import decoders, models, pre_tokenizers, trainers

    bpe = BPE(models.BPE(unk_token=UNKNOWN))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max_size,
        min_frequency=min_count,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe
