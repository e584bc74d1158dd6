"""Suites: a small TOML file says what is varied, over which base, and by which metrics it is judged."""

from __future__ import annotations

import difflib
import itertools
import json
import re
import shlex
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from trainworks.config import Recipe
from trainworks.console import UserError, warn


def _split(words: Any) -> Any:
    return shlex.split(words) if isinstance(words, str) else words


Words = Annotated[list[str], BeforeValidator(_split)]
"""A command: one string, split as a shell would, or a list of words. `{data}`, `{out}` (the run directory), `{seed}`,
`{threads}` and `{processes}` are filled in; no shell is started."""


class Metric(Recipe):
    """How a metric is read and judged."""

    direction: Literal["max", "min"]
    """Whether more or less of it is better."""
    at: Literal["result", "last", "best"] = "result"
    """`result`: of the finished model, from run.json's result or from what `evaluate` printed; `last` and `best`: from
    metrics.jsonl."""
    effect: float = Field(0.0, ge=0)
    """The smallest difference worth knowing of, in the metric's unit; seeds are planned for it. 0: none is named."""
    comparable: bool = False
    """For a metric that is a loss: its formula is the same in all variants, whatever their loss weights."""


class VariantConfig(Recipe):
    """A difference over the base recipe."""

    purpose: str
    """What one learns from it, in a line."""
    set: dict[str, Any] = {}
    """Values by key of the recipe; a key that begins with -- is an option of the command, `true` one without value."""


class Budget(Recipe):
    """What a run may take."""

    timeout: float = Field(0.0, ge=0)
    """Seconds after which a run is stopped, pauses left out; 0: no limit."""
    memory_gib: float = Field(0.0, ge=0)
    """Memory that a run needs, in GiB: fewer jobs run at once where they would not fit; 0: not counted."""
    gpus: float = Field(0.0, ge=0)
    """GPUs that a run takes; below 1 several runs share one. 0: one of those in --gpu-ids, and none elsewhere."""
    health_every: float = Field(60.0, gt=0)
    """Seconds between looks at a run's health under --stop-on."""


class Memory(Recipe):
    """What changes when a run goes out of memory; it is then started anew."""

    halve: list[str] = []
    """Keys whose values are halved, such as the batch size."""
    double: list[str] = []
    """Keys whose values are doubled, such as the steps of gradient accumulation."""
    retries: int = Field(2, ge=0)
    """Times, at most."""


class Suite(Recipe):
    """A suite file. `extends = "other.toml"` beside these keys takes over what another suite says."""

    command: Words = Field(min_length=1)
    """What trains; it takes --set key=value, --seed N, --out DIR and --resume DIR."""
    metrics: dict[str, Metric] = Field(min_length=1)
    """By name; the first decides, the others are told beside it."""
    arguments: Words = []
    """Words after the command when a run begins, and not when it is resumed."""
    ddp: Words = []
    """The command under --ddp, such as torchrun --standalone --nproc_per_node {processes} -m voice_gan train."""
    data: str = ""
    """Fills in {data}; --data overrules it."""
    prepare: Words = []
    """Makes {data}, once, where neither --data nor `data` names any."""
    evaluate: Words = []
    """Run after each training; the JSON object that it prints joins the run's result, nested names joined by /."""
    resume: bool = True
    """False for a command without --resume: what was interrupted starts anew."""
    dry_run: bool = False
    """The command has --dry-run, with which every variant is tried before anything starts."""
    epochs: str = ""
    """The key that --epochs sets."""
    curve: str = ""
    """The metric of metrics.jsonl that is drawn over training; default: the first of `metrics`."""
    seeds: int = Field(3, ge=1)
    """Runs of each variant, with seeds 0, 1, 2 and so on; a variant is compared with the baseline seed by seed."""
    baseline: str = "baseline"
    """The variant that the others are compared with; `baseline` needs no table and is the base recipe itself."""
    base: dict[str, Any] = {}
    """The base recipe, as far as it differs from the command's defaults; keys as in a variant's `set`."""
    variants: dict[str, VariantConfig] = {}
    """By name."""
    matrix: dict[str, list[Any]] = {}
    """Values by key: every combination is a variant as well."""
    budget: Budget = Budget()
    memory: Memory = Memory()


@dataclass(frozen=True)
class Variant:
    """One variant as it is run.

    Attributes:
        name: a part of file names.
        purpose: what one learns from it.
        changes: what differs from the base, by dotted key.
        settings: base and changes.
    """

    name: str
    purpose: str
    changes: dict[str, Any]
    settings: dict[str, Any]


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=+-]*")
_LOSS_WEIGHT = re.compile(
    r"(^|[._])(weights?(?!_decay)|lambdas?|coefs?|alpha|beta|objectives?|loss(es)?|strength)([._]|$)"
)


