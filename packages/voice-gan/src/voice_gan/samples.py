"""`voice-gan samples`: a run's model, heard on utterances that it wasn't trained on."""

from __future__ import annotations

from pathlib import Path

from trainworks.console import UserError, info
from trainworks.run import Run
from voice_gan.data import Utterance, load_utterances
from voice_gan.run import TOOL, load_trained
from voice_gan.snapshot import write_long_form, write_many_voices, write_samples


def samples_run(
    path: Path,
    *,
    out: Path | None = None,
    num_samples: int = 10,
    data: Path | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
) -> Path:
    """Write `num_samples` folders of samples, many_voices (one content in many voices) and long_form (half a minute in
    one voice), as `snapshot` has them, and return where they are.

    Args:
        path: the run.
        out: None for the run's samples/final.
        data: a prepared folder or one split of it; None for the test split of the run's own data.

    Raises:
        UserError: no run of this tool, or its data aren't where they were.
    """
    utterances = held_out(path) if data is None else load_utterances(data)
    trained = load_trained(path, checkpoint, device, threads)
    out = path / "samples" / "final" if out is None else out
    folders = write_samples(trained.model, utterances, out, num_samples, seed)
    write_many_voices(trained.model, utterances, out / "many_voices", seed)
    write_long_form(trained.model, utterances, out / "long_form", seed)
    if len(folders) < num_samples:
        info(f"there are {len(folders)} utterances to choose from, so that many samples")
    return out


def held_out(path: Path) -> list[Utterance]:
    """The test utterances of the data that a run was trained on.

    Raises:
        UserError: they aren't where they were.
    """
    (record,) = Run.open(path, tool=TOOL).record["inputs"]
    data = Path(record["path"]).parent.parent  # it names DATA/train/index.json
    if not (data / "test").is_dir():
        raise UserError(f"{data}, which {path} was trained on, has no test split any more; name one with --data")
    return load_utterances(data, "test")
