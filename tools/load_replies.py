"""Many clients at once on `diversity-finetune serve`: no error but 503, and no memory that grows.

    uv run --no-sync python tools/load_replies.py RUN data/test.jsonl --clients 32 --seconds 60

Starts the server on a free port, asks it in all its ways, reads its memory from /proc each second, stops it with
SIGTERM. Exits with 1 if a request failed otherwise, the server didn't end cleanly, or memory grew by more than
--most-growth after the first quarter of the time.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from record import add_json_option, beside_budget, write_comparisons

from diversity_finetune.data import read_pairs


def start(run: Path, queue: int, threads: int) -> tuple[subprocess.Popen[str], str]:
    """The server and its address, once it listens."""
    command = [sys.executable, "-c", "from diversity_finetune.cli import main; main()", "serve", str(run)]
    options = ["--port", "0", "--queue", str(queue), "--threads", str(threads)]
    server = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        found = re.search(r"http://\S+", line)
        if found:
            threading.Thread(target=lambda: [sys.stderr.write(rest) for rest in server.stderr or ()]).start()
            return server, found.group()
    sys.exit(f"the server ended with {server.wait()}")


def body(texts: list[str], chance: random.Random) -> tuple[str, dict[str, Any]]:
    """A request of one of the three kinds."""
    kind = chance.randrange(4)
    if kind == 0:
        return "/generate_batch", {"messages": chance.sample(texts, 8), "return_quality": True}
    if kind == 1:
        turns = [{"role": "user", "content": chance.choice(texts)}]
        return "/v1/chat/completions", {"messages": turns, "temperature": chance.choice([0, 0.7, 1.2])}
    return "/generate", {"message": chance.choice(texts), "max_tokens": chance.choice([10, 40, 60])}


def ask(address: str, path: str, content: dict[str, Any]) -> int:
    """The status of the answer; 0 where none came."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(address + path, json.dumps(content).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            json.load(answer)
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def memory(process: int) -> float:
    """Resident memory in MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found.group(1)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("pairs", help="JSON Lines or CSV of pairs, whose messages are sent")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--queue", type=int, default=24, help="requests that may wait; less than clients brings 503s")
    parser.add_argument("--threads", type=int, default=1, help="of the server; the clients need some time too")
    parser.add_argument("--most-growth", type=float, default=20, help="MiB that memory may grow by")
    add_json_option(parser)
    args = parser.parse_args()
    texts = [pair.customer[:1000] for pair in read_pairs(args.pairs)]
    server, address = start(args.run, args.queue, args.threads)
    statuses: Counter[int] = Counter()
    times: list[float] = []
    end = time.monotonic() + args.seconds

    def client(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < end:
            began = time.monotonic()
            status = ask(address, *body(texts, chance))
            statuses[status] += 1
            if status == 200:
                times.append(time.monotonic() - began)
            else:
                time.sleep(0.05)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(args.clients)]
    for thread in clients:
        thread.start()
    used = []
    while time.monotonic() < end:
        used.append(memory(server.pid))
        time.sleep(1)
    for thread in clients:
        thread.join()
    settled, last = used[len(used) // 4], statistics.median(used[-3:])
    server.send_signal(signal.SIGTERM)
    ended = server.wait(timeout=60)
    times.sort()
    print(f"{args.clients} clients, {args.seconds:g} s: {dict(sorted(statuses.items()))} answers by status")
    median, slow = (1e3 * times[len(times) * percent // 100] for percent in (50, 99))
    print(f"latency of a 200: median {median:.0f} ms, 99 % {slow:.0f} ms")
    print(f"memory: {used[0]:.0f} MiB at first, {settled:.0f} after a quarter of the time, {last:.0f} at the end")
    print(f"the server ended with {ended}")
    measure, most = f"memory of serve under {args.clients} clients, {args.seconds:g} s", settled + args.most_growth
    own = "diversity-finetune"
    write_comparisons(args.json, [beside_budget(own, measure, "MiB", "lower", [last], most, args.threads)])
    clean = ended in (143, -signal.SIGTERM)
    if set(statuses) - {200, 503} or last - settled > args.most_growth or not clean:
        sys.exit(1)


if __name__ == "__main__":
    main()
