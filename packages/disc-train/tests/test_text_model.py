"""The text generator: its likelihood and its draws against the bare language model, its grammar, its files."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tokenizers import Tokenizer

from disc_train import text_model
from disc_train.config import ModelConfig
from disc_train.data import Table, cell_array
from disc_train.schema import Schema
from disc_train.text import row_to_text, text_to_row
from disc_train.text_grammar import RowGrammar
from disc_train.text_model import Reader, build_text_generator, load_text_generator
from trainworks.console import UserError
from trainworks.torch import load_weights, save_weights

TINY = ModelConfig(kind="text", dim=16, depth=2, num_heads=2, dropout=0.0, bpe_vocab=300)
HOSTILE = [
    "a,b", "a", "a,", ", is ", 'say "hi"', '"a"', "x is y", "line\nbreak", "", "missing", None, " a", "a ",
    "é\u2028", "007", "<|endoftext|>", "{}", "\\", "a is", "ab", "abc",
]  # fmt: skip


def schema_of(**columns: list[str | None]) -> Schema:
    table = Table(tuple(columns), [cell_array(cells) for cells in columns.values()])
    return Schema.infer(table, overrides=dict.fromkeys(columns, "categorical"))


@pytest.fixture
def schema() -> Schema:
    return schema_of(
        size=["1", "12", "123", "2", "12", "1"],
        mood=["good", "bad", "good", None, "so, so", "goods"],
        city=["Ely", "Ely", "Ely", "Ely", "Ely", "Ely"],
    )


def build(schema: Schema, config: ModelConfig = TINY, run_dir=None) -> text_model.TextGenerator:
    """A generator that has opinions: fresh weights, scaled up."""
    torch.manual_seed(0)
    generator = build_text_generator(schema, config, run_dir)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(4.0)
    return generator.eval()


def all_rows(schema: Schema) -> torch.Tensor:
    return torch.tensor(list(itertools.product(*map(range, schema.vocab_sizes))))


def clause_tokens(schema: Schema, tokenizer: Tokenizer, column: int, is_last: bool) -> tuple[list, list[list]]:
    """Tokens of a column's name and of each of its values with what ends it, taken from the row's text."""
    name = schema.names[column]
    end = [tokenizer.token_to_id("<|endoftext|>")] if is_last else tokenizer.encode(",").ids
    values = []
    for value in schema.columns[column].texts:
        text = row_to_text([name], [value])
        values.append(tokenizer.encode(text.removeprefix(f"{name} is")).ids + end)
    return tokenizer.encode(f" {name} is").ids, values


def brute_force(model, read: list[int], values: list[list[int]], grammar: bool) -> tuple[torch.Tensor, list]:
    """log p of each value after what was read; within the grammar, of the tokens that continue some value."""
    results = []
    for value in values:
        log_p = 0.0
        for i, token in enumerate(value):
            logits = model(torch.tensor([read + value[:i]])).logits[0, -1]
            if grammar:
                going_on = {other[i] for other in values if other[:i] == value[:i] and len(other) > i}
                mask = torch.full_like(logits, -torch.inf)
                mask[list(going_on)] = 0.0
                logits = logits + mask
            log_p += logits.log_softmax(0)[token].item()
        results.append(log_p)
    return torch.tensor(results)


def read_tokenizer(run_dir) -> Tokenizer:
    return Tokenizer.from_file(str(run_dir / "text" / "tokenizer.json"))


def test_log_prob_is_the_language_models_probability_of_the_rows_text(schema, tmp_path):
    generator, order = build(schema, run_dir=tmp_path), [2, 0, 1]
    tokenizer = read_tokenizer(tmp_path)
    codes = all_rows(schema)
    got = generator.log_prob(codes, torch.tensor([order]).expand(len(codes), -1))
    for row, code in list(zip(got, codes.tolist(), strict=True))[::3]:
        read = [tokenizer.token_to_id("<|endoftext|>")]
        for position, column in enumerate(order):
            name, values = clause_tokens(schema, tokenizer, column, is_last=position == 2)
            read += name
            (expected,) = brute_force(generator.model, read, [values[code[column]]], grammar=False)
            assert row[column].item() == pytest.approx(expected.item(), abs=1e-3)
            read += values[code[column]]


def test_draws_have_the_grammars_probabilities_whatever_the_order(schema, tmp_path):
    generator = build(schema, run_dir=tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    orders = torch.tensor([[0, 1, 2], [1, 2, 0]]).repeat(2000, 1)
    codes, log_mass = generator.sample(torch.full((4000, 3), -1), orders, torch.Generator().manual_seed(1))
    assert (log_mass == 0).all()
    for first, second, rows in ((0, 1, codes[::2]), (1, 0, codes[1::2])):
        start = [tokenizer.token_to_id("<|endoftext|>")]
        name, values = clause_tokens(schema, tokenizer, first, is_last=False)
        log_p = brute_force(generator.model, start + name, values, grammar=True)
        seen = rows[:, first].bincount(minlength=len(values))
        assert chisquare(seen, len(rows) * log_p.softmax(0), sum_check=False).pvalue > 1e-4
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-4)
        common = int(seen.argmax())
        read = start + name + values[common]
        if second == 0:
            city, cities = clause_tokens(schema, tokenizer, 2, is_last=False)
            read += city + cities[0]
        name, values = clause_tokens(schema, tokenizer, second, is_last=second == 0)
        log_p = brute_force(generator.model, read + name, values, grammar=True)
        seen = rows[rows[:, first] == common, second].bincount(minlength=len(values))
        assert chisquare(seen, seen.sum() * log_p.softmax(0), sum_check=False).pvalue > 1e-4


def test_a_restriction_gives_the_exact_conditional_draw_and_its_exact_cost(schema, tmp_path):
    generator = build(schema, run_dir=tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    weight = torch.tensor([0.0, 1.0, 0.5, 1.0])
    known = torch.tensor([[-1, 2, 0]]).expand(4000, -1)
    order = torch.tensor([[1, 0, 2]]).expand(4000, -1)
    codes, log_mass = generator.sample(known, order, torch.Generator().manual_seed(2), {0: weight})
    mood, moods = clause_tokens(schema, tokenizer, 1, is_last=False)
    size, sizes = clause_tokens(schema, tokenizer, 0, is_last=False)
    read = [tokenizer.token_to_id("<|endoftext|>"), *mood, *moods[2], *size]
    allowed = brute_force(generator.model, read, sizes, grammar=True).exp() * weight
    torch.testing.assert_close(log_mass[:, 0], allowed.sum().log().expand(4000), atol=1e-4, rtol=0)
    seen = codes[:, 0].bincount(minlength=4)
    assert seen[0] == 0
    expected = 4000 * (allowed / allowed.sum())[1:]
    assert chisquare(seen[1:], expected, sum_check=False).pvalue > 1e-4


def test_known_cells_stay_and_steer_what_follows(schema):
    generator = build(schema)
    known = torch.tensor([[-1, 3, -1], [2, -1, -1]]).repeat(50, 1)
    order = torch.rand(100, 3).argsort(1)
    codes, _ = generator.sample(known, order, torch.Generator().manual_seed(0))
    assert (codes[known >= 0] == known[known >= 0]).all()
    assert (codes >= 0).all()
    assert (codes < torch.tensor(schema.vocab_sizes)).all()


def test_a_seed_repeats_the_rows_and_batches_are_cut_to_size(schema, monkeypatch):
    monkeypatch.setattr(text_model, "MOST_ROWS", 7)
    generator = build(schema)
    known, order = torch.full((20, 3), -1), torch.arange(3).expand(20, -1)
    one, two = (generator.sample(known, order, torch.Generator().manual_seed(5))[0] for _ in range(2))
    assert one.shape == (20, 3)
    assert torch.equal(one, two)


def test_reading_in_pieces_with_holes_gives_the_states_of_whole_rows(schema):
    model = build(schema).model
    rows = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15]]
    reader = Reader(model, 0, 3)
    reader.queue(torch.tensor([[5, -1, 6], [-1, 11, -1]]), torch.tensor([0, 1]))
    reader.read()
    reader.queue(torch.tensor([[7, 8, 9], [13, 14, 15]]), torch.tensor([0, 2]))
    before = reader.peek(torch.tensor([[40, 41]]), torch.tensor([1]))[1]
    reader.queue(torch.tensor([[10, -1], [12, -1]]), torch.tensor([0, 1]))
    states = reader.read()
    for row, state in zip(rows[:2], states[:2], strict=True):
        whole = model.base_model(torch.tensor([[0, *row]])).last_hidden_state[0, -1]
        torch.testing.assert_close(state, whole, atol=1e-4, rtol=1e-4)
    whole = model.base_model(torch.tensor([[0, 11, 40, 41]])).last_hidden_state[0, -1]
    torch.testing.assert_close(before, whole, atol=1e-4, rtol=1e-4)


def test_hostile_values_are_written_exactly_and_drawn_whole(tmp_path):
    schema = schema_of(**{"a is b": HOSTILE, "x": HOSTILE[::-1], 'q", ': HOSTILE})
    generator = build(schema, run_dir=tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    order = torch.rand(300, 3).argsort(1)
    codes, _ = generator.sample(torch.full((300, 3), -1), order, torch.Generator().manual_seed(0))
    tokens, _ = generator.grammar.rows(codes, order)
    tokenizer.encode_special_tokens = True
    for row, code in zip(tokens, codes.tolist(), strict=True):
        body = row[(row >= 0) & (row != tokenizer.token_to_id("<|endoftext|>"))]
        written = text_to_row(tokenizer.decode(body.tolist()).removeprefix(" "))
        expected = {c.name: c.texts[k] for c, k in zip(schema.columns, code, strict=True)}
        assert written == expected
    for code, only in enumerate(torch.eye(len(HOSTILE))):
        known, first = torch.full((2, 3), -1), torch.tensor([[1, 0, 2], [2, 0, 1]])
        drawn, _ = generator.sample(known, first, torch.Generator().manual_seed(code), {1: only})
        assert (drawn[:, 1] == code).all()


def test_a_row_of_24_columns_and_hundreds_of_tokens_comes_out_whole():
    rng = np.random.default_rng(0)
    cells = [[str(v) for v in rng.integers(0, 10**8, 40)] for _ in range(24)]
    schema = schema_of(**{f"LongColumnName{i}": column for i, column in enumerate(cells)})
    generator = build(schema)
    codes, _ = generator.sample(torch.full((8, 24), -1), torch.rand(8, 24).argsort(1), torch.Generator().manual_seed(0))
    tokens, _ = generator.grammar.rows(codes, torch.arange(24).expand(8, -1))
    assert ((tokens >= 0).sum(1) > 200).all()
    assert schema.validate(schema.decode(codes.numpy(), rng)) == []


def test_every_parameter_learns_from_drawn_rows(schema):
    generator = build(schema)
    order = torch.arange(3).expand(4, -1)
    codes, _ = generator.sample(torch.full((4, 3), -1), order, torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(generator.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = -generator.log_prob(codes, order).sum(1).mean()
        loss.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in generator.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_logits_in_parts_give_the_same_likelihood_and_gradient(schema, monkeypatch):
    generator = build(schema)
    codes, order = all_rows(schema), torch.arange(3).expand(len(all_rows(schema)), -1)
    results = []
    for most in (2**24, 3000):
        monkeypatch.setattr(text_model, "MOST_LOGITS", most)
        generator.zero_grad()
        log_prob = generator.log_prob(codes, order)
        log_prob.sum().backward()
        results.append((log_prob.detach(), generator.model.transformer.wte.weight.grad.clone()))
    torch.testing.assert_close(results[0], results[1], atol=1e-3, rtol=1e-3)


def test_a_run_reloads_from_its_own_files(schema, tmp_path):
    generator = build(schema, run_dir=tmp_path)
    save_weights(tmp_path / "model.safetensors", generator)
    loaded = load_text_generator(schema, tmp_path).eval()
    load_weights(tmp_path / "model.safetensors", loaded)
    codes, order = all_rows(schema), torch.arange(3).expand(len(all_rows(schema)), -1)
    assert torch.equal(loaded.log_prob(codes, order), generator.log_prob(codes, order))


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_damaged_or_missing_files_of_a_run_are_named(schema, tmp_path, file):
    build(schema, run_dir=tmp_path)
    (tmp_path / "text" / file).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        load_text_generator(schema, tmp_path)
    (tmp_path / "text" / file).unlink()
    with pytest.raises(UserError, match=file):
        load_text_generator(schema, tmp_path)


def save_base_model(folder, positions: int = 128, model_type: str = "gpt2") -> None:
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["it is good, and size is what the city is"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<s>", pad_token="<s>").save_pretrained(folder)
    size = tokenizer.get_vocab_size()
    torch.manual_seed(0)
    if model_type == "gpt2":
        config = GPT2Config(
            vocab_size=size, n_positions=positions, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
        GPT2LMHeadModel(config).save_pretrained(folder)
    else:
        config = BertConfig(
            vocab_size=size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        BertLMHeadModel(config).save_pretrained(folder)


def test_a_base_model_is_taken_from_disk_and_not_needed_again(schema, tmp_path):
    from safetensors.torch import load_file

    base, run = tmp_path / "base", tmp_path / "run"
    save_base_model(base)
    generator = build_text_generator(schema, ModelConfig(kind="text", base_model=str(base)), run).eval()
    pretrained = load_file(base / "model.safetensors")["transformer.wte.weight"]
    assert torch.equal(generator.model.transformer.wte.weight, pretrained)
    codes, order = all_rows(schema), torch.arange(3).expand(len(all_rows(schema)), -1)
    drawn, _ = generator.sample(torch.full_like(codes, -1), order, torch.Generator().manual_seed(0))
    assert (drawn < torch.tensor(schema.vocab_sizes)).all()
    save_weights(run / "model.safetensors", generator)
    shutil.rmtree(base)
    loaded = load_text_generator(schema, run).eval()
    load_weights(run / "model.safetensors", loaded)
    assert torch.equal(loaded.log_prob(codes, order), generator.log_prob(codes, order))
    assert str(base) not in json.dumps(json.loads((run / "text" / "config.json").read_text()))


def test_an_unsuitable_base_model_is_one_clear_line(schema, tmp_path):
    def refused(folder) -> str:
        with pytest.raises(UserError) as error:
            build_text_generator(schema, ModelConfig(kind="text", base_model=str(folder)), tmp_path / "run")
        message = str(error.value)
        assert "\n" not in message
        assert not (tmp_path / "run").exists()
        return message

    assert "there is no directory" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no causal language model" in refused(tmp_path / "empty")
    save_base_model(tmp_path / "short", positions=8)
    assert "reads at most 8 tokens" in refused(tmp_path / "short")
    save_base_model(tmp_path / "bert", model_type="bert")
    assert "not supported" in refused(tmp_path / "bert")


def test_a_tokenizer_that_writes_two_values_alike_is_refused(tmp_path):
    save_base_model(tmp_path / "base")
    file = tmp_path / "base" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    file.write_text(json.dumps(tokenizer | {"normalizer": {"type": "Lowercase"}}))
    with pytest.raises(UserError, match="alike"):
        build_text_generator(schema_of(x=["Up", "up"]), ModelConfig(kind="text", base_model=str(tmp_path / "base")))


def test_a_tokenizer_that_cannot_tell_where_a_value_ends_is_refused():
    from tokenizers import models, pre_tokenizers

    vocab = {char: code for code, char in enumerate("\u2581,abisx")}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    with pytest.raises(UserError, match="where its values end"):
        RowGrammar(schema_of(x=["a", "a b"]), tokenizer, start=0, end=0)


def test_a_table_of_constants_is_written_without_a_draw():
    generator = build(schema_of(x=["a", "a"], y=[None, None]))
    codes, log_mass = generator.sample(
        torch.full((2, 2), -1), torch.arange(2).expand(2, -1), torch.Generator(), {0: torch.ones(1)}
    )
    assert codes.tolist() == [[0, 0], [0, 0]]
    assert log_mass.tolist() == [[0, 0], [0, 0]]
