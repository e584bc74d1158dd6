"""What a user may get wrong: one clear line, status 2, and no run directory."""

import json
import shutil

import pytest

FLAGS = ["--threads", 1, "--device", "cpu"]
ANNA = {"context": "Anna has a hat.", "question": "What has Anna?", "answers": ["hat"]}


@pytest.fixture
def train(adapter_stage1, recipe_file, tmp_path):
    """Train on lines or a file, with options; what came of it, after a look that it left no run."""

    def call(data, *options):
        if isinstance(data, list):
            (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in data))
            data = tmp_path / "data.jsonl"
        ended = adapter_stage1(
            "train", "--data", data, "--config", recipe_file, "--out", tmp_path / "run", *FLAGS, *options
        )
        assert list(tmp_path.glob("*run*")) == []
        return ended

    return call


def assert_refused(ended, message):
    assert (ended.status, ended.out) == (2, ""), ended.err
    last = ended.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "this is a bug" not in last
    assert sum(line.startswith("error: ") for line in ended.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ratio", 5], "ratio 5 does not divide the embedding width 32; take one of 2, 4, 8, 16, 32"),
        (["--model", "absent"], "no such model: absent"),
        (["--objective", "mse"], 'objective "mse" is not one of recon, token-ce,'),
        (["--set", "objectives.recon=0", "--set", "objectives.token_ce=0"], "all objectives have weight 0"),
        (["--set", "objectives.hidden_layers=[7]"], "the model has no layer 7; its last is 2, or -1"),
        (["--set", "prompt.format=haiku"], 'no prompt format "haiku"'),
        (["--set", "prompt.shots=200"], "200 worked examples were asked for"),
        (["--set", "training.max_prompt_tokens=8"], "every training prompt has over 8 tokens"),
        (["--set", "compressor.rato=3"], 'did you mean "compressor.ratio"'),
        (["--set", "prompt.max_new_tokens=600"], "no prompt fits into the model's window of 512 tokens"),
        (["--precision", "int3"], "int3"),
        (["--device", "tpu"], '--device is auto, cpu or cuda, not "tpu"'),
        (["--tracker", "paper"], "paper"),
    ],
)
def test_a_recipe_that_cannot_be(train, train_json, options, message):
    assert_refused(train(train_json, *options), message)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty"),
        ([ANNA | {"answers": ["boat"]}], 'line 1: the answer "boat" is not in the context'),
        ([ANNA, ANNA | {"answers": []}], "line 2: no answers"),
        ([ANNA], "all questions are about one context"),
        ([ANNA | {"context": f"{name} has a hat. " * 200} for name in ("Anna", "Ben")], "prompt has over 512 tokens"),
    ],
)
def test_data_that_nothing_can_be_learned_from(train, lines, message):
    assert_refused(train(lines), message)


def test_contexts_beyond_the_window_are_no_training_prompts_whatever_the_recipe_allows(train):
    lines = [ANNA | {"context": f"{name} has a hat. " * 200} for name in ("Anna", "Ben")]
    assert_refused(train(lines, "--set", "training.max_prompt_tokens=100000"), "every training prompt has over 512")


def test_data_that_is_not_there(train, tmp_path):
    assert_refused(train(tmp_path / "absent.json"), "no such file")


def test_resume_takes_no_recipe(run, adapter_stage1):
    assert_refused(adapter_stage1("train", "--resume", run, "--ratio", 8), "--resume takes recipe, data and place")
    assert_refused(adapter_stage1("train"), "train wants --data FILE and --out RUN, or --resume RUN")


@pytest.fixture
def other_model(tiny_model, tmp_path):
    """The tiny model with another number in its configuration."""
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    return folder


@pytest.mark.parametrize("command", ["evaluate", "compress", "answer"])
def test_a_run_is_used_with_its_own_model_alone(command, run, other_model, dev_json, adapter_stage1):
    data = ["--data", dev_json] if command == "evaluate" else [dev_json]
    ended = adapter_stage1(command, run, *data, "--model", other_model, *FLAGS)
    assert_refused(ended, f"{other_model} is not the model of {run}")


def test_a_model_that_moved_is_named(run, tiny_model, dev_json, tmp_path, adapter_stage1):
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    options = ["--data", dev_json, "--rung", "lookup", "--questions", 2, "--out", tmp_path / "report", *FLAGS]
    assert adapter_stage1("evaluate", run, *options, "--model", moved).status == 0


def test_a_model_named_from_another_working_directory_is_found(
    tiny_model, recipe_file, train_json, dev_json, tmp_path, adapter_stage1, monkeypatch
):
    monkeypatch.chdir(tiny_model.parent)
    options = ["--config", recipe_file, "--model", tiny_model.name, "--set", "training.epochs=1", *FLAGS]
    ended = adapter_stage1("train", "--data", train_json, "--out", tmp_path / "run", *options)
    assert ended.status == 0, ended.err
    monkeypatch.chdir(tmp_path)
    ended = adapter_stage1("evaluate", "run", "--data", dev_json, "--rung", "lookup", *FLAGS)
    assert ended.status == 0, ended.err
    assert (tmp_path / "run" / "reports" / "dev" / "report.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rung", "magic"], 'no rung "magic"; there are raw, decoded'),
        (["--questions", 13], "13 questions were asked for and there are 12"),
        (["--checkpoint", "step_9"], 'no checkpoint "step_9"'),
    ],
)
def test_an_evaluation_that_cannot_be(options, message, run, dev_json, tmp_path, adapter_stage1):
    out = tmp_path / "report"
    ended = adapter_stage1("evaluate", run, "--data", dev_json, "--out", out, *FLAGS, *options)
    assert_refused(ended, message)
    assert not out.exists()


@pytest.mark.parametrize("file", ["compressor.safetensors", "frequencies.npy", "prompt.json", "model.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_run_names_its_file(file, damage, run, dev_json, tmp_path, adapter_stage1):
    broken = shutil.copytree(run, tmp_path / "broken", symlinks=True)
    if damage == "gone":
        (broken / file).unlink()
    else:
        (broken / file).write_bytes((broken / file).read_bytes()[:20])
    ended = adapter_stage1("evaluate", broken, "--data", dev_json, *FLAGS)
    assert_refused(ended, f"{broken / file} is ")


def test_what_is_no_run_is_told(tmp_path, dev_json, adapter_stage1):
    assert_refused(adapter_stage1("evaluate", tmp_path, "--data", dev_json), str(tmp_path))


def test_objectives_on_the_command_line_leave_out_all_others(train_json, tmp_path, adapter_stage1):
    options = ["--objective", "distill", "--objective", "recon", "--dry-run"]
    ended = adapter_stage1("train", "--data", train_json, "--out", tmp_path / "run", *options)
    assert ended.status == 0, ended.err
    objectives = json.loads(ended.out)["config"]["objectives"]
    weights = {name: value for name, value in objectives.items() if isinstance(value, float)}
    assert {name for name, weight in weights.items() if weight} == {"distill", "recon"}
    assert not (tmp_path / "run").exists()
