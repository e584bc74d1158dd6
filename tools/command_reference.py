"""Write each tool's command reference, made from its `--help`, between two marks of its README.

    python tools/command_reference.py [--check]

With --check nothing is written and the exit status is 1 if a README is out of date.
"""

import os
import subprocess
import sys
from pathlib import Path

PACKAGES = Path(__file__).resolve().parent.parent / "packages"
BEGIN, END = "<!-- commands: made by tools/command_reference.py -->\n", "<!-- end of commands -->\n"


def main() -> None:
    stale = []
    for readme in sorted(PACKAGES.glob("*/README.md")):
        text = readme.read_text(encoding="utf-8")
        if BEGIN not in text:
            continue
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        written = before + BEGIN + reference(readme.parent.name) + END + after
        if written != text:
            stale.append(readme)
            if "--check" not in sys.argv:
                readme.write_text(written, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"out of date, run `tools/just docs`: {', '.join(map(str, stale))}")


def reference(tool: str) -> str:
    """Markdown with the help of every command of `tool`."""
    module = tool.replace("-", "_")
    listing = f"import typer.main; from {module}.cli import app; print(*typer.main.get_command(app).commands)"
    commands = output([sys.executable, "-c", listing]).split()
    script = f"import sys; from {module}.cli import main; sys.argv[0] = {tool!r}; main()"
    parts = []
    for command in commands:
        shown = output([sys.executable, "-c", script, command, "--help"])
        lines = "\n".join(line.rstrip() for line in shown.strip("\n").splitlines())
        parts.append(f"\n### {tool} {command}\n\n```text\n{lines}\n```\n")
    return "".join(parts) + "\n"


def output(command: list[str]) -> str:
    environment = os.environ | {"COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


if __name__ == "__main__":
    main()
