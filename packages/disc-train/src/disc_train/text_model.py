"""The text generator: a causal language model over rows written as "column is value" (GReaT).

Borisov et al. 2023, "Language Models are Realistic Tabular Data Generators". What differs: decoding follows the table's
own grammar (`disc_train.text_grammar`), so every row comes out whole and with known values only.

Shape legend: B rows, C columns, T tokens of a row, V values of a column, D width of the states, W tokens read at once,
R rows that draw, E edges that leave a trie's node, N nodes of a column's trie.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from disc_train.config import ModelConfig
from disc_train.model import Generator, draw
from disc_train.schema import Schema
from disc_train.text_grammar import END_OF_ROW, HOLE, RowGrammar, learn_bpe, push_right
from trainworks.console import UserError
from trainworks.files import atomic_write, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

FOLDER = "text"
"""Where in a run directory the tokenizer and the network's shape lie."""
MOST_LOGITS = 2**24
"""Logits computed at once: a pretrained model's vocabulary times the tokens of a batch would fill any memory."""
MOST_CACHED = 2**27
"""Numbers in the key/value cache, which bounds the rows sampled at once."""
MOST_ROWS = 256


class TextGenerator(Generator):
    """p(row) as a language model's probability of the row's text, in any column order.

    `log_prob` is the plain next-token likelihood of a cell's tokens and of what ends it, over the model's whole
    vocabulary; column names cost nothing. `sample` draws from the same model restricted to the table's grammar: the
    softmax goes over those tokens that continue some value of the column.

    Args:
        model: a Hugging Face causal language model that passes `check_model`.
        grammar: the table's rows in that model's tokens.
        vocab_sizes: number of values of each column.
    """

    def __init__(self, model: PreTrainedModel, grammar: RowGrammar, vocab_sizes: list[int]):
        super().__init__()
        self.model = model
        self.grammar = grammar
        self.vocab_sizes = vocab_sizes

    def log_prob(self, codes_BC: Tensor, order_BC: Tensor, smooth: bool = False) -> Tensor:
        """As `Generator.log_prob` says; text knows no neighbours, so `smooth` changes nothing."""
        tokens_BT, column_BT = self.grammar.rows(codes_BC, order_BC)
        # Holes come last, where no token that counts can see them: causal attention needs no mask.
        hidden_BTD = self.model.base_model(tokens_BT.clamp_min(0), use_cache=False).last_hidden_state
        target_BT = column_BT[:, 1:]
        row, place = (target_BT >= 0).nonzero(as_tuple=True)
        log_probs = self._token_log_probs(hidden_BTD[row, place], tokens_BT[row, place + 1])
        cell = row * self.num_columns + target_BT[row, place]
        return log_probs.new_zeros(codes_BC.numel()).index_add(0, cell, log_probs).view_as(codes_BC)

    def _token_log_probs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """log p(target) (tokens,) from the states before them (tokens, D)."""
        size = max(1, MOST_LOGITS // len(self.model.get_output_embeddings().weight))
        if len(hidden) <= size:
            return self._head_log_probs(hidden, targets)
        # Each part's logits are computed again in the backward pass instead of being kept.
        parts = zip(hidden.split(size), targets.split(size), strict=True)
        return torch.cat([checkpoint(self._head_log_probs, *part, use_reentrant=False) for part in parts])

    def _head_log_probs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(hidden)
        return -F.cross_entropy(logits.float(), targets, reduction="none")

    @torch.inference_mode()
    def sample(
        self,
        known_BC: Tensor,
        order_BC: Tensor,
        generator: torch.Generator,
        allowed: Mapping[int, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `Generator.sample` says; exact, so a restricted column costs one pass more for each node of its trie that
        has both allowed and other values below it."""
        self.eval()
        config = self.model.config
        row_cache = 2 * config.hidden_size * config.num_hidden_layers * self.grammar.longest_row
        size = max(1, min(MOST_ROWS, MOST_CACHED // row_cache))
        parts = [
            self._sample_rows(known, order, generator, allowed or {})
            for known, order in zip(known_BC.split(size), order_BC.split(size), strict=True)
        ]
        codes, log_mass = zip(*parts, strict=True)
        return torch.cat(codes), torch.cat(log_mass)

    def _sample_rows(
        self, known_BC: Tensor, order_BC: Tensor, generator: torch.Generator, allowed: Mapping[int, Tensor]
    ) -> tuple[Tensor, Tensor]:
        grammar = self.grammar
        B, C = known_BC.shape
        codes_BC, log_mass_BC = known_BC.clone(), torch.zeros(B, C, device=known_BC.device)
        reader = Reader(self.model, grammar.start, B)
        for t in range(C):
            column_B, is_last = order_BC[:, t], t == C - 1
            code_B = known_BC.gather(1, column_B.unsqueeze(1)).squeeze(1)
            drawn_R, given_R = (code_B < 0).nonzero().squeeze(1), (code_B >= 0).nonzero().squeeze(1)
            reader.waiting.append(grammar.prefixes[column_B])
            if len(given_R):
                column_R = column_B[given_R]
                reader.queue(grammar.values[grammar.offsets[column_R] + code_B[given_R]], given_R)
                reader.queue(grammar.ends[int(is_last)].expand(len(given_R), -1), given_R)
            if len(drawn_R):
                column_R = column_B[drawn_R]
                drawn = self._draw_cells(reader, drawn_R, column_R, is_last, generator, allowed)
                codes_BC[drawn_R, column_R], log_mass_BC[drawn_R, column_R] = drawn
        return codes_BC, log_mass_BC

    def _draw_cells(
        self,
        reader: Reader,
        rows_R: Tensor,
        column_R: Tensor,
        is_last: bool,
        generator: torch.Generator,
        allowed: Mapping[int, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """One cell of each of these rows, walked from the root of its column's trie to a leaf.

        Returns:
            codes (R,) and log-probability of what was allowed (R,).
        """
        grammar = self.grammar
        reader.queue(grammar.openings[column_R], rows_R)
        node_R = grammar.roots[column_R]
        reach = {
            c: self._log_reach(reader, rows_R[column_R == c], c, weight_V, is_last)
            for c, weight_V in allowed.items()
            if (column_R == c).any()
        }
        log_mass_R = torch.zeros(len(rows_R), device=rows_R.device)
        for c, reach_RN in reach.items():
            log_mass_R[column_R == c] = reach_RN[:, 0]
        at_root = True
        while (open_R := ~grammar.is_leaf(node_R)).any():
            hidden_RD = reader.read()[rows_R[open_R]]
            edges_RE, log_probs_RE = self._log_probs_of_edges(hidden_RD, node_R[open_R], is_last)
            for c, reach_RN in reach.items():
                of_column = column_R[open_R] == c
                children = grammar.edge_child[edges_RE[of_column]] - grammar.roots[c]
                log_probs_RE[of_column] += reach_RN[open_R[column_R == c]].gather(1, children)
                if at_root:
                    log_mass_R[open_R & (column_R == c)] = log_probs_RE[of_column].logsumexp(1)
            choice = draw((log_probs_RE - log_probs_RE.amax(1, keepdim=True)).exp(), generator)
            edge = edges_RE.gather(1, choice.unsqueeze(1)).squeeze(1)
            reader.queue(grammar.edge_text[edge], rows_R[open_R])
            node_R[open_R] = grammar.edge_child[edge]
            at_root = False
        reader.queue(grammar.ends[int(is_last)].expand(len(rows_R), -1), rows_R)
        return grammar.code_of(node_R), log_mass_R

    def _log_probs_of_edges(self, hidden_RD: Tensor, node_R: Tensor, is_last: bool) -> tuple[Tensor, Tensor]:
        """The edges that leave each node (R, E) and their log-probabilities (R, E), -inf in holes."""
        edges_RE, tokens_RE = self.grammar.edges_of(node_R, is_last)
        logits = self.model.get_output_embeddings()(hidden_RD).float()
        scores_RE = logits.gather(1, tokens_RE.clamp_min(0)).masked_fill(tokens_RE == HOLE, -torch.inf)
        return edges_RE, scores_RE.log_softmax(1)

    def _log_reach(self, reader: Reader, rows_R: Tensor, column: int, weight_V: Tensor, is_last: bool) -> Tensor:
        """Log of the allowed mass below each node of a column's trie, given that the node is reached, (R, N).

        The root's own holds only if all its values weigh the same; otherwise the draw at the root finds it.
        """
        grammar = self.grammar
        root = int(grammar.roots[column])
        log_weight_N, mixed = grammar.subtree_weights(column, weight_V)
        reach_RN = log_weight_N.log().expand(len(rows_R), -1)
        if not mixed:
            return reach_RN
        reach_RN = reach_RN.clone()
        for node in mixed:
            hidden_RD = reader.peek(grammar.path_to(node).expand(len(rows_R), -1), rows_R)[rows_R]
            edges_RE, log_probs_RE = self._log_probs_of_edges(hidden_RD, rows_R.new_full(rows_R.shape, node), is_last)
            children = grammar.edge_child[edges_RE] - root
            reach_RN[:, node - root] = (log_probs_RE + reach_RN.gather(1, children)).logsumexp(1)
        return reach_RN


class Reader:
    """Reads rows of different lengths side by side, each token once.

    What a row is to read waits in a queue until a state is asked for. Rows that have less to read than others get
    holes before it, which attention leaves out; positions count a row's own tokens.

    Args:
        model: a causal language model.
        start: the token that every row begins with. It also gives holes something to attend to.
        num_rows: B.
    """

    def __init__(self, model: PreTrainedModel, start: int, num_rows: int):
        from transformers import DynamicCache

        self.model = model
        self.cache = DynamicCache()
        self.seen_BT = torch.zeros(num_rows, 0, dtype=torch.long, device=model.device)
        self.num_rows = num_rows
        self.waiting: list[Tensor] = [torch.full((num_rows, 1), start, device=model.device)]
        self.read()

    def queue(self, tokens_RW: Tensor, rows_R: Tensor) -> None:
        """Tokens (R, W), with holes, that the rows of these numbers (R,) are to read next."""
        tokens_BW = tokens_RW.new_full((self.num_rows, tokens_RW.shape[1]), HOLE)
        tokens_BW[rows_R] = tokens_RW
        self.waiting.append(tokens_BW)

    def read(self) -> Tensor:
        """The state (B, D) after all that each row has read; meaningless for rows that had nothing waiting."""
        if self.waiting:
            self.state_BD = self._forward(torch.cat(self.waiting, 1))
            self.waiting = []
        return self.state_BD

    def peek(self, tokens_RW: Tensor, rows_R: Tensor) -> Tensor:
        """The state (B, D) that some rows would have after these tokens, which stay unread."""
        self.read()
        state_BD, seen_BT = self.state_BD, self.seen_BT
        self.queue(tokens_RW, rows_R)
        peeked_BD = self.read()
        self.cache.crop(seen_BT.shape[1] - self.seen_BT.shape[1])
        self.state_BD, self.seen_BT = state_BD, seen_BT
        return peeked_BD

    def _forward(self, tokens_BW: Tensor) -> Tensor:
        tokens_BW, filled_BW = push_right(tokens_BW)
        filled_BW = filled_BW.long()
        position_BW = self.seen_BT.sum(1, keepdim=True) + filled_BW.cumsum(1) - 1
        self.seen_BT = torch.cat([self.seen_BT, filled_BW], 1)
        output = self.model.base_model(
            tokens_BW,
            attention_mask=self.seen_BT,
            position_ids=position_BW.clamp_min(0),
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]


def build_text_generator(schema: Schema, config: ModelConfig, run_dir: Path | None = None) -> TextGenerator:
    """A generator that has not learned the table yet: a pretrained model, or a small GPT-2 with fresh weights.

    Args:
        schema: every value has a token of its own; how many rows hold it is what a BPE is learned from.
        config: `base_model` names a pretrained model's directory; without it dim, depth, num_heads, mlp_ratio, dropout
            and bpe_vocab say what is built.
        run_dir: where to write what `load_text_generator` needs beside the weights.

    Raises:
        UserError: the base model is missing, unsuitable, or reads fewer tokens than a row has.
    """
    if config.base_model:
        model, tokenizer, start, end = read_base_model(Path(config.base_model))
        grammar = RowGrammar(schema, tokenizer, start, end)
        check_model(model, grammar, config.base_model)
    else:
        tokenizer = learn_bpe(schema, config.bpe_vocab)
        end = tokenizer.get_vocab()[END_OF_ROW]
        grammar = RowGrammar(schema, tokenizer, end, end)
        model = small_gpt2(config, tokenizer.get_vocab_size(), grammar.longest_row)
    # Rows are never padded with it; where it is set, transformers warns of tokens that look so.
    model.config.pad_token_id = None
    if run_dir is not None:
        folder = run_dir / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        shape = json.loads(model.config.to_json_string(use_diff=False))
        shape.pop("_name_or_path", None)
        atomic_write(folder / "tokenizer.json", tokenizer.to_str())
        write_json(folder / "config.json", {"model": shape, "start": grammar.start, "end": grammar.end})
    return TextGenerator(model, grammar, schema.vocab_sizes)


def load_text_generator(schema: Schema, run_dir: Path) -> TextGenerator:
    """The generator of a run, whose weights are still to be loaded; the base model's directory is not needed.

    Raises:
        UserError: a file is missing or damaged.
    """
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = run_dir / FOLDER
    try:
        tokenizer = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        start, end = int(saved["start"]), int(saved["end"])
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**saved["model"]), dtype=torch.float32)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror}; the run's text model can't be rebuilt"
        ) from None
    except Exception as error:  # tokenizers raises bare Exception, transformers whatever a wrong field leads to
        raise UserError(f"{folder} is damaged: {_first_line(error)}") from None
    return TextGenerator(model, RowGrammar(schema, tokenizer, start, end), schema.vocab_sizes)


def small_gpt2(config: ModelConfig, vocab_size: int, num_positions: int) -> PreTrainedModel:
    """A GPT-2 with fresh weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size,
            n_positions=num_positions,
            n_embd=config.dim,
            n_layer=config.depth,
            n_head=config.num_heads,
            n_inner=config.mlp_ratio * config.dim,
            # The exact GELU is one operation; GPT-2's approximation of it is eight.
            activation_function="gelu",
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            # Dropped attention weights would rule out the fused kernel, several times as fast on rows of this length.
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def read_base_model(folder: Path) -> tuple[PreTrainedModel, Tokenizer, int, int]:
    """A pretrained model from disk, its tokenizer, and the tokens before and after a text.

    Raises:
        UserError: no such directory, or no causal language model in it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    if not folder.is_dir():
        raise UserError(
            f"model.base_model: there is no directory {folder}; give one with a Hugging Face causal language model "
            "(config.json, model.safetensors, tokenizer.json)"
        )
    disable_progress_bar()
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        backend = tokenizer.backend_tokenizer
    except Exception as error:  # transformers raises whatever a wrong or missing file leads to
        raise UserError(
            f"model.base_model: {folder} holds no causal language model that can be read: {_first_line(error)}"
        ) from None
    if loading["missing_keys"]:
        raise UserError(f"model.base_model: {folder} lacks weights, such as {min(loading['missing_keys'])}")
    if tokenizer.eos_token_id is None:
        raise UserError(f"model.base_model: the tokenizer in {folder} has no end-of-sequence token")
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return model, backend, start, tokenizer.eos_token_id


@torch.no_grad()
def check_model(model: PreTrainedModel, grammar: RowGrammar, name: str) -> None:
    """Refuse a model that can't write the table's rows.

    Raises:
        UserError: it reads too few tokens, lacks tokens, sees later tokens, or its head is more than one matrix.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions < grammar.longest_row:
        raise UserError(
            f"model.base_model: {name} reads at most {positions} tokens, and a row of this table has up to "
            f"{grammar.longest_row}; drop columns or take a model with a longer context"
        )
    head = model.get_output_embeddings()
    if head is None or grammar.largest_token >= len(head.weight):
        raise UserError(f"model.base_model: the tokenizer and the weights in {name} do not belong together")
    model.eval()
    rows = torch.tensor([[grammar.start, grammar.end, token] for token in (0, 1)])
    hidden = model.base_model(rows, use_cache=False).last_hidden_state
    causal = torch.allclose(hidden[0, :2], hidden[1, :2], atol=1e-4)
    if not causal or not torch.allclose(head(hidden), model(rows, use_cache=False).logits, atol=1e-3):
        raise UserError(
            f"model.base_model: {name} is a {type(model).__name__}, which is not supported; GPT-2's kind is"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
