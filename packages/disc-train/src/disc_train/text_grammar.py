"""How a table's rows are written in a language model's tokens, and which tokens may follow which.

A row is the start token, then for each column in reading order " name is", " value" and "," - the end token instead of
the last comma. Each of these pieces is tokenised on its own, so a cell's tokens never depend on its neighbours and a
prompt is written exactly as a training row was. Without the space in front, a row's text is one that
`disc_train.text.text_to_row` reads.

Shape legend: B rows, C columns, S tokens of all columns' vocabularies together (cells), N nodes and E edges of all
tries, T tokens of a row, W any padded width. In a padded array -1 is a hole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disc_train.schema import Schema
from disc_train.text import name_atom, value_atom
from trainworks.console import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HOLE = -1
SEPARATOR = ","
END_OF_ROW = "<|endoftext|>"
"""In a tokenizer of ours, what stands before and after a row."""
END_EDGE = -1
"""In place of an edge's token: what ends the value, a separator or, in the last clause, the end of the row."""


def prefix_text(name: str) -> str:
    """What stands before a column's value."""
    return f" {name_atom(name)} is"


def value_text(value: str | None) -> str:
    """A value as a row holds it; with a comma in it, as a JSON string, since a comma ends a value."""
    atom = value_atom(value)
    plain_comma = value is not None and SEPARATOR in atom and not atom.startswith('"')
    return f" {json.dumps(value) if plain_comma else atom}"


def pieces(schema: Schema) -> Iterable[tuple[str, int]]:
    """Every piece of text that rows are made of, with the number of training rows that hold it."""
    for column in schema.columns:
        num_rows = int(column.counts.sum())
        yield prefix_text(column.name), num_rows
        yield SEPARATOR, num_rows
        for text, count in zip(column.texts, column.counts.tolist(), strict=True):
            yield value_text(text), count


def learn_bpe(schema: Schema, vocab_size: int) -> Tokenizer:
    """A byte-level BPE of the rows' pieces, weighted by how many training rows hold each.

    Since no piece is tokenised together with another, the values and their counts are all that the rows can teach.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_ROW],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Only ratios matter, and the trainer counts piece by piece: a large table is scaled down.
    weighted = list(pieces(schema))
    scale = min(1.0, 200_000 / sum(count for _, count in weighted))
    repeated = (piece for piece, count in weighted for _ in range(max(1, round(count * scale))))
    tokenizer.train_from_iterator(repeated, trainer)
    return tokenizer


@dataclass
class _Edges:
    """Tries of all columns in one list of edges; nodes are numbered so that parents come before children."""

    first_value: list[int] = field(default_factory=list)
    """(N,) a node covers the values first_value to stop_value of the sorted ones, counted through all columns."""
    stop_value: list[int] = field(default_factory=list)
    entered_by: list[int] = field(default_factory=list)
    """(N,) the edge that leads to a node; -1 for a root."""
    first_edge: list[int] = field(default_factory=list)
    """(N,) where a node's edges begin."""
    num_edges: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    """(E,) the node that an edge leaves."""
    child: list[int] = field(default_factory=list)
    token: list[int] = field(default_factory=list)
    """(E,) by which an edge is chosen, or END_EDGE."""
    text: list[tuple[int, ...]] = field(default_factory=list)
    """(E,) all tokens up to the next choice, without what ends the value."""

    def add_node(self, first: int, stop: int, entered_by: int) -> int:
        self.first_value.append(first)
        self.stop_value.append(stop)
        self.entered_by.append(entered_by)
        self.first_edge.append(len(self.parent))
        self.num_edges.append(0)
        return len(self.first_value) - 1

    def add_trie(self, sequences: Sequence[tuple[int, ...]], offset: int) -> tuple[int, tuple[int, ...]]:
        """The radix tree of sorted, distinct sequences; returns its root and what all of them begin with."""
        root = self.add_node(offset, offset + len(sequences), -1)
        opening = _shared(sequences[0], sequences[-1])
        queue = [(root, 0, len(sequences), opening)]
        for node, first, stop, depth in queue:
            self.first_edge[node] = len(self.parent)
            while first < stop and stop - first + self.num_edges[node] > 1:
                head = sequences[first][depth : depth + 1]
                last = first + 1
                while last < stop and head and sequences[last][depth : depth + 1] == head:
                    last += 1
                shared = _shared(sequences[first], sequences[last - 1])
                child = self.add_node(offset + first, offset + last, len(self.parent))
                if last - first > 1:
                    queue.append((child, first, last, shared))
                self.parent.append(node)
                self.child.append(child)
                self.token.append(head[0] if head else END_EDGE)
                self.text.append(sequences[first][depth:shared])
                self.num_edges[node] += 1
                first = last
        return root, sequences[0][:opening]


