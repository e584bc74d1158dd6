"""`voice-gan embed`: the voices of utterances as vectors, for `diag embeddings` and others."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from trainworks.console import UserError, progress
from trainworks.files import atomic_write
from voice_gan.convert import wave_voice
from voice_gan.data import load_utterances
from voice_gan.run import load_trained


def embed_run(
    path: Path,
    data: Path,
    out: Path,
    *,
    checkpoint: str = "best",
    device: str = "auto",
    threads: int | None = None,
) -> dict[str, Any]:
    """Write an .npz with an embedding of norm 1 for each utterance: `embeddings` [N, D] float32, `labels` [N] who
    speaks, `ids` [N] which utterance; none of it needs unpickling.

    Args:
        path: the run.
        data: a prepared folder or one split of it.

    Returns:
        `out`, `utterances`, `speakers` and `dimensions`.

    Raises:
        UserError: `out` is no .npz, or as `load_utterances` and `load_trained`.
    """
    if out.suffix != ".npz":
        raise UserError(f"{out}: embeddings are written as .npz")
    utterances = load_utterances(data)
    model = load_trained(path, checkpoint, device, threads).model
    rows = []
    with progress(len(utterances), "embedding") as bar:
        for utterance in utterances:
            rows.append(wave_voice(model, utterance.wave_T, utterance.f0_F).embedding_D.float().cpu().numpy())
            bar.advance()
    speakers = np.array([utterance.speaker for utterance in utterances])
    buffer = io.BytesIO()
    np.savez(
        buffer, embeddings=np.stack(rows), labels=speakers, ids=np.array([utterance.id for utterance in utterances])
    )
    atomic_write(out, buffer.getvalue())
    return {
        "out": str(out),
        "utterances": len(rows),
        "speakers": len(set(speakers.tolist())),
        "dimensions": len(rows[0]),
    }