def built_in_suites() -> list[str]:
    """Names of the suites that come with this package."""
    names = (file.name for file in resources.files("ablate").joinpath("suites").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def suite_text(tool: str) -> str:
    """A file to start from: the built-in suite of that name or, for any other command, a commented template."""
    folder = resources.files("ablate")
    if tool in built_in_suites():
        return folder.joinpath("suites", f"{tool}.toml").read_text(encoding="utf-8")
    return folder.joinpath("template.toml").read_text(encoding="utf-8").replace("COMMAND", tool.replace('"', '\\"'))


def load_suite(suite: str) -> Suite:
    """Read a suite with all that it extends.

    Args:
        suite: a TOML file, or the name of a built-in suite.

    Raises:
        UserError: no such file, an unknown key (the nearest is named), a wrong value, circular inheritance.
    """
    try:
        return Suite.model_validate(_read(suite, ()))
    except ValidationError as error:
        raise UserError(f"{suite}: {_explain(error)}") from None


def variants_of(suite: Suite) -> list[Variant]:
    """All variants, the baseline first, then in the order of the file and of the matrix.

    Raises:
        UserError: two variants alike or of one name, a name that makes no file name, a baseline that isn't there.
    """
    base = flatten(suite.base)
    found = {name: (config.purpose, flatten(config.set)) for name, config in suite.variants.items()}
    for name, changes in _cells(suite.matrix):
        if name in found:
            raise UserError(f'the matrix makes a variant "{name}", and so does the table variants: rename one')
        found[name] = (", ".join(f"{key} = {shown(value)}" for key, value in changes.items()), changes)
    if suite.baseline == "baseline":
        found.setdefault("baseline", ("The base recipe.", {}))
    if suite.baseline not in found:
        raise UserError(f'the baseline "{suite.baseline}" is no variant{nearest(suite.baseline, found)}')
    alike: dict[str, str] = {}
    variants = []
    for name in sorted(found, key=lambda name: name != suite.baseline):
        if not _NAME.fullmatch(name):
            raise UserError(f'the variant\'s name "{name}" makes no file name: letters, digits and _ . = + - will do')
        purpose, changes = found[name]
        variant = Variant(name, purpose, changes, base | changes)
        twin = alike.setdefault(json.dumps(variant.settings, sort_keys=True, default=str), name)
        if twin != name:
            raise UserError(f'the variants "{twin}" and "{name}" are alike: remove one, or change what it sets')
        variants.append(variant)
    return variants


def choose(variants: Sequence[Variant], names: Sequence[str]) -> list[Variant]:
    """The named variants, all if none is named, and always the baseline, which is the first.

    Raises:
        UserError: an unknown name.
    """
    known = [variant.name for variant in variants]
    for name in names:
        if name not in known:
            raise UserError(f'no variant "{name}" in the suite{nearest(name, known)}')
    return [variant for variant in variants if not names or variant.name in {known[0], *names}]


def check_metrics(suite: Suite, variants: Sequence[Variant]) -> None:
    """Hold off comparisons that mean nothing.

    Raises:
        UserError: a loss as a metric while loss weights vary, unless it is said to be comparable.
    """
    keys = sorted({key for variant in variants for key in variant.changes if _LOSS_WEIGHT.search(key)})
    for name, metric in suite.metrics.items():
        if "loss" in name.lower() and not metric.comparable:
            advice = "judge by a metric of the finished model, or say comparable = true if its formula never changes"
            if keys:
                raise UserError(f'"{name}" is a loss, and the variants differ in {", ".join(keys)}: {advice}')
            warn(f'"{name}" is a loss: {advice}')
        elif name.startswith("train/"):
            warn(f'"{name}" is measured on training data: it says little about the finished model')


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def shown(value: Any) -> str:
    """A value as it stands after the = of --set: text as it is, the rest as a TOML literal."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else f"; known: {', '.join(known)}"


def _cells(matrix: Mapping[str, Sequence[Any]]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Name and changes of every combination of a matrix."""
    if not matrix:
        return
    for values in itertools.product(*matrix.values()):
        changes = dict(zip(matrix, values, strict=True))
        parts = (
            value if isinstance(value, str) else f"{key.rpartition('.')[2].lstrip('-')}={shown(value)}"
            for key, value in changes.items()
        )
        yield "_".join(parts), changes


def _read(suite: str, children: tuple[Path, ...]) -> dict[str, Any]:
    """A suite's tables, merged over those that it extends; `children` are the suites on the way to it."""
    path = Path(suite)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{suite} is not UTF-8 text; a suite is a TOML file") from None
    elif suite in built_in_suites():
        text = suite_text(suite)
    else:
        known = ", ".join(built_in_suites())
        raise UserError(f"no suite at {suite}; built in are {known} (`ablate init NAME` writes a copy)")
    here = path.resolve()
    if here in children:
        circle = " -> ".join(child.name for child in [*children[children.index(here) :], here])
        raise UserError(f"{children[-1].name} extends in a circle: {circle}")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{suite}: {error}") from None
    except RecursionError:
        raise UserError(f"{suite} is nested too deep for a suite") from None
    parent = values.pop("extends", None)
    _check_keys(Suite, values, suite, "")
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise UserError(f"{suite}: extends is the name of a suite or of a file beside this one")
    beside = path.parent / parent
    return _merge(_read(str(beside) if beside.is_file() else parent, (*children, here)), values)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _check_keys(model: type[BaseModel], values: Mapping[str, Any], suite: str, prefix: str) -> None:
    for key, value in values.items():
        if key not in model.model_fields:
            near = nearest(key, [*model.model_fields, *([] if prefix else ["extends"])])
            raise UserError(f'unknown key "{prefix}{key}" in {suite}{near}')
        annotation = model.model_fields[key].annotation
        tables = {f"{prefix}{key}.": (annotation, value)}
        if typing.get_origin(annotation) is dict and isinstance(value, Mapping):
            section = typing.get_args(annotation)[1]
            tables = {f"{prefix}{key}.{name}.": (section, table) for name, table in value.items()}
        for where, (section, table) in tables.items():
            if isinstance(section, type) and issubclass(section, BaseModel) and isinstance(table, Mapping):
                _check_keys(section, table, suite, where)


def _explain(error: ValidationError) -> str:
    """The first thing wrong, in one line."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f'"{where}" is required'
    reason = first["msg"].replace("\n", " ")
    return f"{where} = {json.dumps(first['input'], default=str)}: {reason[:1].lower()}{reason[1:]}"
