"""Suite files: what they may say, and what is wrong with bad ones."""

import pytest

from ablate.suite import built_in_suites, choose, load_suite, variants_of
from trainworks.console import UserError


def names(path):
    return [variant.name for variant in variants_of(load_suite(str(path)))]


def test_variants_are_differences_over_the_base(suite):
    path = suite(
        """
        [base.training]
        steps = 3
        batch_size = 16
        [variants.small]
        purpose = "Does a small batch do?"
        set.training.batch_size = 4
        [variants.fast]
        purpose = "An option."
        set."--fast" = true
        """
    )
    baseline, small, fast = variants_of(load_suite(str(path)))
    assert (baseline.name, baseline.changes) == ("baseline", {})
    assert small.changes == {"training.batch_size": 4}
    assert small.settings == {"training.steps": 3, "training.batch_size": 4}
    assert fast.settings == {"training.steps": 3, "training.batch_size": 16, "--fast": True}


def test_a_matrix_makes_every_combination(suite):
    path = suite(
        '[matrix]\n"--speed" = ["fast", "slow"]\n"model.ratio" = [2, 4]\n',
        head='baseline = "slow_ratio=2"\ncommand = "x"\nmetrics.a.direction = "max"\n',
    )
    assert names(path) == ["slow_ratio=2", "fast_ratio=2", "fast_ratio=4", "slow_ratio=4"]


def test_a_suite_takes_over_what_it_extends(suite):
    suite('[base]\nquality = 0.4\nnoise = 0.1\n[variants.a]\npurpose = "a"\nset.quality = 0.1\n', name="parent")
    path = suite(
        '[base]\nnoise = 0.2\n[variants.b]\npurpose = "b"\nset.quality = 0.2\n', head='extends = "parent.toml"\n'
    )
    assert [(variant.name, variant.settings) for variant in variants_of(load_suite(str(path)))] == [
        ("baseline", {"quality": 0.4, "noise": 0.2}),
        ("a", {"quality": 0.1, "noise": 0.2}),
        ("b", {"quality": 0.2, "noise": 0.2}),
    ]


def test_the_baseline_is_always_among_the_chosen(suite):
    path = suite(
        "".join(f'[variants.{name}]\npurpose = "-"\nset.quality = 0.{name[1]}\n' for name in ("v1", "v2", "v3"))
    )
    variants = variants_of(load_suite(str(path)))
    assert [variant.name for variant in choose(variants, ["v3"])] == ["baseline", "v3"]
    assert [variant.name for variant in choose(variants, [])] == ["baseline", "v1", "v2", "v3"]
    with pytest.raises(UserError, match='no variant "v33" in the suite; did you mean "v3"'):
        choose(variants, ["v33"])


VARIANT = '[variants.a]\npurpose = "a"\n'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[bugdet]\ntimeout = 3\n", r'unknown key "bugdet" in .*suite.toml; did you mean "budget"\?'),
        ("[budget]\ntimout = 3\n", r'unknown key "budget.timout" in .*; did you mean "timeout"\?'),
        (f"{VARIANT}sett.x = 1\n", r'unknown key "variants.a.sett" in .*; did you mean "set"\?'),
        ("[variants.a]\nset.x = 1\n", '"variants.a.purpose" is required'),
        ("[budget]\ntimeout = -1\n", "budget.timeout = -1: input should be greater than or equal to 0"),
        (VARIANT, 'the variants "baseline" and "a" are alike'),
        (f'{VARIANT}set.x = 1\n[variants.b]\npurpose = "b"\nset.x = 1\n', 'the variants "a" and "b" are alike'),
        ('[variants."a/b"]\npurpose = "a"\nset.x = 1\n', 'name "a/b" makes no file name'),
        ("[base]\n[base]\n", "suite.toml: .*at line"),
        ('[metrics.other]\ndirection = "up"\n', "metrics.other.direction = \"up\": input should be 'max' or 'min'"),
    ],
)
def test_bad_suites_are_told_in_one_line(suite, ablate, body, message):
    path = suite(body)
    with pytest.raises(UserError, match=message):
        variants_of(load_suite(str(path)))
    ended = ablate("run", path, "--out", path.parent / "out")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert not (path.parent / "out").exists()


