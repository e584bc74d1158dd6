"""Recipes: typed, documented settings, and where each value came from.

A recipe is a frozen pydantic model whose sections are recipes themselves. `resolve` builds one from layers:
flags and `--set` win over the environment, over a file, over a preset, over the defaults.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from trainworks.console import UserError

Keys = tuple[str, ...]


class Recipe(BaseModel):
    """Base of recipes and sections: frozen; refuses unknown keys and non-finite numbers; checks defaults."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


@dataclass(frozen=True)
class Resolved(Generic[AnyRecipe]):
    """A recipe with, for each dotted key, the layer that its value came from.

    `provenance` values: "flag", "set", "environment", "file", "preset", "default".
    """

    recipe: AnyRecipe
    provenance: dict[str, str]

    @property
    def config(self) -> dict[str, Any]:
        """The recipe as plain JSON data."""
        return self.recipe.model_dump(mode="json")


@dataclass(frozen=True)
class FieldDoc:
    """One line of a recipe's documentation. `default` is None for a required field, as `required` says."""

    key: str
    type: str
    default: Any
    required: bool
    description: str


def resolve(
    recipe: type[AnyRecipe],
    *,
    file: Path | None = None,
    preset: str | None = None,
    presets: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({}),
    flags: Mapping[str, Any] = types.MappingProxyType({}),
    sets: Sequence[str] = (),
    env_prefix: str | None = None,
) -> Resolved[AnyRecipe]:
    """Build a recipe from its layers.

    Args:
        recipe: the recipe class.
        file: TOML or JSON; the `config` of a run.json, or of the run directory that holds one, works too.
        preset: a name in `presets`.
        presets: nested values by preset name.
        flags: values by dotted key ("train.steps"); None means that the flag was not given.
        sets: "section.key=value", the value a TOML literal or else a string; a part with dots of its own is
            quoted (`types."a.b"=integer`).
        env_prefix: with "DISC_TRAIN", the variable DISC_TRAIN__TRAIN__STEPS sets train.steps.

    Raises:
        UserError: an unknown key (the nearest known one is named), a wrong type or value, an unreadable file.
    """
    layers: list[tuple[str, dict[Keys, Any]]] = []
    if preset is not None:
        if preset not in presets:
            raise UserError(f'unknown preset "{preset}"; there are {", ".join(presets)}')
        layers.append(("preset", _flatten(recipe, presets[preset])))
    if file is not None:
        layers.append(("file", _flatten(recipe, _read(Path(file)))))
    if env_prefix is not None:
        layers.append(("environment", _from_environment(recipe, env_prefix)))
    given = {tuple(key.split(".")): value for key, value in flags.items() if value is not None}
    layers.append(("flag", given))
    layers.append(("set", dict(_parse_set(recipe, item) for item in sets)))

    sources: dict[Keys, str] = {}
    nested: dict[str, Any] = {}
    for source, values in layers:
        for keys, value in values.items():
            _check_known(recipe, keys, source)
            _put(nested, keys, value)
            sources[keys] = source
    try:
        made = recipe.model_validate(nested)
    except ValidationError as error:
        raise UserError(_explain(error, sources)) from None
    leaves = _flatten(recipe, made.model_dump())
    return Resolved(made, {".".join(keys): sources.get(keys, "default") for keys in leaves})


def describe(recipe: type[BaseModel]) -> list[FieldDoc]:
    """Every field of a recipe, sections flattened to dotted keys, in the order of definition."""
    return list(_describe(recipe, ""))


def _describe(recipe: type[BaseModel], prefix: str) -> Iterator[FieldDoc]:
    for name, field in recipe.model_fields.items():
        section = _section(field.annotation)
        if section is not None:
            yield from _describe(section, f"{prefix}{name}.")
            continue
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=True, validated_data={})
        description = " ".join((field.description or "").split())
        yield FieldDoc(f"{prefix}{name}", _type_name(field.annotation), default, required, description)


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(json.dumps(choice) for choice in typing.get_args(annotation))
    return annotation.__name__ if type(annotation) is type else str(annotation).replace("typing.", "")


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        path = path / "run.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no recipe at {path}; --config wants a TOML or JSON file, or a run directory") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; --config wants a TOML or JSON file") from None
    try:
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deep for a recipe") from None
    if path.suffix == ".json" and isinstance(values, dict) and {"schema", "tool", "config"} <= values.keys():
        values = values["config"]
    if not isinstance(values, dict):
        raise UserError(f"{path}: a recipe is a table of keys, not {type(values).__name__}")
    return values


