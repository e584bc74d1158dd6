"""What the commands refuse, each in one line, and what a dry run says."""

import json

import pytest


def refused(ended):
    assert ended.status == 2, ended.err
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert ended.out == ""
    return ended.err


def test_prepare_names_what_is_wrong(tmp_path, diversity_finetune):
    out = ["--out", tmp_path / "data"]
    assert "SOURCE or --demo" in refused(diversity_finetune("prepare", *out))
    assert "no file" in refused(diversity_finetune("prepare", tmp_path / "no.jsonl", *out))
    assert "--duplicates" in refused(diversity_finetune("prepare", "--demo", *out, "--duplicates", "some"))
    assert "WHAT=NAME" in refused(diversity_finetune("prepare", "-", *out, "--column", "agent"))
    lines = '{"question": "a", "agent": "b"}\n'
    assert 'no column "customer"' in refused(diversity_finetune("prepare", "-", *out, stdin=lines))
    assert "line 1 is not UTF-8" in refused(diversity_finetune("prepare", "-", *out, stdin=b"\xff\xfe"))
    assert not (tmp_path / "data").exists()


def test_prepare_cuts_a_very_long_message_and_says_so(tmp_path, diversity_finetune):
    long = "word " * 20_000
    lines = [{"customer": f"{long} {n}", "agent": f"reply {n}"} for n in range(30)]
    ended = diversity_finetune(
        "prepare", "-", "--out", tmp_path / "data", "--length", 20, stdin="".join(json.dumps(x) + "\n" for x in lines)
    )
    assert ended.status == 0, ended.err
    assert "train_customer fill all 20 ids" in ended.err


def test_a_dry_run_shows_the_recipe_and_its_sources(tickets, tmp_path, diversity_finetune):
    ended = diversity_finetune(
        "train", tickets, "--out", tmp_path / "run", "--preset", "full", "--architecture", "combined",
        "--set", "gan.enabled=false", "--dry-run",
    )  # fmt: skip
    assert ended.status == 0, ended.err
    plan = json.loads(ended.out)
    assert (plan["config"]["model"]["decoder"], plan["config_sources"]["model.decoder"]) == (512, "preset")
    assert (plan["config"]["model"]["architecture"], plan["config_sources"]["model.architecture"]) == (
        "combined",
        "flag",
    )
    assert plan["config_sources"]["gan.enabled"] == "set"
    assert plan["pairs"]["train"] > 100
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("gan.interval=1", "gan.interval"),
        ("model.architecture=both", "model.architecture"),
        ("vae.kl=1", "vae.kl_weight"),
    ],
)
def test_settings_that_cannot_be_are_named(setting, message, tickets, tmp_path, diversity_finetune):
    assert message in refused(diversity_finetune("train", tickets, "--out", tmp_path / "run", "--set", setting))


def test_train_needs_a_data_directory(tmp_path, diversity_finetune):
    assert "diversity-finetune prepare" in refused(diversity_finetune("train", tmp_path, "--out", tmp_path / "run"))


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2 is not JSON"), ('{"message": " "}', "line 2: message is empty"), ('{"text": "a"}', 'no "message"')],
)
def test_generate_names_the_bad_line(line, message, run, diversity_finetune):
    ended = diversity_finetune("generate", run, "--threads", 1, stdin=f'{{"message": "hello"}}\n{line}\n')
    assert ended.status == 2
    assert message in ended.err.splitlines()[-1]
