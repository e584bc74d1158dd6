"""Each tool alone, in an empty environment: installed from this folder, from git and by `uv pip`, it does a small job.

    python tools/install_matrix.py                        # all tools, all ways
    python tools/install_matrix.py --tool ablate --way git

Needs uv. Prints a table; exits with 1 if an installation or a job fails, or if a framework came along that the tool has
no use for. Only what is committed is installed from git.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("path", "git", "pip")

LOOK = """
import importlib.util, sys
found = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
sys.exit(f"{', '.join(found)} came along" if found else 0)
"""


@dataclass(frozen=True)
class Tool:
    """What is installed, and what shows that it works.

    Attributes:
        absent: modules that its environment must not have.
        job: shell commands, run in an empty folder with the tool on PATH.
    """

    name: str
    absent: tuple[str, ...]
    job: tuple[str, ...]
    extras: tuple[str, ...] = field(default=())

    @property
    def requirement(self) -> str:
        return f"[{','.join(self.extras)}]" if self.extras else ""


QA_JOB = (
    "qa-train make-stories --out data --category simple --train 20 --valid 4 --test 4",
    "qa-train train data --model {model} --epochs 1 --set network.dim=16 --out run",
    "qa-train evaluate run data/test.jsonl",
)
TOOLS = (
    Tool(
        "disc-train",
        ("tensorflow", "keras"),
        (
            "disc-train split builtin:fair --out data",
            "disc-train train data/train.csv --target rate_marriage --preset small --out run "
            "--set warm_start.min_steps=40 --set warm_start.max_epochs=1 --set feedback.cycles=1 "
            "--set feedback.steps_per_cycle=2 --set discriminator.max_epochs=1",
            "disc-train sample run -n 20 > rows.csv",
        ),
    ),
    Tool(
        "diversity-finetune",
        ("torch",),
        (
            "diversity-finetune prepare --demo --dialogues 60 --out data",
            "diversity-finetune train data --preset tiny --epochs 1 --set model.decoder=16 --out run",
            """echo '{"message": "I am locked out"}' | diversity-finetune generate run""",
        ),
    ),
    Tool(
        "qa-train",
        ("tensorflow", "keras"),
        tuple(line.format(model="transformer") for line in QA_JOB),
        ("transformer",),
    ),
    Tool("qa-train", ("torch",), tuple(line.format(model="lstm") for line in QA_JOB), ("lstm",)),
    Tool(
        "adapter-stage1",
        ("tensorflow", "keras"),
        (
            "adapter-stage1 train --data builtin:facts --preset small --out run "
            "--set training.examples=16 --set training.valid_questions=1",
            "adapter-stage1 evaluate run --data builtin:facts-test --questions 2 --rung adapter",
        ),
        ("smollm2",),
    ),
    Tool(
        "voice-gan",
        ("tensorflow", "keras"),
        (
            "voice-gan prepare --demo --voices 2 --utterances 6 --unseen 0 --out data",
            "voice-gan train data --preset small --epochs 1 --out run",
            "voice-gan samples run --num-samples 1 --out samples",
        ),
        ("voices",),
    ),
    Tool(
        "diag",
        ("torch", "tensorflow", "keras"),
        (
            """printf '{"step": 1, "loss": 2.0}\\n{"step": 2, "loss": 1.5}\\n' > metrics.jsonl""",
            "diag health metrics.jsonl",
            "diag report metrics.jsonl --out report.html",
        ),
    ),
    Tool(
        "ablate",
        ("torch", "tensorflow", "keras"),
        ("ablate init qa-train --out suite.toml", "ablate show suite.toml"),
    ),
)


def installation(tool: Tool, way: str, folder: Path) -> tuple[list[list[str]], Path, Path]:
    """The commands that install it, the folder of its command and its Python."""
    package = f"packages/{tool.name}"
    limits = ["-c", str(ROOT / package / "constraints.txt")]
    if (ROOT / package / "overrides.txt").exists():
        limits += ["--overrides", str(ROOT / package / "overrides.txt")]
    if way == "pip":
        python = folder / "venv" / "bin" / "python"
        sources = [str(ROOT / "shared"), f"{ROOT / package}{tool.requirement}"]
        make = ["uv", "venv", "--quiet", "--python", sys.executable, str(folder / "venv")]
        return (
            [make, ["uv", "pip", "install", "--quiet", "--python", str(python), *limits, *sources]],
            python.parent,
            python,
        )
    source = f"{ROOT / package}{tool.requirement}"
    if way == "git":
        source = f"{tool.name}{tool.requirement} @ git+file://{ROOT}#subdirectory={package}"
    install = ["uv", "tool", "install", "--quiet", "--python", sys.executable, *limits, source]
    return [install], folder / "bin", folder / "tools" / tool.name / "bin" / "python"


def attempt(tool: Tool, way: str) -> str:
    """Install the tool and do its job in a folder that is removed; what went wrong, or nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "work").mkdir()
        installs, commands, python = installation(tool, way, folder)
        environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
        environment |= {"UV_TOOL_DIR": str(folder / "tools"), "UV_TOOL_BIN_DIR": str(folder / "bin")}
        environment["PATH"] = f"{commands}{os.pathsep}{environment['PATH']}"
        steps = [
            *installs,
            [tool.name, "--version"],
            [tool.name, "--help"],
            *(["bash", "-euo", "pipefail", "-c", line] for line in tool.job),
            [str(python), "-c", LOOK, *tool.absent],
        ]
        for step in steps:
            ended = subprocess.run(step, cwd=folder / "work", env=environment, capture_output=True, text=True)
            if ended.returncode:
                said = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
                return f"{shlex.join(step)[:80]}: {said[-1] if said else f'exit {ended.returncode}'}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tool", action="append", choices=sorted({tool.name for tool in TOOLS}), help="default: all")
    parser.add_argument("--way", action="append", choices=WAYS, help="default: all")
    args = parser.parse_args()
    failed = 0
    print(f"{'tool':36} {'way':5} {'without':24} result")
    for tool in TOOLS:
        for way in WAYS:
            if (args.tool and tool.name not in args.tool) or (args.way and way not in args.way):
                continue
            wrong = attempt(tool, way)
            failed += bool(wrong)
            row = f"{tool.name + tool.requirement:36} {way:5} {', '.join(tool.absent):24} {wrong or 'works'}"
            print(row, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
