"""Write each tool's command reference, made from its `--help`, between two marks of its README.

    python tools/command_reference.py [--check]

With --check nothing is written and the exit status is 1 if a README is out of date.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

PACKAGES = Path(__file__).resolve().parent.parent / "packages"
ALL_HELP = """
import contextlib, io, json, sys, typer.main
from {module}.cli import app, main
def shown(command):
    sys.argv = [{tool!r}, command, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main()
    return out.getvalue()
print(json.dumps({{command: shown(command) for command in typer.main.get_command(app).commands}}))
"""
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
    environment = os.environ | {"COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb"}
    script = ALL_HELP.format(tool=tool, module=tool.replace("-", "_"))
    asked = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    parts = []
    for command, shown in json.loads(asked.stdout).items():
        lines = "\n".join(line.rstrip() for line in shown.strip("\n").splitlines())
        parts.append(f"\n### {tool} {command}\n\n```text\n{lines}\n```\n")
    return "".join(parts) + "\n"


if __name__ == "__main__":
    main()
