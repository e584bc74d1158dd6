"""The recipes behind the figures of the READMEs: what each wants, costs and writes. `just accept` runs them."""

from __future__ import annotations

from dataclasses import dataclass

from accept_figures import (
    Reader,
    benches,
    comparisons,
    faults,
    health,
    markdown,
    numbers,
    replies,
    sweep,
    two_sample,
    variants,
    voice_limits,
)

OUT = "runs/accept"

DATA = {
    "heloc": "tabular/heloc.csv",
    "travel": "tabular/travel.csv",
    "star": "dialogue/star_pairs.jsonl",
    "babi": "qa/babi/en-valid",
    "squad-train": "squad/train-part-v1.1.json",
    "squad-dev": "squad/dev-v1.1.json",
    "speech": "speech",
}
"""Where a file or folder lies in DATA_DIR, unless --path NAME=PATH says otherwise.

heloc, travel: FICO HELOC and travel-customer churn, as in avsolatorio/REaLTabFormer-Experiments. star: pairs of
RasaHQ/STAR with the keys dialogue, prev_agent, customer, agent, action. babi: the folder of bAbI's qa6_train.txt.
squad-*: SQuAD v1.1, a part of its training file and its dev file. speech: LibriSpeech's and VCTK's recordings by their
own names.
"""


@dataclass(frozen=True)
class Recipe:
    """One recipe with its arguments.

    Attributes:
        recipe: of the justfile.
        readme: the package whose README quotes it; empty for the root's.
        minutes: rough cost, in minutes of one core.
        arguments: of the recipe; {NAME} is a path of `DATA`.
        results: files with figures, as patterns from the root, and what reads them. The recipe's own standard output is
            `OUT`/NAME.txt.
        folder: what it writes and goes on with; set aside before figures are made anew from other code or data. Empty
            where the recipe begins anew by itself.
        makes: commands before it, with the same {NAME}s.
    """

    recipe: str
    readme: str
    minutes: int
    arguments: tuple[str, ...] = ()
    results: tuple[tuple[str, Reader], ...] = ()
    folder: str = ""
    makes: tuple[tuple[str, ...], ...] = ()

    def wants(self) -> list[str]:
        """Names in `DATA` that it needs."""
        given = " ".join([*self.arguments, *(part for step in self.makes for part in step)])
        return [name for name in DATA if f"{{{name}}}" in given]


def table_of(name: str) -> tuple[tuple[str, Reader], ...]:
    """The figures of a recipe that prints Markdown."""
    return ((f"{OUT}/{name}.txt", markdown),)


PREPARE_VOICES = (
    ("python", "tools/speech_manifest.py", "{speech}", "--out", f"{OUT}/speech.csv"),
    (
        "voice-gan",
        "prepare",
        "--manifest",
        f"{OUT}/speech.csv",
        "--unseen",
        "2",
        "--seed",
        "1",
        "--out",
        f"{OUT}/voices",
        "--overwrite",
    ),
)

