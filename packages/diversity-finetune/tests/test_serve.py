"""The server, around a decoder that a test can hold up."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from diversity_finetune import serve
from diversity_finetune.decoding import Decoding, Reply
from diversity_finetune.serve import MAX_BATCH, MAX_BODY, MAX_CHARACTERS, make_app


class Echo:
    """Repeats each message; waits for `go` first."""

    def __init__(self):
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Semaphore(0)
        self.calls = []

    def __call__(self, messages, decoding, rows):
        self.calls.append((list(messages), decoding, list(rows)))
        self.begun.release()
        assert self.go.wait(60)
        if any(message.customer == "break" for message in messages):
            raise RuntimeError("broken")
        return [
            Reply(f"{m.previous}|{m.customer}", len(m.customer.split()), -1.0, m.customer != "long") for m in messages
        ]


@pytest.fixture
def echo():
    return Echo()


@pytest.fixture
def client(echo):
    app = make_app(echo, Decoding(), "tiny", queue_limit=3)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_generate_replies_with_the_servers_settings_or_the_clients(client, echo):
    answer = client.post("/generate", json={"message": " hi there ", "previous": "before"})
    assert (answer.status_code, answer.json()) == (200, {"response": "before|hi there"})
    client.post("/generate", json={"message": "hi", "temperature": 0, "top_k": 7, "max_tokens": 9})
    assert echo.calls[0][1] == Decoding()
    assert echo.calls[1][1] == Decoding(temperature=0, top_k=7, max_tokens=9)


def test_a_seed_gives_the_same_draws_again_and_none_gives_others(client, echo):
    for asked in ({"seed": 5}, {"seed": 5}, {}, {}):
        client.post("/generate_batch", json={"messages": ["a", "b"], **asked})
    seeded, again, free, other = (rows for _, _, rows in echo.calls)
    assert seeded == again
    assert len({*seeded, *free, *other}) == 6


def test_batches_keep_their_order_and_tell_quality(client):
    answer = client.post("/generate_batch", json={"messages": ["on and on", "x"], "return_quality": True}).json()
    assert [entry["response"] for entry in answer["responses"]] == ["|on and on", "|x"]
    assert answer["responses"][1]["quality_metrics"]["log_probability"] == -1
    assert answer["responses"][0]["quality_metrics"]["distinct_1"] < 1


def test_chat_takes_the_last_user_turn_and_the_assistants_before_it(client):
    turns = [("system", "be kind"), ("user", "hello"), ("assistant", "how can I help?"), ("user", "long")]
    body = {"model": "any", "messages": [{"role": role, "content": text} for role, text in turns], "n": 2, "user": "me"}
    answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "how can I help?|long"}
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/generate", {"message": "  "}, 422),
        ("/generate", {"message": "x" * (MAX_CHARACTERS + 1)}, 422),
        ("/generate", {"message": "x" * 100_000}, 422),
        ("/generate", {"message": "x", "temperature": -1}, 422),
        ("/generate", {"message": "x", "temprature": 1}, 422),
        ("/generate_batch", {"messages": []}, 422),
        ("/generate_batch", {"messages": ["x"] * (MAX_BATCH + 1)}, 422),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "x"}]}, 422),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}, 400),
    ],
)
def test_bad_requests_are_refused(client, echo, path, body, status):
    assert client.post(path, json=body).status_code == status
    assert not echo.calls


def test_broken_bodies_are_refused(client):
    headers = {"content-type": "application/json"}
    assert client.post("/generate", content=b"{", headers=headers).status_code == 422
    assert client.post("/generate", content=b'{"message": "\xff"}', headers=headers).status_code in (400, 422)
    assert client.post("/generate", content=b" " * (MAX_BODY + 1), headers=headers).status_code == 413
    parts = (b" " * 65_536 for _ in range(MAX_BODY // 65_536 + 2))
    assert client.post("/generate", content=parts, headers=headers).status_code == 413


def test_what_waits_is_decoded_together_and_what_doesnt_fit_gets_503(client, echo):
    echo.go.clear()
    with ThreadPoolExecutor(5) as clients:
        first = clients.submit(client.post, "/generate", json={"message": "first"})
        assert echo.begun.acquire(timeout=60)
        waiting = [clients.submit(client.post, "/generate", json={"message": f"m{n}"}) for n in range(2)]
        waiting.append(clients.submit(client.post, "/generate", json={"message": "cold", "temperature": 0.1}))
        while client.get("/health").json()["waiting"] < 3:
            pass
        refused = client.post("/generate", json={"message": "late"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        echo.go.set()
        assert first.result().json() == {"response": "|first"}
        assert [answer.result().json()["response"] for answer in waiting] == ["|m0", "|m1", "|cold"]
    assert sorted(len(messages) for messages, _, _ in echo.calls) == [1, 1, 2]
    assert client.get("/health").json() == {"status": "ok", "model": "tiny", "waiting": 0}


def test_an_error_in_decoding_ends_its_request_alone(client):
    assert client.post("/generate", json={"message": "break"}).status_code == 500
    assert client.post("/generate", json={"message": "on"}).status_code == 200


def test_shutting_down_ends_the_thread(echo):
    with TestClient(make_app(echo, Decoding(), "tiny")) as client:
        assert client.get("/health").status_code == 200
        assert "decoding" in {thread.name for thread in threading.enumerate()}
    assert "decoding" not in {thread.name for thread in threading.enumerate()}


def test_the_address_that_is_told_takes_connections_at_once(monkeypatch, echo):
    def connect(line):
        socket.create_connection(("127.0.0.1", int(line.rpartition(":")[2])), timeout=10).close()
        told.append(line)

    told = []
    monkeypatch.setattr(serve, "info", connect)
    monkeypatch.setattr(serve.uvicorn.Server, "run", lambda self, sockets: None)
    serve.serve(echo, Decoding(), "tiny", "127.0.0.1", 0)
    assert len(told) == 1
