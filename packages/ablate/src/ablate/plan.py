"""What is to be run: a suite with what the command line changes, as jobs; and what of it was run before."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.jobs import Job, JobPaths, child_environment
from ablate.suite import Suite, Variant, choose, load_suite, shown, variants_of
from trainworks.console import UserError, info
from trainworks.files import write_json

PLAN = "suite.json"
"""What was asked for, in the suite's folder."""
HEALTH = ("diag", "health", "--quiet")


@dataclass(frozen=True)
class Options:
    """What the command line says beside the suite; None and empty leave it to the suite.

    Attributes:
        suite: file or name.
        out: the suite's folder.
        ablations: variants to run; the baseline always is.
        seeds, epochs, sets, data, timeout: overrule the suite.
        jobs, threads, gpu_ids, ddp, stop_on, executor, executor_options: how it is run.
        rerun_changed: train again what was trained with other settings.
    """

    suite: str
    out: Path | None = None
    ablations: Sequence[str] = ()
    seeds: int | None = None
    epochs: int | None = None
    sets: Sequence[str] = ()
    data: str | None = None
    timeout: float | None = None
    jobs: int | None = None
    threads: int | None = None
    gpu_ids: Sequence[str] = ()
    ddp: bool = False
    stop_on: str | None = None
    executor: str = "local"
    executor_options: Mapping[str, str] = field(default_factory=dict)
    rerun_changed: bool = False


@dataclass(frozen=True)
class Plan:
    """What is in a suite's folder, or is to be.

    Attributes:
        name: of the suite.
        suite: with what the command line changed.
        variants: the baseline first.
        seeds: of each, from 0.
        data: what fills in {data}; absolute if it is a path.
        threads: of one run. Results depend on it in their last bits, so a folder keeps what it began with.
        folder: where the runs are; absolute.
    """

    name: str
    suite: Suite
    variants: list[Variant]
    seeds: int
    data: str
    threads: int
    folder: Path

    def paths(self) -> list[JobPaths]:
        """All runs, seed by seed, so that early comparisons are already paired."""
        evaluated = bool(self.suite.evaluate)
        return [
            JobPaths(self.folder, variant.name, seed, evaluated)
            for seed in range(self.seeds)
            for variant in self.variants
        ]


