"""What is measured beside the loss while training goes on."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from diversity_finetune.data import Pair
from diversity_finetune.decoding import Decoding
from diversity_finetune.generate import Decoder, generate_stream
from diversity_finetune.quality import measure
from trainworks.files import atomic_write

COLUMNS = (
    "epoch",
    "bleu_1",
    "bleu_2",
    "bleu_4",
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "repetition_rate",
    "entropy",
    "quality_score",
    "avg_length",
    "corpus_distinct_1",
    "corpus_distinct_2",
    "corpus_distinct_3",
    "human_corpus_distinct_2",
    "expectation_adjusted_distinct",
    "self_bleu",
    "sentence_bleu_4",
    "std_length",
    "shuffled_rouge_l",
    "band",
)
"""Of the log; "measure" in `quality` says what each is."""


class DiversityQualityCallback:
    """Measures sampled replies to validation messages every few epochs and appends them to a CSV file. Call it with the
    number of each epoch that ended."""

    def __init__(self, decoder: Decoder, pairs: Sequence[Pair], log: Path, every: int, examples: int):
        """
        Args:
            pairs: the validation pairs, of which as many as `examples` are taken at even distances.
            log: the CSV file; its folder is made if absent.
            every: epochs between measurements.
        """
        self._decoder = decoder
        count = min(examples, len(pairs))
        self._pairs = [pairs[place * len(pairs) // count] for place in range(count)]
        self._log, self._every = log, every

    def __call__(self, epoch: int) -> dict[str, float]:
        """The metrics as "quality/NAME"; none at an epoch without a measurement. An epoch that is run again after
        --resume replaces its line and those after it."""
        if epoch % self._every:
            return {}
        replies = [reply.text for reply in generate_stream(self._decoder, self._pairs, Decoding())]
        found = {"epoch": epoch, **measure(replies, [pair.agent for pair in self._pairs])}
        self._append(epoch, [str(found[column]) for column in COLUMNS])
        return {f"quality/{column}": found[column] for column in COLUMNS if column not in ("epoch", "band")}

    def _append(self, epoch: int, row: list[str]) -> None:
        rows = [list(COLUMNS)]
        if self._log.is_file():
            with open(self._log, encoding="utf-8", newline="") as file:
                rows += [earlier for earlier in list(csv.reader(file))[1:] if int(earlier[0]) < epoch]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*rows, row])
        self._log.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self._log, text.getvalue())
