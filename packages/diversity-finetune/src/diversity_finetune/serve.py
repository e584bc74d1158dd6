"""A model behind HTTP. Requests wait in a bounded queue; one thread decodes those of equal settings together.

A batch's replies are what each message would get alone, so clients don't notice each other but for the time.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from diversity_finetune.decoding import Decoding, Message, Reply
from diversity_finetune.quality import reply_metrics
from trainworks.console import UserError, info
from trainworks.seeding import derive

MAX_CHARACTERS = 4_000
"""Of a message and of the turn before it."""
MAX_BATCH = 64
"""Messages of one request, and replies decoded at once."""
MAX_TOKENS = 200
MAX_BODY = 2 * MAX_BATCH * MAX_CHARACTERS * 4 + 65_536
"""Bytes of a request: its texts at four bytes a character, and what stands around them."""
QUEUE_LIMIT = 64
"""Requests that may wait."""
BACKLOG = 2048
"""Connections that the system keeps until the server takes them."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_CHARACTERS)]
Before = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
Decode = Callable[[Sequence[Message], Decoding, Sequence[int]], list[Reply]]
"""`generate.Decoder`, or what stands for it."""


class Settings(BaseModel):
    """What a request may set; what it doesn't is the server's."""

    model_config = ConfigDict(extra="forbid")
    temperature: float | None = Field(None, ge=0, le=10)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    seed: int | None = Field(None, ge=0, lt=2**63)

    def decoding(self, base: Decoding) -> Decoding:
        names = ("temperature", "top_p", "top_k", "max_tokens")
        asked = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return base.model_copy(update=asked)


class GenerateRequest(Settings):
    """Body of /generate."""

    message: Text
    previous: Before = ""
    return_quality: bool = False


class BatchRequest(Settings):
    """Body of /generate_batch."""

    messages: list[Text] = Field(min_length=1, max_length=MAX_BATCH)
    return_quality: bool = False


class ChatMessage(BaseModel):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Before


class ChatRequest(Settings):
    """Body of /v1/chat/completions; fields of the protocol that this model has no use for are passed over."""

    model_config = ConfigDict(extra="ignore")
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    n: int = Field(1, ge=1, le=MAX_BATCH)
    stream: bool = False

    def decoding(self, base: Decoding) -> Decoding:
        found = super().decoding(base)
        most = self.max_completion_tokens
        return found if most is None else found.model_copy(update={"max_tokens": most})

    def last(self) -> Message:
        """The last user turn, and the assistant's turn before it.

        Raises:
            HTTPException: there is no user turn with words at the end.
        """
        if self.messages[-1].role != "user" or not self.messages[-1].content.strip():
            raise HTTPException(422, "the last message must be the user's and not empty")
        before = [turn.content for turn in self.messages[:-1] if turn.role == "assistant"]
        return Message(self.messages[-1].content, before[-1] if before else "")


class Busy(Exception):
    """The queue is full."""


@dataclass
class Job:
    """Messages of one request that wait for replies."""

    messages: Sequence[Message]
    decoding: Decoding
    rows: Sequence[int]
    replies: Future[list[Reply]] = field(default_factory=Future)


class Worker:
    """The thread that decodes, and the queue before it."""

    def __init__(self, decode: Decode, queue_limit: int = QUEUE_LIMIT):
        self._decode, self._limit = decode, queue_limit
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="decoding")

    def start(self) -> None:
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._jobs)

    def submit(self, messages: Sequence[Message], decoding: Decoding, rows: Sequence[int]) -> Future[list[Reply]]:
        """Queue a request.

        Raises:
            Busy: as many as the limit are waiting, or the server is closing.
        """
        job = Job(messages, decoding, rows)
        with self._changed:
            if self._closed or len(self._jobs) >= self._limit:
                raise Busy
            self._jobs.append(job)
            self._changed.notify()
        return job.replies

    def close(self) -> None:
        """Let the batch in work end, drop what waits and wait for the thread."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.replies.cancel()
            self._jobs.clear()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            running = [job for job in batch if job.replies.set_running_or_notify_cancel()]  # else the client has left
            if running:
                self._answer(running)

    def _take(self) -> list[Job]:
        """The oldest job, with those that can be decoded with it; none when the server closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return []
            taken = [self._jobs.popleft()]
            size = len(taken[0].messages)
            for job in list(self._jobs):
                if job.decoding == taken[0].decoding and size + len(job.messages) <= MAX_BATCH:
                    self._jobs.remove(job)
                    taken.append(job)
                    size += len(job.messages)
            return taken

    def _answer(self, jobs: list[Job]) -> None:
        messages = [message for job in jobs for message in job.messages]
        rows = [row for job in jobs for row in job.rows]
        try:
            replies = iter(self._decode(messages, jobs[0].decoding, rows))
        except Exception as error:  # the thread must live on for the next request
            for job in jobs:
                job.replies.set_exception(error)
            return
        for job in jobs:
            job.replies.set_result([next(replies) for _ in job.messages])


