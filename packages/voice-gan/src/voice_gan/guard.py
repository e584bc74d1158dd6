"""What keeps the adversarial game stable: it watches, steps in within bounds, and says so.

Discriminators are too strong when they call nearly everything right, and only then: one that is fooled, or has learnt
nothing yet, is left to learn.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from voice_gan.config import GuardConfig


@dataclass
class Guard:
    """State and decisions; `asdict` of it is all that a checkpoint needs.

    Attributes:
        accuracy: running share of what the discriminators call right; 0.5 knows nothing.
        diversity: running ratio of how outputs differ to how real sound does.
        norms: running gradient norm by optimizer.
        resting: steps that the discriminators still rest.
        rests: how often they were sent to rest.
        rate: factor on the discriminators' step size.
        penalty: factor on lambda_gp.
        adversarial: factor on lambda_adv.
        quiet: steps since the last reaction to dominance or collapse.
        interventions: how often it stepped in, clipping included.
    """

    config: GuardConfig
    accuracy: float = 0.5
    diversity: float = 1.0
    norms: dict[str, float] | None = None
    resting: int = 0
    rests: int = 0
    rate: float = 1.0
    penalty: float = 1.0
    adversarial: float = 1.0
    quiet: int = 0
    interventions: int = 0

    def state(self) -> dict[str, Any]:
        state = asdict(self)
        del state["config"]
        return state

    def clip(self, name: str, norm: float) -> float:
        """The norm that this gradient may have: its own or, where it explodes, the running average.

        Args:
            name: which optimizer's.
            norm: the gradient's norm, finite.
        """
        self.norms = self.norms or {}
        average = self.norms.get(name, norm)
        exploded = self.config.enabled and norm > self.config.explosion * average
        # An explosion counts as far as the threshold: a norm that grew for good is believed within a window.
        counted = min(norm, self.config.explosion * average)
        self.norms[name] = average + (counted - average) / self.config.window
        self.interventions += exploded
        return average if exploded else norm

    def watch(self, accuracy: float, diversity: float) -> dict[str, float]:
        """Take in one adversarial step and decide.

        Args:
            accuracy: share of logits that the discriminators had right, in [0, 1].
            diversity: `losses.diversity_ratio` of the step.

        Returns:
            What was changed, for the log: "guard/rest" (steps), "guard/rate", "guard/penalty",
            "guard/adversarial" (the new factors); empty where nothing was.
        """
        config = self.config
        if not config.enabled:
            return {}
        self.resting = max(0, self.resting - 1)
        self.quiet += 1
        self.accuracy += (accuracy - self.accuracy) / config.window
        self.diversity += (diversity - self.diversity) / config.window
        if self.quiet < config.window:
            return {}
        changed: dict[str, float] = {}
        if self.diversity < config.collapse and self.adversarial > config.min_adversarial:
            self.adversarial = max(config.min_adversarial, self.adversarial / 2)
            changed["guard/adversarial"] = self.adversarial
        if self.accuracy > config.dominance:
            changed |= self._hold_back()
        if changed:
            self.quiet = 0
            self.interventions += 1
        return changed

    def _hold_back(self) -> dict[str, float]:
        """First a rest; when that was not enough, a lower rate and a higher penalty as well, down to their bounds."""
        again, self.rests = self.rests > 0, self.rests + 1
        self.resting = self.config.rest
        changed: dict[str, float] = {"guard/rest": self.resting}
        if again and self.rate > self.config.min_rate:
            self.rate = max(self.config.min_rate, self.rate / 2)
            changed["guard/rate"] = self.rate
        if again and self.penalty < self.config.max_penalty:
            self.penalty = min(self.config.max_penalty, self.penalty * 2)
            changed["guard/penalty"] = self.penalty
        return changed
