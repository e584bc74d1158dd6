"""Bad input gets one clear line, exit status 2, and no half-written run."""

import json

import pytest

GOOD = "color,size,age\n" + "red,S,30\nblue,L,40\n" * 20


@pytest.fixture
def train(disc_train, recipe_file, tmp_path):
    """Train on a file of these bytes, with options; gives back how it ended."""

    def start(content, *options, name="rows.csv", out="run"):
        data = tmp_path / name
        data.write_bytes(content if isinstance(content, bytes) else content.encode())
        arguments = [data, "--out", tmp_path / out, "--config", recipe_file, "--device", "cpu"]
        return disc_train("train", *arguments, "--cycles", 0, "--set", "warm_start.min_steps=2", *options)

    return start


def assert_refused(ended, *parts):
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1, ended.err
    for part in parts:
        assert part in ended.err


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["rows.csv is empty"]),
        ("\n \n", ["rows.csv is empty"]),
        ("color,size,age\n", ["only a header"]),
        ("color,size,age\nred,S,30\n", ["only 1 row"]),
        ("color,size,age\n" + "red,S,30\n" * 19, ["19 rows", "at least 20"]),
        (GOOD + "red,S\n", ["line 42", "2 cells", "3"]),
        (GOOD + "red,S,1,2\n", ["line 42", "4 cells", "3"]),
        (GOOD + 'red,"S,1\n', ["line 42", "quote"]),
        ("color,color,age\nred,S,30\n", ["line 1", 'two columns are named "color"']),
        ("color,,age\nred,S,30\n", ["line 1", "column 2 is empty"]),
        (GOOD.encode() + b"r\xe9d,S,30\n", ["line 42", "not UTF-8", "iconv"]),
        (",".join(f"c{i}" for i in range(2000)) + "\n" + (",".join("1" * 2000) + "\n") * 21, ["2,000 columns"]),
    ],
    ids=[
        "empty", "blank", "header only", "one row", "few rows", "short row", "long row", "open quote",
        "duplicate name", "empty name", "not UTF-8", "2,000 columns",
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_learned_is_refused(train, tmp_path, content, parts):
    assert_refused(train(content, "--set", "target="), *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_no_such_file_says_which_was_wanted(disc_train, tmp_path):
    ended = disc_train("train", tmp_path / "none.csv", "--out", tmp_path / "run")
    assert_refused(ended, "no such file", str(tmp_path / "none.csv"), "CSV or JSON Lines")
    assert not (tmp_path / "run").exists()


def test_a_target_that_is_not_there_names_the_nearest(train, tmp_path):
    assert_refused(train(GOOD, "--target", "colour"), 'no column "colour"', 'did you mean "color"?')
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--set", "data.types.aeg=integer"], ['"aeg"', 'did you mean "age"?']),
        (["--set", "data.types.color=integer"], ['"color" cannot be integer', '"red"']),
        (["--set", "model.dmi=32"], ['"model.dmi"', 'did you mean "model.dim"?']),
        (["--set", "model.dim=30"], ["num_heads 4 must divide dim 30"]),
        (["--set", "model.dropout=2"], ["model.dropout"]),
        (["--schedule", "sometimes"], ["feedback.schedule", "alternate"]),
        (["--preset", "smal"], ['"smal"', "small"]),
        (["--device", "tpu"], ["auto, cpu or cuda", '"tpu"']),
        (["--kind", "text", "--base-model", "no/such/folder"], ["no/such/folder"]),
        (["--tracker", "wandb"], ["wandb"]),
    ],
    ids=lambda value: " ".join(value) if str(value[0]).startswith("--") else "",
)
def test_a_recipe_that_cannot_be_is_refused(train, tmp_path, options, parts):
    assert_refused(train(GOOD, *options), *parts)
    assert not (tmp_path / "run").exists()


