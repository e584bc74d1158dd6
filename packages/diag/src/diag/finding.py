"""What `diag health` says of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["warning", "critical"]
Verdict = Literal["healthy", "warning", "critical"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run.

    Attributes:
        name: what it is, such as "exploding_gradients".
        level: "critical" if training on is a waste, else "warning".
        steps: first and last step that show it.
        evidence: figures by name.
        summary: one line with the main figures.
        why: why it matters.
        try_: what to try, most promising first.
        metric: the metric that shows it best, "" where none does; a report draws the finding on its curve.
    """

    name: str
    level: Level
    steps: tuple[int, int]
    evidence: dict[str, Any]
    summary: str
    why: str
    try_: tuple[str, ...] = ()
    metric: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "level": self.level,
            "steps": list(self.steps),
            "metric": self.metric,
            "summary": self.summary,
            "evidence": self.evidence,
            "why": self.why,
            "try": list(self.try_),
        }


@dataclass(frozen=True)
class Health:
    """Verdict and findings, critical ones first, in the order of their steps."""

    verdict: Verdict
    findings: list[Finding] = field(default_factory=list)

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Health:
        ordered = sorted(findings, key=lambda finding: (finding.level != "critical", finding.steps, finding.name))
        return cls(ordered[0].level if ordered else "healthy", ordered)

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "findings": [finding.to_json() for finding in self.findings]}