def _from_environment(recipe: type[BaseModel], prefix: str) -> dict[Keys, Any]:
    found: dict[Keys, Any] = {}
    for name, text in sorted(os.environ.items()):
        if name.startswith(f"{prefix}__"):
            keys = tuple(part.lower() for part in name.removeprefix(f"{prefix}__").split("__"))
            found[keys] = _literal(text, _annotation(recipe, keys))
    return found


def _parse_set(recipe: type[BaseModel], item: str) -> tuple[Keys, Any]:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise UserError(f'--set wants section.key=value, not "{item}"')
    keys = _split_key(key.strip())
    return keys, _literal(text.strip(), _annotation(recipe, keys))


def _split_key(key: str) -> Keys:
    try:
        nested: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return tuple(key.split("."))
    keys: list[str] = []
    while isinstance(nested, dict):
        name, nested = next(iter(nested.items()))
        keys.append(name)
    return tuple(keys)


def _literal(text: str, annotation: Any) -> Any:
    """The value of a TOML literal, or the text itself where it is none or where the field holds text."""
    choices = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    if str in choices and text[:1] not in ("'", '"'):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _section(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _annotation(recipe: type[BaseModel], keys: Keys) -> Any:
    """The annotation that rules the value at `keys`; None for an unknown key."""
    annotation: Any = recipe
    for key in keys:
        section = _section(annotation)
        if section is not None:
            field = section.model_fields.get(key)
            annotation = field.annotation if field else None
        elif typing.get_origin(annotation) is dict:
            annotation = typing.get_args(annotation)[1]
        else:
            return None
    return annotation


def _flatten(recipe: Any, values: Mapping[str, Any], prefix: Keys = ()) -> dict[Keys, Any]:
    """Leaf values by key path; sections and dict-typed fields are opened, other values are leaves."""
    leaves: dict[Keys, Any] = {}
    for key, value in values.items():
        keys = (*prefix, str(key))
        annotation = _annotation(recipe, keys)
        opened = _section(annotation) is not None or typing.get_origin(annotation) is dict
        if opened and isinstance(value, Mapping):
            leaves |= _flatten(recipe, value, keys)
        else:
            leaves[keys] = value
    return leaves


def _put(nested: dict[str, Any], keys: Keys, value: Any) -> None:
    for key in keys[:-1]:
        nested = nested.setdefault(key, {})
    nested[keys[-1]] = value


def _check_known(recipe: type[BaseModel], keys: Keys, source: str) -> None:
    dotted = ".".join(keys)
    annotation = _annotation(recipe, keys)
    if annotation is None:
        known = [field.key for field in describe(recipe)]
        raise UserError(f'unknown key "{dotted}" ({_SAID_IN[source]}){nearest(dotted, known)}')
    if _section(annotation) is not None:
        raise UserError(f'"{dotted}" ({_SAID_IN[source]}) is a section: set a key inside it')


_SAID_IN = {
    "preset": "in the preset",
    "file": "in --config",
    "environment": "in the environment",
    "flag": "from a flag",
    "set": "in --set",
}


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error about an unknown dotted name: the known one that is meant, or all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not near:  # the right key in the wrong section, or in none
        last = {key.rpartition(".")[2]: key for key in known}
        near = [last[key] for key in difflib.get_close_matches(name.rpartition(".")[2], last, n=1)]
    return f'; did you mean "{near[0]}"?' if near else f"; known: {', '.join(sorted(known))}"


def _explain(error: ValidationError, sources: Mapping[Keys, str]) -> str:
    """The first thing wrong, in one line."""
    first, *others = error.errors(include_url=False)
    keys = tuple(str(part) for part in first["loc"])
    source = next((sources[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in sources), None)
    reason = first["msg"].removeprefix("Value error, ").replace("\n", " ")
    where = ".".join(keys) or "recipe"
    if first["type"] == "missing" and source is None:
        return f'"{where}" is required: give it in --config or with --set {where}=...'
    said = f" ({_SAID_IN[source]})" if source else ""
    shown = f" = {json.dumps(first['input'], default=str)}" if source else ""
    more = f" (and {len(others)} more)" if others else ""
    return f"{where}{shown}{said}: {reason[:1].lower() + reason[1:]}{more}"