def make_plan(options: Options) -> Plan:
    """Read the suite and apply what the command line says.

    Raises:
        UserError: a bad suite, an unknown variant, --epochs or --ddp for a suite that names no key or command for it, a
            command that needs data and gets none, or a file in place of a folder.
    """
    suite = load_suite(options.suite)
    base = dict(suite.base)
    if options.epochs is not None:
        if not suite.epochs:
            raise UserError(f"{options.suite} names no key for --epochs; use --set KEY={options.epochs}")
        base[suite.epochs] = options.epochs
    base |= dict(_parse_set(item) for item in options.sets)
    budget = suite.budget
    if options.timeout is not None:
        budget = budget.model_copy(update={"timeout": options.timeout})
    command = suite.command
    if options.ddp:
        if not suite.ddp:
            raise UserError(f"{options.suite} names no command for --ddp; give it as `ddp` in the suite")
        command = suite.ddp
    name = Path(options.suite).stem
    folder = folder_of(options)
    threads = options.threads or _threads_before(folder) or max(1, _cores() // (options.jobs or 1))
    changed = {"base": base, "budget": budget, "command": command, "seeds": options.seeds or suite.seeds}
    suite = suite.model_copy(update=changed)
    variants = choose(variants_of(suite), options.ablations)
    if options.ablations and variants[0].name not in options.ablations:
        info(f"{variants[0].name} is run as well: it is the baseline")
    plan = Plan(name, suite, variants, suite.seeds, _data(suite, options.data, folder), threads, folder)
    words = [*command, *suite.arguments, *suite.evaluate]
    if not plan.data and any("{data}" in word for word in words):
        raise UserError(f"{options.suite} needs --data: its command has {{data}}, and it makes none itself")
    within = [word for word in words if word.startswith("{data}/")]
    if within and Path(plan.data).is_file():
        raise UserError(f"--data {options.data} is a file, and {options.suite} reads {within[0]}: name the folder")
    return plan


def folder_of(options: Options) -> Path:
    """Where a suite's runs are, absolute."""
    return (options.out or Path("runs") / f"ablate-{Path(options.suite).stem}").absolute()


def jobs_of(plan: Plan, options: Options) -> list[Job]:
    """A job for each run, in the order in which they are begun."""
    suite, settings = plan.suite, {variant.name: variant.settings for variant in plan.variants}
    health = HEALTH if options.stop_on else ()
    threads = str(plan.threads)
    environment = dict.fromkeys(_THREAD_VARIABLES, threads)
    jobs = []
    for paths in plan.paths():
        words = {"{data}": plan.data, "{out}": str(paths.run), "{seed}": str(paths.seed), "{threads}": threads}
        words["{processes}"] = str(_processes(suite))
        command = filled(suite.command, words)
        job = Job(
            variant=paths.variant,
            seed=paths.seed,
            folder=plan.folder,
            begin=[*command, *filled(suite.arguments, words)],
            go_on=command if suite.resume else [],
            evaluate=filled(suite.evaluate, words),
            settings=settings[paths.variant],
            memory=suite.memory,
            environment=environment,
            working_directory=os.getcwd(),
            threads=plan.threads,
            gpus=gpus_of(plan, options),
            memory_gib=suite.budget.memory_gib,
            timeout=suite.budget.timeout,
            health=health,
            health_every=suite.budget.health_every,
        )
        jobs.append(job)
    return jobs


_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def gpus_of(plan: Plan, options: Options) -> float:
    """GPUs that a run takes."""
    return plan.suite.budget.gpus or (1.0 if options.gpu_ids else 0.0)


def filled(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Words with their {placeholders} filled in; other braces stay as they are."""
    found = []
    for word in words:
        for name, value in values.items():
            word = word.replace(name, value)
        found.append(word)
    return found


def require_command(words: Sequence[str], what: str) -> None:
    """
    Raises:
        UserError: the command is not installed.
    """
    if words and shutil.which(words[0], path=child_environment({})["PATH"]) is None:
        raise UserError(f'the command "{words[0]}" of {what} is not installed, or not on the PATH')


def config_of(plan: Plan, variant: Variant) -> dict[str, Any]:
    """What decides a variant's results: the content of config_<name>.json."""
    suite = plan.suite
    return {
        "name": variant.name,
        "purpose": variant.purpose,
        "changes": variant.changes,
        "training": {
            "command": [*suite.command, *suite.arguments],
            "prepare": suite.prepare if plan.data == _prepared(plan.folder) else [],
            "data": plan.data,
            "settings": variant.settings,
        },
        "evaluate": suite.evaluate,
    }


def digest(value: Any) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def check_changes(plan: Plan) -> None:
    """
    Raises:
        UserError: a variant is not what it was when its runs were made.
    """
    for variant in plan.variants:
        before, now = _configs(plan, variant)
        if before is not None and _differing(before, now):
            raise UserError(
                f'variant "{variant.name}" has changed since it was run: {_difference(before, now)}; --rerun-changed '
                "runs it again, another --out keeps both"
            )


def settle_changes(plan: Plan) -> None:
    """Write config_<name>.json for each variant, and remove what was made by another one: the runs, or the evaluations
    where only that command has changed."""
    # A disk publishes many files at once about as fast as one.
    with ThreadPoolExecutor(max_workers=16) as pool:
        list(pool.map(lambda variant: _settle(plan, variant), plan.variants))


def _settle(plan: Plan, variant: Variant) -> None:
    before, now = _configs(plan, variant)
    if before is not None:
        for part in _differing(before, now):
            _remove(plan, variant.name, only_evaluation=part == "evaluate")
    if before != now:
        write_json(plan.folder / f"config_{variant.name}.json", now)


def _configs(plan: Plan, variant: Variant) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What config_<name>.json says, None if there is none, and what it has to say."""
    config = config_of(plan, variant)
    hashes = {part: digest(config[part]) for part in ("training", "evaluate")}
    return _read_config(plan.folder / f"config_{variant.name}.json"), config | {"hash": hashes}


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [part for part in now["hash"] if before.get("hash", {}).get(part) != now["hash"][part]]


def _remove(plan: Plan, name: str, only_evaluation: bool) -> None:
    for paths in plan.paths():
        if paths.variant == name:
            paths.evaluation.unlink(missing_ok=True)
    if not only_evaluation:
        shutil.rmtree(plan.folder / f"checkpoints_{name}", ignore_errors=True)


def _read_config(file: Path) -> dict[str, Any] | None:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        raise UserError(f"{file} is damaged: it is not JSON; remove it to run the variant again") from None
    return config if isinstance(config, dict) else {}


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing that differs between two configs, in words."""
    old, new = before.get("training", {}), now["training"]
    settings, wanted = old.get("settings", {}), new["settings"]
    for key in {**settings, **wanted}:
        if settings.get(key) != wanted.get(key):
            values = [shown(values[key]) if key in values else "its default" for values in (settings, wanted)]
            return f"{key} was {values[0]} and is {values[1]}"
    for key in ("data", "command", "prepare"):
        if old.get(key) != new[key]:
            return f"its {key} was {old.get(key)} and is {new[key]}"
    return "its evaluate command is another"


def read_plan(folder: Path) -> Plan:
    """What was begun in a suite's folder.

    Raises:
        UserError: it is no suite's folder.
    """
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        suite = Suite.model_validate(plan["config"])
        name, data, threads = plan["suite"], plan["data"], plan["threads"]
    except FileNotFoundError:
        raise UserError(f"{folder} is no suite's folder: it has no {PLAN}; `ablate run` makes one") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{folder / PLAN} is damaged or of another version; `ablate run` writes it anew") from None
    begun = [variant for variant in variants_of(suite) if (folder / f"config_{variant.name}.json").exists()]
    return Plan(name, suite, begun, suite.seeds, data, threads, folder.absolute())


def write_plan(plan: Plan) -> None:
    """Publish suite.json."""
    config = plan.suite.model_dump(mode="json")
    write_json(plan.folder / PLAN, {"suite": plan.name, "data": plan.data, "threads": plan.threads, "config": config})


def _parse_set(item: str) -> tuple[str, Any]:
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise UserError(f'--set wants key=value, not "{item}"')
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text


def _data(suite: Suite, given: str | None, folder: Path) -> str:
    data = given or suite.data
    if not data:
        return _prepared(folder) if suite.prepare else ""
    return str(Path(data).absolute()) if Path(data).exists() else data


def _prepared(folder: Path) -> str:
    return str(folder / "data")


def needs_preparing(plan: Plan) -> bool:
    """Whether the suite's own data are still to be made."""
    return bool(plan.suite.prepare) and plan.data == _prepared(plan.folder) and not Path(plan.data).exists()


def _processes(suite: Suite) -> int:
    return max(1, round(suite.budget.gpus))


def _threads_before(folder: Path) -> int | None:
    file = folder / PLAN
    return read_plan(folder).threads if file.exists() else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