def test_a_taken_name_is_left_alone(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("data")
    assert_refused(train(GOOD), f"{tmp_path / 'run'} exists", "--overwrite")
    assert_refused(train(GOOD, "--overwrite"), "run.json")
    assert (tmp_path / "run" / "precious.txt").read_text() == "data"


def test_a_run_is_replaced_only_when_that_is_asked_for(train, tmp_path):
    assert train(GOOD).status == 0
    first = json.loads((tmp_path / "run" / "run.json").read_text())["id"]
    assert_refused(train(GOOD), "--resume or --overwrite")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["id"] == first
    assert_refused(train("color\n", "--overwrite", name="bad.csv"), "bad.csv")
    assert_refused(train(GOOD, "--overwrite", "--tracker", "nepture"), "nepture")
    assert_refused(train(GOOD, "--overwrite", "--kind", "text", "--base-model", "none"), "no directory none")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["id"] == first
    ended = train(GOOD, "--overwrite")
    assert (ended.status, ended.out) == (0, f"{tmp_path / 'run'}\n")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["id"] != first


def test_a_dry_run_refuses_the_table_that_training_would_refuse(train):
    assert_refused(train(GOOD, "--dry-run", "--target", "colour"), "colour")
    assert_refused(train("color;size\nred;1\n", "--dry-run"), "line 1: one column, with semicolons in its name")


def test_trainings_of_explain_want_ablate(disc_train, run_dir):
    assert_refused(disc_train("explain", run_dir, "--metric", "valid/lm_loss"), "--ablate")


def test_a_dry_run_shows_the_recipe_and_its_sources_and_writes_nothing(train, tmp_path):
    ended = train(GOOD, "--dry-run", "--seed", 5)
    plan = json.loads(ended.out)
    assert plan["config"]["seed"] == 5
    assert plan["config"]["warm_start"]["min_steps"] == 2
    assert plan["config"]["model"]["dim"] == 32
    sources = plan["config_sources"]
    assert sources["seed"] != sources["model.dim"] != sources["data.bins"]
    assert not (tmp_path / "run").exists()


def test_rows_are_taken_from_stdin(disc_train, recipe_file, tmp_path):
    arguments = ["--out", tmp_path / "run", "--config", recipe_file, "--device", "cpu", "--cycles", 0]
    ended = disc_train("train", "-", *arguments, "--set", "warm_start.min_steps=2", stdin=GOOD)
    assert ended.status == 0, ended.err
    inputs = json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]
    assert (inputs[0]["path"], inputs[0]["rows"]) == ("-", 40)


def test_train_wants_data_and_a_place(disc_train, tmp_path):
    assert_refused(disc_train("train"), "DATA and --out RUN")
    assert_refused(disc_train("train", tmp_path / "rows.csv"), "DATA and --out RUN")


@pytest.mark.parametrize("command", ["sample", "impute", "feedback", "train --resume"])
def test_what_is_no_run_of_disc_train_is_refused(disc_train, run_dir, tmp_path, command):
    rows = [] if command == "sample" or "train" in command else ["-"]

    def use(path):
        return disc_train(*command.split(), path, *rows, stdin=GOOD)

    assert_refused(use(tmp_path / "none"), str(tmp_path / "none"), "does not exist")
    (tmp_path / "folder").mkdir()
    assert_refused(use(tmp_path / "folder"), "not a run directory")
    other = tmp_path / "other"
    other.mkdir()
    record = json.loads((run_dir / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(record | {"tool": "voice-gan"}))
    assert_refused(use(other), "is a run of voice-gan, not of disc-train")
    (other / "run.json").write_text("{half")
    assert_refused(use(other), "run.json is damaged")


def test_a_checkpoint_that_is_not_there_names_those_that_are(disc_train, run_dir):
    ended = disc_train("sample", run_dir, "--checkpoint", "step_999999")
    assert_refused(ended, 'no checkpoint "step_999999"', "step_0001")


def test_discriminators_that_were_never_trained_are_not_asked(train, disc_train, tmp_path):
    assert train(GOOD, "--schedule", "none").status == 0
    assert_refused(disc_train("sample", tmp_path / "run", "--resample"), "schedule none")
    assert_refused(disc_train("feedback", tmp_path / "run", "-", stdin=GOOD), "schedule none")


def test_feedback_on_rows_without_a_column_names_it(disc_train, run_dir):
    assert_refused(disc_train("feedback", run_dir, "-", stdin=GOOD), 'no column "visits"')


def test_the_number_of_rows_is_at_least_one(disc_train, run_dir):
    assert_refused(disc_train("sample", run_dir, "-n", 0), "--num-rows")


def test_a_split_deals_every_row_once_and_replaces_only_what_it_may(disc_train, tmp_path):
    (tmp_path / "rows.csv").write_text("id\n" + "".join(f"{number}\n" for number in range(100)))
    out = tmp_path / "parts"
    assert disc_train("split", tmp_path / "rows.csv", "--out", out, "--test", 0.3).out == f"{out}\n"
    train, test = ([*map(int, (out / name).read_text().split()[1:])] for name in ("train.csv", "test.csv"))
    assert len(test) == 30
    assert sorted(train + test) == list(range(100))
    other = ("split", tmp_path / "rows.csv", "--out", out, "--seed", 1)
    assert_refused(disc_train(*other), "train.csv exists", "--overwrite")
    assert [*map(int, (out / "test.csv").read_text().split()[1:])] == test
    assert disc_train(*other, "--overwrite").status == 0
    assert len((out / "test.csv").read_text().split()) == 21
    before = (out / "train.csv").read_bytes()
    assert_refused(disc_train("split", out / "train.csv", "--out", out, "--overwrite"), "is the table that is read")
    assert (out / "train.csv").read_bytes() == before
