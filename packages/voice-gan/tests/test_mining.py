"""Negatives are of other speakers, and the nearest of them come first."""

import torch
import torch.nn.functional as F

from voice_gan.mining import SpeakerQueue


def on_circle(*degrees: float) -> torch.Tensor:
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], 1)


def filled() -> SpeakerQueue:
    queue = SpeakerQueue(6, 2)
    queue.put(on_circle(0, 10, 20), torch.tensor([1, 1, 2]))
    queue.put(on_circle(50, 90), torch.tensor([3, 2]))
    return queue


ANY = torch.rand(1, 6, generator=torch.Generator().manual_seed(0))


def test_negatives_are_never_of_the_anchors_speaker() -> None:
    negatives, present = filled().negatives(on_circle(0), torch.tensor([1]), 6, ANY, pool=6)
    assert present.sum() == 3  # 20, 50 and 90 degrees; the queue has room for one more
    assert not any(torch.allclose(row, on_circle(0)[0]) for row in negatives[present])


def test_the_nearest_other_speakers_come_first() -> None:
    negatives, present = filled().negatives(on_circle(0), torch.tensor([1]), 2, ANY, pool=6)
    assert present.all()
    torch.testing.assert_close(negatives[0], on_circle(20, 50))


def test_neighbours_in_a_batch_of_one_speaker_are_no_negatives() -> None:
    queue = SpeakerQueue(8, 2)
    queue.put(on_circle(0, 10, 20, 30), torch.tensor([7, 7, 7, 7]))
    _, present = queue.negatives(on_circle(5), torch.tensor([7]), 4, torch.rand(1, 8), pool=8)
    assert not present.any()


def test_random_negatives_are_others_too_and_follow_the_numbers() -> None:
    numbers = torch.tensor([[0.9, 0.8, 0.1, 0.7, 0.2, 0.99]])
    negatives, present = filled().negatives(on_circle(0), torch.tensor([1]), 2, numbers, pool=2)
    assert present.all()
    torch.testing.assert_close(negatives[0], on_circle(50, 90))


def test_the_nearest_are_those_of_the_pool_that_was_drawn() -> None:
    numbers = torch.tensor([[0.9, 0.8, 0.1, 0.7, 0.2, 0.99]])  # 50 and 90 degrees, and the empty place never
    negatives, present = filled().negatives(on_circle(0), torch.tensor([1]), 1, numbers, pool=2)
    assert present.all()
    torch.testing.assert_close(negatives[0], on_circle(50))


def test_the_oldest_make_room() -> None:
    queue = filled()
    queue.put(F.normalize(torch.ones(2, 2), dim=1), torch.tensor([4, 5]))
    assert queue.speakers_Q.tolist() == [5, 1, 2, 3, 2, 4]
