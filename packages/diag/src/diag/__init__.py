"""Is this training run healthy, are these embeddings good, what do these samples sound and look like?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diag.embeddings import analyze_embeddings
    from diag.loop import generate_diagnostics_report

__version__ = "0.1.0"
__all__ = ["analyze_embeddings", "generate_diagnostics_report"]


def __getattr__(name: str) -> Any:
    # Lazily: neither needs the other's libraries, and the command line needs none of them.
    if name == "generate_diagnostics_report":
        from diag.loop import generate_diagnostics_report

        return generate_diagnostics_report
    if name == "analyze_embeddings":
        from diag.embeddings import analyze_embeddings

        return analyze_embeddings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
