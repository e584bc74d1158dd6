"""The report in a real browser: what a reader sees, hears and clicks, and what hostile names cannot do."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from diag.finding import Finding
from diag.read import Run
from diag.report import write_report
from diag.report_data import charts, line, title_and_split
from diag.series import Series
from trainworks.console import UserError

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def write_run(path: Path, *, seed: int, hostile: bool = False) -> Path:
    """A finished run of 300 steps with samples; a hostile one says hostile things wherever it may."""
    text = HOSTILE if hostile else "plain"
    samples = path / "samples" / "epoch_2"
    samples.mkdir(parents=True)
    record = {
        "schema": 1,
        "tool": text if hostile else "voice-gan",
        "version": "1",
        "config": {"training": {"lr": 0.1 * (seed + 1)}, text: text},
        "seed": seed,
        "status": "finished",
        "result": {f"valid/{text}": 0.5, "valid/loss": 0.25},
    }
    (path / "run.json").write_text(json.dumps(record))
    with open(path / "metrics.jsonl", "w") as file:
        for step in range(1, 301):
            values = {
                "train/loss": 3 * math.exp(-step / 90) + 0.3,
                "grad_norm": None if hostile and step > 250 else 1.0,
            }
            if step % 50 == 0:
                values |= {"valid/loss": 3 * math.exp(-step / 100) + 0.4, f"valid/{text}": step / 300}
            file.write(json.dumps({"step": step, "epoch": None, "time": step / 2, **values}) + "\n")
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(8000) / 16000)
    for name in ("original", "reconstruction"):
        soundfile.write(samples / f"{name}.wav", tone, 16000)
    (samples / "metadata.json").write_text(json.dumps({text: text}))
    (samples / "rows.csv").write_text(f'name,n\n"{text.replace(chr(34), chr(39))}",1\n')
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [write_run(folder / "base", seed=0), write_run(folder / "<b>bad", seed=1, hostile=True)]
    return write_report(runs, folder / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
            timeout=180_000,
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report, open at a desk, with all that its console said in `page.errors`."""
    page = opened(browser, report, {"width": 1280, "height": 900})
    yield page
    page.close()


def opened(browser: Any, path: Path, size: dict[str, int]) -> Any:
    page = browser.new_page(viewport=size)
    page.set_default_timeout(120_000)
    page.errors, page.requests = [], []
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(path.as_uri())
    return page


def test_what_is_no_page_is_left_alone(tmp_path):
    script = tmp_path / "backup.sh"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(UserError, match="no HTML page"):
        write_report([tmp_path], script)
    assert script.read_text() == "#!/bin/sh\n"


def test_hostile_names_are_shown_and_not_run(page):
    assert page.title() == "Report: 2 runs"
    assert page.locator("main img[src=x]").count() == 0
    assert page.get_by_text("document.title='owned'").count() > 0
    assert page.errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)


def test_runs_share_axes_and_findings_stand_on_curves(page):
    loss = page.locator(".chart", has=page.get_by_role("heading", name="loss", exact=True))
    loss.scroll_into_view_if_needed()
    loss.locator("path.line").first.wait_for(state="attached")
    assert loss.locator("path.line").count() == 4  # training and validation of both runs
    norm = page.locator(".chart", has=page.get_by_role("heading", name="grad_norm", exact=True))
    norm.scroll_into_view_if_needed()
    mark = norm.locator("a.finding.critical").first
    mark.wait_for(state="attached")
    anchor = mark.get_attribute("href")
    assert page.locator(anchor).get_by_text("critical").count() > 0


def test_filter_smoothing_and_run_boxes_do_what_they_say(page):
    page.get_by_label("Filter").fill("grad")
    assert page.locator(".chart:visible").count() == 1
    assert page.get_by_role("status").first.inner_text().startswith("1 of ")
    page.get_by_label("Filter").fill("")
    loss = page.locator(".chart", has=page.get_by_role("heading", name="loss", exact=True))
    loss.scroll_into_view_if_needed()
    before = loss.locator("path.line").first.get_attribute("d")
    page.locator("#smoothing").fill("0.9")
    assert loss.locator("path.line").first.get_attribute("d") != before
    page.locator("#smoothing").fill("0")
    assert loss.locator("path.line").first.get_attribute("d") == before
    page.locator("#axis").select_option("t")
    page.locator("#log").check()
    assert loss.locator("path.line").count() == 4
    page.locator("[data-run='1']").uncheck()
    assert loss.locator("path.line").count() == 2
    assert page.locator("#samples .card:visible").count() == 1
    page.locator("[data-run='1']").check()
    page.locator("#axis").select_option("x")
    page.locator("#log").uncheck()


