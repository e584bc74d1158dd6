"""Imports what takes long once, then forks a process for each program that it is asked to run.

    python fork_server.py MODULE...

Requests and answers are lines of JSON on stdin and stdout. {"program": SOURCE, "argv": [...], "directory": PATH,
"environment": {...}, "streams": [PATH, PATH, PATH]} gives the new process's id; {"wait": ID} gives its exit status,
which is -N if signal N ended it; {"poll": ID} gives null while it runs.
"""

import importlib
import json
import os
import sys
from typing import Any


def serve() -> dict[str, Any]:
    """Answer requests. Returns in each forked process, with what that shall run."""
    for line in sys.stdin:
        request = json.loads(line)
        if "program" in request:
            answer = os.fork()
            if answer == 0:
                return request
        else:
            asked = request.get("wait") or request["poll"]
            pid, status = os.waitpid(asked, 0 if "wait" in request else os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)
    sys.exit()


def become(request: dict[str, Any]) -> None:
    """Take on the streams, the environment, the directory and the arguments of the process that was asked for."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    for descriptor, path in enumerate(request["streams"]):
        os.dup2(os.open(path, os.O_RDWR | os.O_NOCTTY), descriptor)
    sys.argv = request["argv"]


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    program = serve()
    become(program)
    exec(compile(program["program"], "<program>", "exec"), {"__name__": "__main__"})