RECIPES = {
    "statistics": Recipe("accept-statistics", "ablate", 5, results=table_of("statistics")),
    "replies-tickets": Recipe(
        "replies", "diversity-finetune", 6, results=(("runs/replies/run/reports/*/report.json", replies),)
    ),
    "foreign": Recipe("accept-foreign", "diag", 10, results=table_of("foreign"), folder="runs/accept-foreign"),
    "demo": Recipe("demo", "", 15, results=(("runs/demo/rows/evaluation/report.json", two_sample),)),
    "limits": Recipe(
        "accept-limits",
        "disc-train",
        10,
        ("--steps", "60"),
        (("runs/accept-limits/results.json", numbers),),
        "runs/accept-limits",
    ),
    "tabular-travel": Recipe(
        "accept-tabular",
        "disc-train",
        12,
        ("{travel}", "Target", "--peers", "tabular_argn", "ctgan", "--out", "runs/accept-tabular-travel"),
        table_of("tabular-travel"),
        "runs/accept-tabular-travel",
    ),
    "babi": Recipe("accept-babi", "qa-train", 15, ("{babi}",), table_of("babi"), "runs/accept-babi"),
    "answers": Recipe(
        "bench-answers",
        "adapter-stage1",
        20,
        ("{squad-dev}", "--questions", "30", "--repeats", "1", "--json", f"{OUT}/answers.json"),
        ((f"{OUT}/answers.json", comparisons),),
    ),
    "bench": Recipe("bench", "", 60, results=(("runs/bench/bench.json", benches),)),
    "objectives": Recipe(
        "accept-objectives",
        "adapter-stage1",
        40,
        ("{squad-train}", "{squad-dev}"),
        (("runs/accept-objectives/*/sweep.json", sweep),),
        "runs/accept-objectives",
    ),
    "tabular": Recipe(
        "accept-tabular",
        "disc-train",
        50,
        ("{heloc}", "RiskPerformance", "--peers", "tabular_argn"),
        table_of("tabular"),
        "runs/accept-tabular",
    ),
    "scaling": Recipe(
        "accept-scaling",
        "adapter-stage1",
        60,
        ("{squad-train}", "{squad-dev}"),
        (("runs/accept-scaling/sweep.json", sweep),),
        "runs/accept-scaling",
    ),
    "adapter-qwen": Recipe(
        "accept-adapter-qwen",
        "adapter-stage1",
        60,
        ("{squad-train}", "{squad-dev}"),
        (("runs/accept-adapter/qwen/sweep.json", sweep),),
        "runs/accept-adapter/qwen",
    ),
    "faults": Recipe(
        "accept-faults",
        "",
        120,
        results=(("runs/accept-faults/results.json", faults),),
        folder="runs/accept-faults",
    ),
    "health": Recipe(
        "accept-health",
        "diag",
        60,
        results=(("runs/accept-health/results.json", health),),
        folder="runs/accept-health",
    ),
    "replies-parts": Recipe(
        "accept-replies-parts",
        "diversity-finetune",
        75,
        results=(("runs/accept-replies-parts/comparison.json", variants),),
        folder="runs/accept-replies-parts",
    ),
    "schedules": Recipe(
        "accept-schedules",
        "disc-train",
        90,
        ("{heloc}", "RiskPerformance"),
        table_of("schedules"),
        "runs/accept-schedules",
    ),
    "adapter": Recipe(
        "accept-adapter",
        "adapter-stage1",
        100,
        ("{squad-train}", "{squad-dev}"),
        (("runs/accept-adapter/smollm2/sweep.json", sweep),),
        "runs/accept-adapter/smollm2",
    ),
    "stories": Recipe("accept-stories", "qa-train", 105, (), table_of("stories"), "runs/accept-stories"),
    "replies": Recipe(
        "accept-replies",
        "diversity-finetune",
        140,
        ("{star}",),
        (("runs/accept-replies/seed_*/reports/*/report.json", replies),),
        "runs/accept-replies",
    ),
    "planted": Recipe("accept-planted", "disc-train", 330, (), table_of("planted"), "runs/accept-planted"),
    "tune": Recipe(
        "accept-tune", "disc-train", 600, ("{heloc}", "RiskPerformance"), table_of("tune"), "runs/accept-tune"
    ),
    "keys": Recipe(
        "accept-keys", "voice-gan", 15, (f"{OUT}/voices",), table_of("keys"), "runs/accept-keys", PREPARE_VOICES
    ),
    "voices": Recipe(
        "accept-voices",
        "voice-gan",
        240,
        (f"{OUT}/voices", "--seeds", "0", "1", "2", "--threads", "1"),
        (("runs/accept-voices/table.md", markdown), ("runs/accept-voices/results.json", voice_limits)),
        "runs/accept-voices",
        PREPARE_VOICES,
    ),
}
"""The cheap ones first, so that figures come early."""