class BodyLimit:
    """ASGI middleware that refuses a longer body with 413, before it is in memory."""

    def __init__(self, app: Any, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        if int(headers.get(b"content-length", b"0")) > self.most:
            await JSONResponse({"detail": f"the body is longer than {self.most} bytes"}, 413)(scope, receive, send)
            return
        read = 0

        async def counted() -> Any:
            nonlocal read
            part = await receive()
            read += len(part.get("body", b""))
            if read > self.most:
                raise HTTPException(413, f"the body is longer than {self.most} bytes")
            return part

        await self.app(scope, counted, send)


def make_app(decode: Decode, base: Decoding, model: str, queue_limit: int = QUEUE_LIMIT) -> FastAPI:
    """The server's routes: /generate, /generate_batch, /v1/chat/completions (not streaming) and /health.

    Args:
        decode: a `generate.Decoder`.
        base: settings of requests that don't say theirs.
        model: its name, as clients see it.
        queue_limit: requests that may wait; those beyond get 503.
    """
    worker = Worker(decode, queue_limit)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        try:
            yield
        finally:
            worker.close()

    app = FastAPI(title="diversity-finetune", lifespan=lifespan)
    app.add_middleware(BodyLimit, most=MAX_BODY)

    async def answer(messages: Sequence[Message], asked: Settings) -> list[Reply]:
        # Draws follow from the rows, not from the decoding's seed, so that requests can share a batch.
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        rows = [derive(seed, place) for place in range(len(messages))]
        try:
            waiting = worker.submit(messages, asked.decoding(base), rows)
        except Busy:
            raise HTTPException(503, "too many requests are waiting; try again", {"Retry-After": "1"}) from None
        return await asyncio.wrap_future(waiting)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": model, "waiting": worker.waiting}

    @app.post("/generate")
    async def generate(asked: GenerateRequest) -> dict[str, Any]:
        replies = await answer([Message(asked.message, asked.previous)], asked)
        return _told(replies, asked.return_quality)[0]

    @app.post("/generate_batch")
    async def generate_batch(asked: BatchRequest) -> dict[str, Any]:
        replies = await answer([Message(text) for text in asked.messages], asked)
        return {"responses": _told(replies, asked.return_quality)}

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest) -> dict[str, Any]:
        if asked.stream:
            raise HTTPException(400, "this server doesn't stream; send stream: false")
        replies = await answer([asked.last()] * asked.n, asked)
        return _completion(replies, model)

    return app


def _told(replies: Sequence[Reply], return_quality: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"response": reply.text} for reply in replies]
    if return_quality:
        for entry, metrics in zip(found, reply_metrics(replies), strict=True):
            entry["quality_metrics"] = metrics
    return found


def _completion(replies: Sequence[Reply], model: str) -> dict[str, Any]:
    """As OpenAI's chat completion object; tokens that were read are not counted."""
    written = sum(reply.tokens for reply in replies)
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": place,
                "message": {"role": "assistant", "content": reply.text},
                "finish_reason": "stop" if reply.ended else "length",
            }
            for place, reply in enumerate(replies)
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": written, "total_tokens": written},
    }


def serve(decode: Decode, base: Decoding, model: str, host: str, port: int, queue_limit: int = QUEUE_LIMIT) -> None:
    """Serve until SIGINT or SIGTERM; requests that were accepted are answered first.

    Raises:
        UserError: the address is taken or not this machine's.
    """
    decode([Message("hello")], base, [0])  # the first reply compiles the loop; no client shall wait for that
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise UserError(f"cannot listen on {host} port {port}: {error.strerror}; name another --port") from None
        listening.listen(BACKLOG)  # before the address is told: who reads it may connect at once
        shown = f"[{host}]" if ":" in host else host
        info(f"listening on http://{shown}:{listening.getsockname()[1]}")
        app = make_app(decode, base, model, queue_limit)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", backlog=BACKLOG)).run(sockets=[listening])
