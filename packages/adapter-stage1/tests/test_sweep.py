import json
import shutil

import pytest

SMALL = ["--threads", 1, "--device", "cpu", "--set", "training.epochs=1"]
FEW = ["--set", "training.examples=8"]


@pytest.fixture(scope="module")
def small(train_json, dev_json, recipe_file):
    """What all sweeps of these tests have in common."""
    files = ["--data", train_json, "--test", dev_json, "--config", recipe_file, "--questions", 6]
    return ["sweep", *files, *SMALL]


@pytest.fixture(scope="module")
def command(small):
    """A sweep of two ratios, two objectives and two seeds, but for its --out."""
    return [*small, *FEW, "--ratios", 4, 8, "--objectives", "recon", "default", "--seeds", 0, "1"]


@pytest.fixture(scope="module")
def sweep(adapter_stage1, command, tmp_path_factory):
    """The folder of a finished sweep, and how its command ended."""
    out = tmp_path_factory.mktemp("sweeps") / "sweep"
    ended = adapter_stage1(*command, "--out", out)
    assert ended.status == 0, ended.err
    return out, ended


def test_a_run_for_each_ratio_objective_and_seed(sweep):
    out, ended = sweep
    runs = sorted(str(path.parent.relative_to(out)) for path in out.rglob("run.json"))
    assert runs == [
        f"ratio_{ratio}/{objective}/seed_{seed}"
        for ratio in ("04", "08")
        for objective in ("default", "recon")
        for seed in (0, 1)
    ]
    config = json.loads((out / "ratio_08/recon/seed_1/run.json").read_text())["config"]
    weights = {name: weight for name, weight in config["objectives"].items() if weight and isinstance(weight, float)}
    assert (config["compressor"]["ratio"], config["seed"], weights) == (8, 1, {"recon": 1.0})
    assert [line.split()[:4] for line in ended.out.splitlines()[2:6]] == [
        ["4x", "recon", "8", "adapter"],
        ["4x", "default", "8", "adapter"],
        ["8x", "recon", "8", "adapter"],
        ["8x", "default", "8", "adapter"],
    ]
    assert ended.err.count("raw: F1") == 1  # the baseline is answered once for all
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png" in (out / "index.html").read_text()


def test_a_cell_is_what_train_and_evaluate_would_have_made(
    sweep, adapter_stage1, train_json, dev_json, recipe_file, tmp_path
):
    out, _ = sweep
    run = tmp_path / "run"
    recipe = ["--config", recipe_file, *SMALL, *FEW, "--ratio", 8, "--objective", "recon", "--seed", 1]
    assert adapter_stage1("train", "--data", train_json, *recipe, "--out", run).status == 0
    options = ["--rung", "adapter", "--questions", 6, "--threads", 1, "--device", "cpu", "--json"]
    alone = json.loads(adapter_stage1("evaluate", run, "--data", dev_json, *options).out)
    cells = json.loads((out / "sweep.json").read_text())["cells"]
    (cell,) = (cell for cell in cells if cell["run"]["path"] == "ratio_08/recon/seed_1")
    assert cell["rungs"] == alone["rungs"]


def test_means_and_deviations_are_over_seeds(sweep):
    found = json.loads((sweep[0] / "sweep.json").read_text())
    group = next(group for group in found["summary"] if (group["ratio"], group["objective"]) == (4, "recon"))
    first, second = (
        cell["rungs"]["adapter"]["perplexity"]
        for cell in found["cells"]
        if (cell["ratio"], cell["objective"]) == (4, "recon")
    )
    assert group["mean"]["perplexity"] == pytest.approx((first + second) / 2)
    assert group["deviation"]["perplexity"] == pytest.approx(abs(first - second) / 2**0.5)


def test_the_same_command_goes_on_where_it_was_stopped(sweep, adapter_stage1, command, tmp_path):
    before, _ = sweep
    out = tmp_path / "sweep"
    shutil.copytree(before, out)
    shutil.rmtree(out / "ratio_08/recon/seed_1")  # one that was not begun, and one that was killed
    killed = out / "ratio_04/default/seed_0/run.json"
    killed.write_text(json.dumps(json.loads(killed.read_text()) | {"status": "running"}))
    kept = out / "ratio_04/recon/seed_0/run.json"
    changed = kept.stat().st_mtime_ns
    ended = adapter_stage1(*command, "--out", out)
    assert ended.status == 0, ended.err
    assert kept.stat().st_mtime_ns == changed
    assert json.loads(killed.read_text())["status"] == "finished"
    again, first = (json.loads((folder / "sweep.json").read_text()) for folder in (out, before))
    assert again["summary"] == first["summary"]
    assert ended.err.count("adapter: F1") == 1  # what is judged is not judged again