class RowGrammar(nn.Module):
    """The table's rows as token sequences, and for each column a trie of its values. Holds no parameters.

    Args:
        schema: a column's tokens are its values, one to one; bins and shared rare tokens have no text.
        tokenizer: writes any text; its special tokens are never found in a value.
        start, end: token before and after a row.

    Raises:
        UserError: the tokenizer writes two values of a column alike, or can't tell where one ends.
        ValueError: the schema has bins, or a token that rare values share.
    """

    def __init__(self, schema: Schema, tokenizer: Tokenizer, start: int, end: int):
        super().__init__()
        tokenizer.encode_special_tokens = True
        tokenizer.no_padding()
        tokenizer.no_truncation()

        def encode(texts: Sequence[str]) -> list[tuple[int, ...]]:
            return [tuple(e.ids) for e in tokenizer.encode_batch(texts, add_special_tokens=False)]

        self.start, self.end = start, end
        (separator,) = encode([SEPARATOR])
        prefixes = encode([prefix_text(name) for name in schema.names])
        edges, longest = _Edges(), 1
        values: list[tuple[int, ...]] = []
        roots: list[int] = []
        openings: list[tuple[int, ...]] = []
        sorted_codes: list[int] = []
        for column, prefix in zip(schema.columns, prefixes, strict=True):
            if any(text is None and code != column.missing for code, text in enumerate(column.texts)):
                raise ValueError(f'column "{column.name}" has tokens that stand for no single value')
            sequences = encode([value_text(text) for text in column.texts])
            order = sorted(range(len(sequences)), key=sequences.__getitem__)
            for a, b in pairwise(order):
                if sequences[a] == sequences[b]:
                    raise UserError(
                        f'column "{column.name}": the tokenizer of model.base_model writes {column.texts[a]!r} and '
                        f"{column.texts[b]!r} alike; take a model with byte-level tokens"
                    )
            root, opening = edges.add_trie([sequences[code] for code in order], len(values))
            roots.append(root)
            openings.append(opening)
            sorted_codes += order
            values += sequences
            longest += len(prefix) + max(map(len, sequences)) + max(1, len(separator))
        self.longest_row = longest
        """Tokens of the longest possible row."""
        self._check_ends(schema, edges, roots, separator)
        offsets = [0, *torch.tensor(schema.vocab_sizes).cumsum(0).tolist()][:-1]
        for name, numbers in (
            ("offsets", offsets),
            ("roots", roots),
            ("sorted_codes", sorted_codes),
            ("first_value", edges.first_value),
            ("stop_value", edges.stop_value),
            ("entered_by", edges.entered_by),
            ("first_edge", edges.first_edge),
            ("num_edges", edges.num_edges),
            ("edge_parent", edges.parent),
            ("edge_child", edges.child),
            ("edge_token", edges.token),
        ):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.long), persistent=False)
        for name, texts in (
            ("prefixes", prefixes),
            ("openings", openings),
            ("values", values),
            ("edge_text", edges.text),
            ("ends", [separator, (end,)]),
        ):
            self.register_buffer(name, _padded(texts), persistent=False)
        self.largest_token = max(int(self.prefixes.max()), int(self.values.max()), int(self.ends.max()), start)

    def _check_ends(self, schema: Schema, edges: _Edges, roots: Sequence[int], separator: tuple[int, ...]) -> None:
        ambiguous = {node for node, token in zip(edges.parent, edges.token, strict=True) if token == END_EDGE}
        for node, token in zip(edges.parent, edges.token, strict=True):
            if node in ambiguous and token in (separator[0], self.end):
                name = schema.names[max(c for c, root in enumerate(roots) if root <= node)]
                raise UserError(
                    f'column "{name}": the tokenizer of model.base_model can\'t tell where its values end; '
                    "take a model with byte-level tokens"
                )

    def rows(self, codes_BC: Tensor, order_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Rows as tokens.

        Returns:
            tokens (B, T), with holes after the end, and for each token the column whose value it is part of (B, T),
            -1 for the start, the prefixes and the holes. What ends a value belongs to it.
        """
        B, C = codes_BC.shape
        cells = (codes_BC + self.offsets).gather(1, order_BC)
        is_last = (torch.arange(C, device=order_BC.device) == C - 1).long()
        parts = [self.prefixes[order_BC], self.values[cells], self.ends[is_last].expand(B, -1, -1)]
        of_column = order_BC.unsqueeze(2)
        columns = [torch.full_like(parts[0], -1), *(of_column.expand_as(part) for part in parts[1:])]
        start = codes_BC.new_full((B, 1), self.start)
        tokens = torch.cat([start, torch.cat(parts, 2).flatten(1)], 1)
        owners = torch.cat([torch.full_like(start, -1), torch.cat(columns, 2).flatten(1)], 1)
        filled = tokens != HOLE
        place = filled.cumsum(1) - 1
        width = int(place[:, -1].max()) + 1
        return _move(tokens, filled, place, width), _move(owners, filled, place, width)

    def edges_of(self, node_B: Tensor, is_last: bool) -> tuple[Tensor, Tensor]:
        """The edges that leave each node and the tokens that choose them, (B, W) both; where a node has fewer than
        others, its first edge with a hole for a token.

        Args:
            is_last: the value ends the row, so its end is the end token.
        """
        within = torch.arange(int(self.num_edges[node_B].max()), device=node_B.device)
        there = within < self.num_edges[node_B].unsqueeze(1)
        edges = self.first_edge[node_B].unsqueeze(1) + within * there
        tokens = self.edge_token[edges]
        tokens = torch.where(tokens == END_EDGE, self.ends[int(is_last), 0], tokens)
        return edges, tokens.masked_fill(~there, HOLE)

    def is_leaf(self, node_B: Tensor) -> Tensor:
        return self.num_edges[node_B] == 0

    def code_of(self, leaf_B: Tensor) -> Tensor:
        """The code that a leaf stands for."""
        return self.sorted_codes[self.first_value[leaf_B]]

    def path_to(self, node: int) -> Tensor:
        """Tokens from a column's root to another node, (W,); what all values begin with comes before the root."""
        steps = []
        while (edge := int(self.entered_by[node])) >= 0:
            steps.append(self.edge_text[edge])
            node = int(self.edge_parent[edge])
        path = torch.cat(steps[::-1])
        return path[path != HOLE]

    def subtree_weights(self, column: int, weight_V: Tensor) -> tuple[Tensor, list[int]]:
        """What a restriction of a column means for each node of its trie.

        Returns:
            the weight that all values below a node share, where they do, for each node of this trie (its root first);
            and the nodes, without the root, below which weights differ, children before parents.
        """
        first_value = int(self.offsets[column])
        root = int(self.roots[column])
        stop = int(self.roots[column + 1]) if column + 1 < len(self.roots) else len(self.first_value)
        sorted_V = weight_V.float()[self.sorted_codes[first_value : first_value + len(weight_V)]]
        first_N = self.first_value[root:stop] - first_value
        last_N = self.stop_value[root:stop] - first_value - 1
        changes_V = F.pad(sorted_V[1:] != sorted_V[:-1], (1, 0)).cumsum(0)
        mixed = (changes_V[first_N] != changes_V[last_N]).nonzero().squeeze(1) + root
        return sorted_V[first_N], [node for node in mixed.tolist() if node != root][::-1]


def _shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Tokens that both begin with."""
    length = min(len(a), len(b))
    return next((i for i in range(length) if a[i] != b[i]), length)


def push_right(tokens_BW: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens moved to the right end, with the holes before them and no more columns than the fullest row needs.

    Returns:
        tokens (B, W), 0 in holes, and whether a token stands there (B, W).
    """
    filled = tokens_BW != HOLE
    count = filled.sum(1, keepdim=True)
    width = int(count.max())
    moved = _move(tokens_BW, filled, filled.cumsum(1) - 1 + width - count, width)
    return moved.clamp_min(0), moved != HOLE


def _move(tokens_BW: Tensor, filled_BW: Tensor, place_BW: Tensor, width: int) -> Tensor:
    """The filled ones at their place of `width`; one column more takes the others."""
    place = torch.where(filled_BW, place_BW, width)
    out = tokens_BW.new_full((len(tokens_BW), width + 1), HOLE)
    return out.scatter_(1, place, tokens_BW)[:, :width]


def _padded(sequences: Sequence[Sequence[int]]) -> Tensor:
    width = max(1, max(map(len, sequences), default=0))
    rows = [[*sequence, *[HOLE] * (width - len(sequence))] for sequence in sequences]
    return torch.tensor(rows, dtype=torch.long).reshape(-1, width)
