"""Imports what takes long once, then forks a process for each program that it is asked to run.

    python fork_server.py MODULE...

Requests and answers are lines of JSON on stdin and stdout. {"program": SOURCE, "argv": [...], "directory": PATH,
"environment": {...}, "streams": [PATH, PATH, PATH]} gives the new process's id; {"wait": ID} gives its exit status,
which is -N if signal N ended it; {"poll": ID} gives null while it runs.
"""

import atexit
import gc
import importlib
import json
import os
import sys
import threading
import traceback
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


def run(program: str) -> int:
    """The exit status of a program."""
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.freeze()  # collecting what was imported would copy its memory into each process
    request = serve()
    become(request)
    status = run(request["program"])
    # As Python ends, but that it doesn't take apart all that was imported: it takes longer than most of the programs.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
