"""What `prepare` says of sources that can't be used or dealt."""

from pathlib import Path

import pytest

from trainworks.console import UserError
from voice_gan.config import AudioConfig
from voice_gan.prepare import Limits, Source, Unusable, deal, read_utterance


def test_speakers_held_out_leave_two_to_train_on() -> None:
    sources = [Source(Path(f"{take}.wav"), speaker) for speaker in "abc" for take in range(4)]
    assert deal(sources, Limits(unseen=1), seed=0).count("unseen") == 4
    with pytest.raises(UserError, match="--unseen 2 speakers, of 3 in all"):
        deal(sources, Limits(unseen=2), seed=0)


def test_a_path_of_a_manifest_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="there is no such file"):
        read_utterance(tmp_path / "none.wav", AudioConfig(), Limits())