def test_what_is_required_is_named(suite):
    with pytest.raises(UserError, match='"command" is required'):
        load_suite(str(suite("", head='metrics.a.direction = "max"\n')))
    with pytest.raises(UserError, match='the baseline "full" is no variant; did you mean "fuller"'):
        names(
            suite(
                '[variants.fuller]\npurpose = "-"\nset.x = 1\n',
                head='command = "x"\nbaseline = "full"\nmetrics.a.direction = "max"\n',
            )
        )


def test_circular_inheritance_is_refused(suite):
    suite("", name="a", head='extends = "b.toml"\n')
    suite("", name="b", head='extends = "c.toml"\n')
    path = suite("", name="c", head='extends = "a.toml"\n')
    with pytest.raises(UserError, match=r"b.toml extends in a circle: c.toml -> a.toml -> b.toml -> c.toml"):
        load_suite(str(path))
    with pytest.raises(UserError, match=r"extends in a circle: own\.toml -> own\.toml"):
        load_suite(str(suite("", name="own", head='extends = "own.toml"\n')))


def test_a_missing_suite_names_the_built_in_ones(tmp_path):
    with pytest.raises(UserError, match=r"no suite at .*qa.toml; built in are .*qa-train"):
        load_suite(str(tmp_path / "qa.toml"))


def test_losses_of_different_weights_are_not_compared(suite, ablate):
    metrics = '[metrics]\n"valid/loss" = { direction = "min" }\n'
    head = 'command = "sh"\n'
    weights = suite(f"{VARIANT}set.training.contrastive_weight = 0.0\n", head=head + metrics)
    ended = ablate("run", weights, "--dry-run")
    assert ended.status == 2
    assert ended.err.startswith(
        'error: "valid/loss" is a loss, and the variants differ in training.contrastive_weight:'
    )
    comparable = metrics.replace('"min"', '"min", comparable = true')
    assert (
        ablate(
            "run", suite(f"{VARIANT}set.training.contrastive_weight = 0.0\n", head=head + comparable), "--dry-run"
        ).status
        == 0
    )
    others = ablate("run", suite(f"{VARIANT}set.training.weight_decay = 0.0\n", head=head + metrics), "--dry-run")
    assert (others.status, others.err.startswith('warning: "valid/loss" is a loss')) == (0, True)


@pytest.mark.parametrize("name", built_in_suites())
def test_every_variant_of_a_built_in_suite_is_a_recipe_of_its_tool(name, ablate, tmp_path):
    """`ablate run` asks the tool itself, by its --dry-run, before it prints anything."""
    ended = ablate("run", name, "--dry-run", "--out", tmp_path / "out", "--seeds", 1)
    assert ended.status == 0, ended.err
    suite = load_suite(name)
    assert len(ended.out.splitlines()) == len(variants_of(suite)) + bool(suite.prepare)  # the data are made first
    assert not (tmp_path / "out").exists()


def test_a_copy_of_a_suite_is_the_suite(ablate, tmp_path):
    copy = tmp_path / "mine.toml"
    assert ablate("init", "qa-train", "--out", copy).out == f"{copy}\n"
    assert load_suite(str(copy)) == load_suite("qa-train")
    again = ablate("init", "qa-train", "--out", copy)
    assert (again.status, again.err) == (2, f"error: {copy} exists; name another --out, or give --overwrite\n")


def test_the_template_is_a_suite_of_any_command(ablate, tmp_path):
    template = tmp_path / "template.toml"
    assert ablate("init", "python train.py", "--out", template).status == 0
    assert load_suite(str(template)).command == ["python", "train.py"]
    shown = ablate("show", template)
    assert shown.out == (
        "baseline\n    (the base recipe)\n    The base recipe.\nsmaller\n    network.dim=32\n    Is the width needed?\n"
    )


@pytest.mark.parametrize(
    ("content", "said"), [(b"\xff\xfe", "is not UTF-8 text"), (b"x = " + b"[" * 9999, "nested too deep")]
)
def test_a_file_that_is_no_suite_is_one_line(tmp_path, content, said):
    path = tmp_path / "suite.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        load_suite(str(path))


def test_a_file_in_place_of_the_folder_that_a_suite_reads_is_told(ablate, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    ended = ablate("run", "disc-train", "--data", table, "--out", tmp_path / "out")
    assert (ended.status, ended.err) == (
        2,
        f"error: --data {table} is a file, and disc-train reads {{data}}/train.csv: name the folder\n",
    )