def test_more_seeds_add_to_a_sweep(sweep, adapter_stage1, command, tmp_path):
    out = tmp_path / "sweep"
    shutil.copytree(sweep[0], out)
    ended = adapter_stage1(*command, "--seeds", 2, "--ratios", 4, "--out", out, "--json")
    found = json.loads(ended.out)
    assert {group["seeds"] for group in found["summary"]} == {3}


def test_runs_on_more_and_more_questions_make_a_scaling_curve(adapter_stage1, small, tmp_path):
    out = tmp_path / "sweep"
    ended = adapter_stage1(*small, "--ratios", 4, "--examples", 8, 16, "--out", out)
    assert ended.status == 0, ended.err
    for examples in (8, 16):
        record = json.loads((out / f"ratio_04/default/examples_{examples:05}/seed_0/run.json").read_text())
        assert record["config"]["training"]["examples"] == examples
    assert [line.split()[2] for line in ended.out.splitlines()[2:4]] == ["8", "16"]
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "index.html").read_text()
    assert page.count("data:image/png") == 2
    assert "rebuilt from 4x fewer numbers" in page
    assert "take 128 bits a token" in page


def test_a_run_that_diverges_is_named_and_the_others_are_judged(adapter_stage1, small, tmp_path, monkeypatch):
    from adapter_stage1 import train

    real = train.recon_loss
    calls = iter(range(1000))
    # The first run's first step meets NaN, as a learning rate far too high would make it.
    monkeypatch.setattr(train, "recon_loss", lambda *args: real(*args) * (float("nan") if next(calls) == 0 else 1))
    ended = adapter_stage1(
        *small, *FEW, "--ratios", 4, "--seeds", 0, 1, "--set", "objectives.token_ce=0", "--out", tmp_path / "sweep"
    )
    assert (ended.status, "1 of 2 runs diverged" in ended.err) == (3, True)
    found = json.loads((tmp_path / "sweep/sweep.json").read_text())
    assert (found["diverged"], len(found["cells"])) == (["ratio_04/default/seed_0"], 1)


def test_a_dry_run_names_the_runs_and_writes_nothing(adapter_stage1, command, tmp_path):
    ended = adapter_stage1(*command, "--out", tmp_path / "sweep", "--dry-run")
    assert len(ended.out.splitlines()) == 8
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--ratios", 5], "5"),
        (["--objectives", "magic"], "magic"),
        (["--set", "seed=3"], "--set seed"),
        (["--set", "objectives.recon=2"], "--set objectives.recon"),
        (["--rung", "magic"], "magic"),
        (["--set", "training.learning_rate=1"], "another recipe"),
    ],
)
def test_what_a_sweep_cannot_do_is_said_before_it_trains(sweep, adapter_stage1, command, tmp_path, change, said):
    out = sweep[0] if said == "another recipe" else tmp_path / "sweep"
    ended = adapter_stage1(*command, *change, "--out", out)
    assert ended.status == 2
    assert said in ended.err.splitlines()[-1]
    assert not (tmp_path / "sweep").exists()


def test_training_data_alone_is_not_judged_on_built_in_questions(adapter_stage1, train_json, tmp_path):
    ended = adapter_stage1("sweep", "--ratios", 4, "--data", train_json, "--out", tmp_path / "sweep")
    assert (ended.status, "--test" in ended.err) == (2, True)


def test_all_objectives_are_each_alone_and_the_default():
    from adapter_stage1.config import OBJECTIVES
    from adapter_stage1.sweep import objective_names

    assert objective_names(["all", "recon+token-ce"]) == {
        **{name: [name] for name in OBJECTIVES},
        "default": [],
        "recon+token-ce": ["recon", "token-ce"],
    }


def test_search_prompt_gives_the_best_last_and_never_asks_what_training_reads(
    adapter_stage1, tiny_model, train_json, monkeypatch
):
    from adapter_stage1 import prompt_search
    from adapter_stage1.config import TrainingConfig
    from adapter_stage1.data import by_article_split, read_examples

    asked, score = [], prompt_search.score

    def listening_score(texts, examples):
        asked.extend(examples)
        return score(texts, examples)

    monkeypatch.setattr(prompt_search, "score", listening_score)
    options = ["--questions", 3, "--shots", 0, 1, "--formats", "squad", "terse", "--precision", "float32"]
    rest = ["--max-new-tokens", 3, "--threads", 1, "--device", "cpu", "--json"]
    ended = adapter_stage1("search-prompt", "--model", tiny_model, "--data", train_json, *options, *rest)
    assert ended.status == 0, ended.err
    found = json.loads(ended.out)
    f1s = [trial["f1"] for trial in found["trials"]]
    assert f1s == sorted(f1s)
    assert found["best"] == found["trials"][-1]
    pairs = {(trial["format"], trial["shots"]) for trial in found["trials"]}
    assert pairs == {("squad", 0), ("squad", 1), ("terse", 0), ("terse", 1)}
    read, _ = by_article_split(read_examples(train_json), TrainingConfig().valid_share, 0)
    assert not {example.context for example in asked} & {example.context for example in read}