def test_a_curve_is_read_by_keyboard(page):
    chart = page.locator(".chart", has=page.get_by_role("heading", name="loss", exact=True))
    chart.scroll_into_view_if_needed()
    chart.locator("svg").focus()
    page.keyboard.press("End")
    assert chart.locator(".readout").inner_text().startswith("step 300")
    page.keyboard.press("ArrowLeft")
    assert not chart.locator(".readout").inner_text().startswith("step 300")
    assert "from " in chart.locator("svg").get_attribute("aria-label")
    assert page.locator("img:not([alt])").count() == 0


def test_players_play(page):
    player = page.locator("audio").first
    player.scroll_into_view_if_needed()
    played = player.evaluate(
        """async player => {
            await player.play();
            await new Promise(ended => { player.onended = ended; });
            return player.currentTime;
        }"""
    )
    assert played == pytest.approx(0.5, abs=0.05)


def test_the_checklist_is_exported(page, tmp_path):
    checklist = page.locator(".checklist").first
    checklist.get_by_label("Fidelity").check()
    checklist.get_by_label("Note").fill("clean <b>")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export the checklist").click()
    download.value.save_as(tmp_path / "checklist.json")
    exported = json.loads((tmp_path / "checklist.json").read_text())["samples"]
    assert len(exported) == 2
    assert exported[0]["sample"] == "epoch_2"
    assert (exported[0]["fidelity"], exported[0]["conversion"], exported[0]["note"]) == (True, False, "clean <b>")
    assert page.errors == []


def test_a_phone_needs_no_sideways_scrolling_and_dark_is_dark(browser, report):
    page = opened(browser, report, {"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(20, 23, 26)"
    page.close()


def test_a_million_records_are_a_few_hundred_points_that_keep_the_spikes():
    values = np.zeros(1_000_000)
    values[123_456], values[700_000] = 9.0, np.nan
    series = Series.of(np.arange(1_000_000), {"loss": values})
    drawn = line(Run(Path("x"), "x", "", None, series), "loss", 400)
    assert len(drawn["x"]) == 400
    assert max(drawn["high"]) == 9
    assert drawn["x"][-1] == 999_999
    assert None not in drawn["y"]


def test_names_of_splits_share_a_chart_and_findings_go_to_their_metric():
    assert [title_and_split(name) for name in ("train/loss", "val_loss", "loss", "disc/mpd/real")] == [
        ("loss", "train"),
        ("loss", "valid"),
        ("loss", ""),
        ("disc/mpd/real", ""),
    ]
    series = Series.of(np.arange(5), {"train/loss": np.ones(5), "grad_norm": np.ones(5)})
    finding = Finding("exploding_gradients", "critical", (2, 3), {}, "up", "why", metric="grad_norm")
    made, left_out = charts([Run(Path("x"), "x", "", None, series)], ["x"], [(0, finding)])
    assert left_out == 0
    assert [(chart["title"], len(chart["findings"])) for chart in made] == [("loss", 0), ("grad_norm", 1)]


def test_ten_thousand_metrics_make_a_page_of_a_size_that_opens(tmp_path: Path):
    record = {"step": 1, **{f"layer_{index}/norm": 1.0 for index in range(10_000)}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record | {"step": 2}) + "\n")
    written = write_report([tmp_path / "metrics.jsonl"], tmp_path / "report.html")
    assert "8,000 more metrics are not drawn" in written.read_text()
    assert written.stat().st_size < 3_000_000


@pytest.mark.parametrize("content", ["", "\n\n", '{"step": 1, "loss": 1}\n{"step": 2, "lo', "[1]\n{}\nnull\n"])
def test_odd_logs_make_a_page(tmp_path: Path, content: str):
    (tmp_path / "metrics.jsonl").write_text(content)
    assert "</html>" in write_report([tmp_path / "metrics.jsonl"], tmp_path / "report.html").read_text()


def test_what_cannot_be_reported_is_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="name at least one run"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(UserError, match="is a folder; name a file"):
        write_report([tmp_path], tmp_path)
