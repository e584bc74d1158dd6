"""The guard steps in when discriminators dominate, outputs collapse or gradients explode, and at no other time."""

from voice_gan.config import GuardConfig
from voice_gan.guard import Guard

CONFIG = GuardConfig(window=10, rest=5)


def watch(guard: Guard, accuracy: float, steps: int, diversity: float = 1.0) -> list[dict[str, float]]:
    found = [guard.watch(accuracy, diversity) for _ in range(steps)]
    return [changed for changed in found if changed]


def test_weak_discriminators_raise_no_alarm() -> None:
    for accuracy in (0.0, 0.3, 0.5, 0.8):
        guard = Guard(CONFIG)
        assert watch(guard, accuracy, 500) == []
        assert (guard.resting, guard.rate, guard.penalty) == (0, 1.0, 1.0)


def test_dominant_discriminators_rest_then_learn_slower_under_more_penalty() -> None:
    guard = Guard(CONFIG)
    first, second, *_ = watch(guard, 1.0, 60)
    assert first == {"guard/rest": 5}
    assert second == {"guard/rest": 5, "guard/rate": 0.5, "guard/penalty": 2.0}


def test_it_stays_within_its_bounds() -> None:
    guard = Guard(CONFIG)
    changes = watch(guard, 1.0, 2000, diversity=0.0)
    assert guard.rate == CONFIG.min_rate
    assert guard.penalty == CONFIG.max_penalty
    assert guard.adversarial == CONFIG.min_adversarial
    assert guard.interventions == len(changes)


def test_a_rest_ends() -> None:
    guard = Guard(CONFIG)
    while not guard.resting:
        guard.watch(1.0, 1.0)
    watch(guard, 0.6, CONFIG.rest)
    assert guard.resting == 0


def test_a_collapsing_generator_is_pushed_less() -> None:
    guard = Guard(CONFIG)
    changes = watch(guard, 0.6, 60, diversity=0.05)
    assert changes[0] == {"guard/adversarial": 0.5}


def test_only_an_exploding_gradient_is_cut() -> None:
    guard = Guard(CONFIG)
    assert [guard.clip("model", norm) for norm in (1.0, 2.0, 1.0)] == [1.0, 2.0, 1.0]
    assert guard.clip("model", 500.0) < 1.5
    assert guard.interventions == 1


def test_a_guard_that_is_off_does_nothing() -> None:
    guard = Guard(GuardConfig(enabled=False, window=10))
    assert watch(guard, 1.0, 100, diversity=0.0) == []
    assert guard.clip("model", 1.0) == 1.0
    assert guard.clip("model", 1e6) == 1e6


def test_its_state_goes_on() -> None:
    one = Guard(CONFIG)
    watch(one, 1.0, 37)
    other = Guard(CONFIG, **one.state())
    assert watch(one, 1.0, 30) == watch(other, 1.0, 30)
