"""The verdict on a run: what is wrong, how one sees it, why it matters and what to try."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from diag.curves import Log
from diag.finding import Finding, Health, Level, Verdict
from diag.read import Run
from diag.signals_adversarial import adversarial_findings
from diag.signals_flow import flow_findings
from diag.signals_gradients import gradient_findings
from diag.signals_losses import loss_findings
from diag.thresholds import Thresholds

__all__ = ["Finding", "Health", "Level", "Verdict", "judge"]

SIGNALS = (flow_findings, loss_findings, gradient_findings, adversarial_findings)


def judge(run: Run, thresholds: Thresholds) -> Health:
    """Look for everything that `diag` knows to be wrong with a run."""
    log = Log(run, thresholds)
    return Health.of(merged(finding for signal in SIGNALS for finding in signal(log)))


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for each name and level, the earliest: a hundred modules that explode are one explosion."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.name, finding.level), []).append(finding)
    made = []
    for group in groups.values():
        first = min(group, key=lambda finding: finding.steps)
        also = [finding.metric for finding in group if finding is not first]
        if also:
            named = ", ".join(also[:3]) + (f" and {len(also) - 3:,} more" if len(also) > 3 else "")
            first = replace(
                first, summary=f"{first.summary}; also {named}", evidence=first.evidence | {"also": also[:20]}
            )
        made.append(first)
    return made
