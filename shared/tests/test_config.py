from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, model_validator

from trainworks.config import Recipe, describe, resolve
from trainworks.console import UserError


class Model(Recipe):
    depth: int = Field(4, ge=1)
    """Layers; more is slower."""
    kind: Literal["lstm", "transformer"] = "lstm"
    name: str | None = None


class Example(Recipe):
    model: Model = Model()
    rate: float = Field(1e-3, gt=0, description="step size")
    types: dict[str, str] = {}

    @model_validator(mode="after")
    def _deep_needs_small_rate(self) -> "Example":
        if self.model.depth > 100 and self.rate > 0.01:
            raise ValueError("a deep model needs a rate under 0.01")
        return self


def test_each_layer_wins_over_those_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("rate = 0.2\n[model]\ndepth = 3\nname = 'from file'\nkind = 'lstm'\n")
    monkeypatch.setenv("EXAMPLE__MODEL__NAME", "from environment")
    monkeypatch.setenv("EXAMPLE__RATE", "0.3")
    resolved = resolve(
        Example,
        file=file,
        preset="small",
        presets={"small": {"model": {"depth": 1, "kind": "transformer"}, "types": {"a": "integer"}}},
        flags={"rate": 0.4, "model.kind": None},
        sets=["types.b=date"],
        env_prefix="EXAMPLE",
    )
    assert resolved.config == {
        "model": {"depth": 3, "kind": "lstm", "name": "from environment"},
        "rate": 0.4,
        "types": {"a": "integer", "b": "date"},
    }
    assert resolved.provenance == {
        "model.depth": "file",
        "model.kind": "file",
        "model.name": "environment",
        "rate": "flag",
        "types.a": "preset",
        "types.b": "set",
    }


def test_defaults_are_known_as_such() -> None:
    assert resolve(Example).provenance["model.depth"] == "default"


def test_a_run_is_a_recipe_again(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        '{"schema": 1, "tool": "example", "config": {"model": {"depth": 9}, "rate": 0.5}}'
    )
    for given in (tmp_path, tmp_path / "run.json"):
        assert resolve(Example, file=given).recipe.model.depth == 9


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("model.name=007", "007"),
        ("model.name=true", "true"),
        ("model.name='5'", "5"),
        ("model.depth=5", 5),
        ("rate=1e-2", 0.01),
        ("types.Marital Status=categorical", "categorical"),
        ('types."a.b"=integer', "integer"),
    ],
)
def test_set_reads_toml_but_leaves_text_as_it_is(item: str, value: object) -> None:
    config = resolve(Example, sets=[item]).config
    assert value in [*config["model"].values(), config["rate"], *config["types"].values()]
    assert set(config["types"]) <= {"Marital Status", "a.b"}


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("model.dept=3", 'unknown key "model.dept" (in --set); did you mean "model.depth"?'),
        ("depth=3", 'did you mean "model.depth"?'),
        ("rate.x=3", 'unknown key "rate.x"'),
        ("model=3", "is a section"),
        ("model.depth=0", "model.depth = 0 (in --set): input should be greater than or equal to 1"),
        ("model.kind=gru", "'lstm' or 'transformer'"),
        ("rate=nan", "finite"),
        ("rate=fast", "valid number"),
        ("rate", "section.key=value"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_key(item: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(Example, sets=[item])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_over_several_keys_is_told_in_its_own_words() -> None:
    with pytest.raises(UserError, match=r"^recipe: a deep model needs a rate under 0.01$"):
        resolve(Example, sets=["model.depth=200", "rate=0.1"])


def test_files_and_presets_that_are_wrong_name_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recipe at"):
        resolve(Example, file=tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("rate = = 3")
    with pytest.raises(UserError, match=r"broken.toml: .*line 1"):
        resolve(Example, file=broken)
    with pytest.raises(UserError, match='unknown preset "smal"; there are small, large'):
        resolve(Example, preset="smal", presets={"small": {}, "large": {}})
    broken.write_text("[model]\ndept = 3")
    with pytest.raises(UserError, match=r'"model.dept" \(in --config\)'):
        resolve(Example, file=broken)


def test_an_unknown_variable_of_the_tool_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE__MODEL__DEPHT", "3")
    with pytest.raises(UserError, match=r"in the environment.*model.depth"):
        resolve(Example, env_prefix="EXAMPLE")


def test_describe_lists_fields_for_the_documentation() -> None:
    fields = {field.key: field for field in describe(Example)}
    assert list(fields) == ["model.depth", "model.kind", "model.name", "rate", "types"]
    assert fields["model.depth"].description == "Layers; more is slower."
    assert fields["rate"].description == "step size"
    assert (fields["model.kind"].type, fields["rate"].default) == ('"lstm" | "transformer"', 0.001)


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        resolve(Example).recipe.rate = 3
