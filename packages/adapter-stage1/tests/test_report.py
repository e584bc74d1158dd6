import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from adapter_stage1.data import Example
from adapter_stage1.evaluate import Report, Rung
from adapter_stage1.evaluate_plots import spread
from adapter_stage1.report import write_report

PNG = b"\x89PNG\r\n\x1a\n"
HOSTILE = "<script>alert('x')</script> & \"co\""


def rung(f1: float, answers: list[str], **changes) -> Rung:
    values = {
        "f1": f1,
        "f1_interval": (f1 - 5, f1 + 5),
        "exact_match": f1,
        "exact_match_interval": (f1 - 5, f1 + 5),
        "retention": f1 / 80,
        "retention_interval": (f1 / 80 - 0.1, f1 / 80 + 0.1),
        "token_recovery": 0.9,
        "explained_variance": 0.8,
        "cosine": 0.9,
        "perplexity": 3.0,
        "bits_per_token": 1152,
        "answers": answers,
    }
    return Rung(**(values | changes))


def report(**rungs: Rung) -> Report:
    """Two questions: of the grass, and a hostile one."""
    examples = [
        Example("1", "Grass is green.", "What colour is grass?", ("green",)),
        Example("2", f"It is {HOSTILE}.", f"Is it {HOSTILE}?", (HOSTILE,)),
    ]
    judged = {
        "run": "some-run",
        "checkpoint": "best",
        "model": {"path": f"/models/{HOSTILE}", "sha256": "a" * 64},
        "data": {"path": "dev.json", "sha256": "b" * 64},
        "ratio": 8,
        "seed": 0,
    }
    raw = rung(80.0, ["green", HOSTILE], bits_per_token=9216, retention=1.0, retention_interval=(1.0, 1.0))
    return Report(judged, {"raw": raw, **rungs}, examples, token_id_bits=16)


class Seen(HTMLParser):
    """Tags with their attributes, and text, of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def page(tmp_path) -> Seen:
    write_report(tmp_path, report(adapter=rung(60.0, ["blue", HOSTILE]), lookup=rung(79.0, ["green", HOSTILE])))
    return Seen((tmp_path / "index.html").read_text())


def test_the_page_needs_no_other_file_and_no_script(page):
    assert "script" not in {tag for tag, _ in page.tags}
    sources = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "prefers-color-scheme: dark" in page.text


def test_data_is_shown_as_text(page):
    assert f"Is it {HOSTILE}?" not in page.text  # answered as well as from the true prompt: no miss
    assert f"/models/{HOSTILE}" in page.text


def test_every_figure_says_its_numbers_to_those_who_cannot_see_it(page):
    texts = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert all("adapter 60.0 at 1,152 bits" in text and "id takes 16 bits" in text for text in texts)


def test_the_page_counts_bits_honestly_and_gives_the_verdict(page):
    assert "cost 1,152 bits a token against 16 for the token's id" in page.text
    assert "72 times as much" in page.text
    assert "needs no training at all; its F1 is 79.0" in page.text
    # 60 of 80 is under 65 of 82, and over 50.
    assert "By the bands scaled to this baseline that is neither a success nor a failure" in page.text


def test_the_worst_misses_show_what_each_rung_answered(page):
    assert "1 of 2 questions are answered worse" in page.text
    missed = page.text.split("Worst misses")[1]
    assert "What colour is grass? gold green raw green adapter blue lookup green" in missed


def test_a_report_without_adapter_and_without_retention(tmp_path):
    undefined = {"retention": math.nan, "retention_interval": (math.nan, math.nan)}
    write_report(tmp_path, report(decoded=rung(0.0, ["", ""], f1_interval=(0.0, 0.0), **undefined)))
    text = Seen((tmp_path / "index.html").read_text()).text
    assert "there is no verdict" in text
    assert "nan" not in text
    assert json.loads((tmp_path / "report.json").read_text())["rungs"]["decoded"]["retention"] is None


def test_files_of_a_report(tmp_path):
    write_report(tmp_path, report(adapter=rung(60.0, ["blue", "x"])))
    assert (tmp_path / "f1.png").read_bytes().startswith(PNG)
    assert (tmp_path / "bits.png").read_bytes().startswith(PNG)
    first = json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[0])
    assert (first["gold"], first["answers"]) == (["green"], {"raw": "green", "adapter": "blue"})


def test_evaluate_writes_the_page(adapter_stage1, run, dev_json, tmp_path):
    options = ["--rung", "adapter", "--questions", 4, "--threads", 1, "--out", tmp_path / "report"]
    ended = adapter_stage1("evaluate", run, "--data", dev_json, *options)
    assert ended.status == 0, ended.err
    assert "Prompts rebuilt from 4x fewer numbers" in (tmp_path / "report" / "index.html").read_text()


def test_labels_are_spread_as_little_as_it_takes():
    assert spread([1.0, 10.0, 30.0], 4, 0, 100) == [1.0, 10.0, 30.0]
    assert spread([10.0, 10.0], 4, 0, 100) == [8.0, 12.0]
    assert spread([0.0, 30.0, 0.0], 4, 0, 100) == [0.0, 30.0, 4.0]  # no label under the axis
    assert spread([99.0, 100.0], 4, 0, 100) == [96.0, 100.0]
    values = np.random.default_rng(0).uniform(0, 20, 12).tolist()
    heights = np.array(spread(values, 4, 0, 100))
    assert heights.min() == 0
    assert np.diff(np.sort(heights)).min() > 4 - 1e-9
    assert np.argsort(heights).tolist() == np.argsort(values).tolist()
    # The least-squares optimum under the gaps, as SciPy finds it.
    optimize = pytest.importorskip("scipy.optimize")
    order = np.argsort(values)
    gaps = {"type": "ineq", "fun": lambda x: np.diff(x[order]) - 4}
    best = optimize.minimize(
        lambda x: np.square(x - values).sum(), heights + 1, bounds=[(0, 100)] * 12, constraints=[gaps], method="SLSQP"
    )
    assert np.square(heights - values).sum() == pytest.approx(best.fun, rel=1e-4)
