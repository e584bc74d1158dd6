"""Greedy answers from embeddings, against transformers' own generation of one prompt at a time."""

import math
from dataclasses import replace

import pytest
import torch

from adapter_stage1.data import read_examples
from adapter_stage1.generate import answer_perplexity, answer_prompts, fits_window
from adapter_stage1.language_model import load_language_model
from adapter_stage1.prompts import FORMATS, build_prompt
from adapter_stage1.reading import alike, shared_prefix
from trainworks.console import UserError

SQUAD = FORMATS["squad"]
ENDLESS = replace(SQUAD, stop=("this is never said",))


@pytest.fixture(scope="module")
def loaded(tiny_model):
    return load_language_model(str(tiny_model), "float32", torch.device("cpu"))


@pytest.fixture
def language_model(loaded, monkeypatch):
    """It goes on until it is stopped."""
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", None)
    return loaded


@pytest.fixture(scope="module")
def prompts(loaded, train_json, dev_json):
    """Twelve prompts of different lengths with two worked examples that all share."""
    shots = read_examples(train_json)[:2]
    texts = [build_prompt(SQUAD, shots, example) for example in read_examples(dev_json)]
    return [
        loaded.tokens(text.removesuffix("\nAnswer:") + " Now?" * (n % 5) + "\nAnswer:") for n, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def noisy(loaded):
    """Embeddings near the model's own, as an adapter makes them."""
    noise = torch.randn(loaded.table.shape, generator=torch.Generator().manual_seed(0))
    table = loaded.table + 0.3 * loaded.table.std() * noise
    return lambda tokens: table[tokens]


def true(language_model):
    return lambda tokens: language_model.table[tokens]


def generated(language_model, prompt, embed, num_tokens):
    """Token ids by `model.generate` from the prompt's embeddings alone."""
    embeddings = embed(torch.tensor(prompt))[None]
    found = language_model.model.generate(
        inputs_embeds=embeddings,
        attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
        max_new_tokens=num_tokens,
        do_sample=False,
    )
    return found[0].tolist()


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_batches_answer_as_transformers_does_one_prompt_at_a_time(language_model, prompts, noisy, batch_size):
    assert len(set(map(len, prompts))) > 3
    assert shared_prefix(prompts) > 20
    for embed in (true(language_model), noisy):
        answers = answer_prompts(language_model, prompts, embed, ENDLESS, max_new_tokens=12, batch_size=batch_size)
        for prompt, answer in zip(prompts, answers, strict=True):
            said = language_model.tokenizer.decode(generated(language_model, prompt, embed, 12))
            assert (answer.text, answer.num_tokens) == (said.strip(), 12)


@pytest.mark.parametrize("batch_size", [3, 9])
def test_a_passage_that_several_prompts_share_is_read_once_and_changes_no_answer(
    language_model, train_json, dev_json, noisy, batch_size, monkeypatch
):
    """Nine prompts of three passages, in no order."""
    examples = read_examples(dev_json)
    asked = [(place, examples[place].question + " Now?" * times) for times in range(3) for place in (0, 3, 6)]
    shots = read_examples(train_json)[:1]
    prompts = [
        language_model.tokens(build_prompt(SQUAD, shots, replace(examples[place], question=question)))
        for place, question in asked
    ]
    expected = [language_model.tokenizer.decode(generated(language_model, prompt, noisy, 6)) for prompt in prompts]
    fed = []
    answers = answer_prompts(
        language_model,
        prompts,
        lambda tokens: fed.append(len(tokens)) or noisy(tokens),
        ENDLESS,
        max_new_tokens=6,
        batch_size=batch_size,
    )
    assert [answer.text for answer in answers] == [text.strip() for text in expected]
    passages = [prompts[n : n + 7 : 3] for n in range(3)]
    prefix = shared_prefix(prompts)
    once = [shared_prefix(passage) - prefix for passage in passages]
    questions = [
        len(prompt) - prefix - head for passage, head in zip(passages, once, strict=True) for prompt in passage
    ]
    assert sum(fed) == prefix + sum(once) + sum(questions)
    assert sum(fed) < 0.5 * sum(map(len, prompts))


def test_alike_are_prompts_that_share_half_of_what_is_not_known_yet():
    prompts = [[9, 1, 2, 3, 4], [9, 5], [9, 1, 2, 3, 5], [9, 1, 7, 7, 7, 7]]
    assert alike(prompts, 1) == [[1], [0, 2], [3]]
    assert alike(prompts[:1], 4) == [[0]]


def test_prompts_that_share_nothing_and_equal_prompts_are_answered_too(language_model, prompts):
    embed = true(language_model)
    apart = [prompts[0][5:], prompts[1][6:], [9]]
    assert shared_prefix(apart) == 0
    for asked in (apart, [prompts[0]] * 3, [prompts[0]]):
        answers = answer_prompts(language_model, asked, embed, ENDLESS, max_new_tokens=6)
        for prompt, answer in zip(asked, answers, strict=True):
            assert answer.text == language_model.tokenizer.decode(generated(language_model, prompt, embed, 6)).strip()


def test_the_prefix_that_all_share_leaves_one_token_of_each():
    assert shared_prefix([[1, 2, 3, 4], [1, 2, 5]]) == 2
    assert shared_prefix([[1, 2, 3], [1, 2, 3, 4]]) == 2
    assert shared_prefix([[1, 2, 3]]) == 2
    assert shared_prefix([[1], [2, 3]]) == 0


def test_an_answer_ends_at_its_stop_string(language_model, prompts):
    embed = true(language_model)
    whole = answer_prompts(language_model, prompts, embed, ENDLESS, max_new_tokens=12)
    cut = answer_prompts(language_model, prompts, embed, SQUAD, max_new_tokens=12)
    assert any("\n" in answer.text for answer in whole)
    for long, short in zip(whole, cut, strict=True):
        assert short.text == long.text.split("\n")[0].strip()
        assert short.num_tokens <= long.num_tokens
    assert sum(answer.num_tokens for answer in cut) < sum(answer.num_tokens for answer in whole)


def test_an_answer_ends_where_the_model_says_so(language_model, prompts, monkeypatch):
    embed = true(language_model)
    end = generated(language_model, prompts[0], embed, 3)[-1]
    monkeypatch.setattr(language_model.model.generation_config, "eos_token_id", [end])
    answers = answer_prompts(language_model, prompts, embed, ENDLESS, max_new_tokens=12)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = generated(language_model, prompt, embed, 12)
        assert answer.num_tokens == len(ids)
        said = ids[:-1] if ids[-1] == end else ids  # the end itself is no part of the answer
        assert answer.text == language_model.tokenizer.decode(said).strip()
    assert answers[0].num_tokens <= 3


def test_the_model_is_fed_the_prompts_embeddings_and_then_its_own_words(language_model, prompts, noisy, monkeypatch):
    fed, forward = [], language_model.model.forward

    def watched(*arguments, **options):
        output = forward(*arguments, **options)
        assert not arguments
        assert "input_ids" not in options
        fed.append((options["inputs_embeds"], output.logits[:, -1].argmax(-1)))
        return output

    monkeypatch.setattr(language_model.model, "forward", watched)
    answer_prompts(language_model, prompts, noisy, ENDLESS, max_new_tokens=4, batch_size=len(prompts))
    (prefix, _), (rest, said), *later = fed
    in_order = sorted(prompts, key=len)
    for n, prompt in enumerate(in_order):
        seen = torch.cat([prefix[0], rest[n]])
        padding = rest.shape[1] - (len(prompt) - prefix.shape[1])
        assert not rest[n, :padding].any()
        tokens = torch.cat([seen[: prefix.shape[1]], seen[prefix.shape[1] + padding :]])
        assert torch.equal(tokens, noisy(torch.tensor(prompt)))
    assert len(later) == 3
    for embeddings, next_said in later:
        assert torch.equal(embeddings[:, 0], language_model.table[said])
        said = next_said


def test_a_prompt_beyond_the_window_is_told_by_its_number(language_model, prompts):
    long = prompts[0] * (language_model.window // len(prompts[0]) + 1)
    with pytest.raises(UserError, match=rf"prompt 2 has {len(long)} tokens.* window is 512"):
        answer_prompts(language_model, [prompts[0], long], true(language_model), SQUAD)
    fits = (prompts[0] * 9)[: language_model.window - 3]
    assert len(answer_prompts(language_model, [fits], true(language_model), ENDLESS, max_new_tokens=3)) == 1
    with pytest.raises(UserError, match="window"):
        answer_prompts(language_model, [fits], true(language_model), ENDLESS, max_new_tokens=4)


def test_questions_beyond_the_window_are_left_out_and_said(language_model, dev_json, capsys):
    examples = read_examples(dev_json)
    long = replace(examples[0], context=" ".join([examples[0].context] * 60))
    kept = fits_window(language_model, SQUAD, [], [long, *examples[1:]], 20)
    assert kept == examples[1:]
    assert "1 questions don't fit" in capsys.readouterr().err
    with pytest.raises(UserError, match="no prompt fits into the model's window of 512 tokens; take fewer shots"):
        fits_window(language_model, SQUAD, [], [long], 20)


def test_a_check_is_called_before_every_batch(language_model, prompts):
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        answer_prompts(language_model, prompts, true(language_model), SQUAD, batch_size=4, check=check)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_perplexity_is_the_exponential_of_the_answers_mean_loss(language_model, prompts, noisy, dev_json, batch_size):
    golds = [
        language_model.continuation(f" {example.answers[0]}" * (n % 3 + 1))
        for n, example in enumerate(read_examples(dev_json))
    ]
    for embed in (true(language_model), noisy):
        losses = []
        for prompt, gold in zip(prompts, golds, strict=True):
            embeddings = torch.cat([embed(torch.tensor(prompt)), language_model.table[torch.tensor(gold)]])[None]
            with torch.no_grad():
                log_probabilities = language_model.model(inputs_embeds=embeddings).logits[0].log_softmax(-1)
            losses += [-log_probabilities[len(prompt) - 1 + n, token].item() for n, token in enumerate(gold)]
        wanted = math.exp(sum(losses) / len(losses))
        found = answer_perplexity(language_model, prompts, golds, embed, batch_size)
        assert found == pytest.approx(wanted, rel=1e-4)
