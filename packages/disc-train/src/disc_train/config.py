"""The recipe of `disc-train`: every setting with its unit and the effect of turning it up."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from trainworks.config import Recipe

LEVELS = ("token", "sentence", "row", "feature")

Kind = Literal["categorical", "integer", "decimal", "boolean", "date"]


class DataConfig(Recipe):
    """How cells become tokens."""

    types: dict[str, Kind] = {}
    """Column types that overrule the inferred ones: categorical, integer, decimal, boolean or date."""
    max_exact: int = Field(1000, ge=2)
    """Distinct numbers up to which each gets a token of its own; columns with more are binned."""
    bins: int = Field(200, ge=2, le=4096)
    """Quantile bins of a binned column; more is finer and needs more rows to learn."""
    max_categories: int = Field(1000, ge=2)
    """Distinct categories with a token of their own; rarer ones share one."""
    valid_fraction: float = Field(0.1, gt=0, lt=0.5)
    """Share of the rows that only choose the checkpoint."""
    valid_fold: int = Field(0, ge=0)
    """Which of the disjoint sets of that size, cut from the shuffled rows, they are: the first is 0."""

    @model_validator(mode="after")
    def _fold_is_there(self) -> DataConfig:
        if (self.valid_fold + 1) * self.valid_fraction > 1:
            raise ValueError(
                f"valid_fold {self.valid_fold} of {self.valid_fraction:g} of the rows each is beyond their end"
            )
        return self


class ModelConfig(Recipe):
    """The generator's network."""

    kind: Literal["columns", "text"] = "columns"
    """`columns`: one token a cell; `text`: a causal language model over "column is value" text (GReaT)."""
    dim: int = Field(64, ge=8)
    """Width of the states; more is stronger and slower."""
    depth: int = Field(2, ge=1)
    """Transformer blocks."""
    num_heads: int = Field(4, ge=1)
    """Attention heads; must divide dim."""
    mlp_ratio: int = Field(4, ge=1)
    """Width of the feed-forward layer over dim."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of activations dropped in training; more for small tables."""
    smoothing: float = Field(0.5, ge=0)
    """Columns kind: width of label smoothing over neighbouring numbers, in percent of the column's tokens."""
    base_model: str = ""
    """Text kind: directory of a Hugging Face causal language model; empty trains a small GPT-2 from scratch."""
    bpe_vocab: int = Field(2000, ge=300)
    """Text kind from scratch: size of the byte-pair vocabulary that is learned on the rows."""

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide dim {self.dim}")
        return self


class WarmStartConfig(Recipe):
    """Maximum likelihood before any feedback."""

    max_epochs: int = Field(40, ge=1)
    """Passes over the training rows."""
    max_steps: int = Field(15_000, ge=1)
    """Optimizer steps at most, which bounds the work on large tables."""
    min_steps: int = Field(1500, ge=1)
    """Optimizer steps at least: small tables are passed over more often than max_epochs."""
    batch_size: int = Field(128, ge=1)
    """Rows a step."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak step size of AdamW; linear warm-up over 100 steps, cosine decay to 3 %."""
    weight_decay: float = Field(0.05, ge=0)
    """Decoupled weight decay of AdamW."""
    patience: int = Field(6, ge=1)
    """Evaluations without a better validation likelihood before the warm start ends."""


class FeedbackConfig(Recipe):
    """Alternating training of generator and discriminators."""

    schedule: Literal["alternate", "once", "none"] = "alternate"
    """`alternate`: discriminators train in every cycle; `once`: before the first only; `none`: likelihood alone."""
    cycles: int = Field(5, ge=0)
    """Rounds of training the discriminators, then the generator."""
    steps_per_cycle: int = Field(60, ge=1)
    """Generator steps a cycle."""
    batch_size: int = Field(512, ge=2)
    """Generated rows a step: the group over which advantages are taken."""
    real_batch_size: int = Field(256, ge=1)
    """Real rows a step, for the likelihood that anchors the generator."""
    learning_rate: float = Field(3e-4, gt=0)
    """Step size of AdamW."""
    strength: float = Field(4.0, ge=0)
    """Weight of the total feedback beside the likelihood; more trusts the discriminators more."""
    weighting: Literal["fixed", "dynamic"] = "fixed"
    """`fixed`: the weights below; `dynamic`: their sum, dealt out so that all levels pull equally hard (Chen et al.
    2018, with their alpha 0)."""
    weight_token: float = Field(0.25, ge=0)
    """Weight of the token level."""
    weight_sentence: float = Field(0.25, ge=0)
    """Weight of the sentence level."""
    weight_row: float = Field(0.25, ge=0)
    """Weight of the row level."""
    weight_feature: float = Field(0.25, ge=0)
    """Weight of the feature level."""
    gradients_every: int = Field(0, ge=0)
    """Steps between records of each level's gradient at the generator, norms and cosines; 0: none."""
    max_advantage: float = Field(3.0, gt=0)
    """Bound on an advantage, in nats."""
    patience: int = Field(3, ge=1)
    """Cycles without a better validation two-sample test before training ends."""

    @property
    def weights(self) -> dict[str, float]:
        return {level: getattr(self, f"weight_{level}") for level in LEVELS}


class DiscriminatorConfig(Recipe):
    """The four levels of discriminators."""

    dim: int = Field(32, ge=8)
    """Width of their states."""
    depth: int = Field(1, ge=1)
    """Transformer blocks."""
    num_heads: int = Field(4, ge=1)
    """Attention heads; must divide dim."""
    mlp_ratio: int = Field(2, ge=1)
    """Width of the feed-forward layer over dim."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of activations dropped in training."""
    folds: int = Field(3, ge=2, le=10)
    """Cross-fitting folds: each row is scored by the one model that never saw it."""
    batch_size: int = Field(256, ge=2)
    """Rows a step, half of them real."""
    learning_rate: float = Field(2e-3, gt=0)
    """Step size of AdamW."""
    weight_decay: float = Field(0.05, ge=0)
    """Decoupled weight decay of AdamW."""
    max_epochs: int = Field(20, ge=1)
    """Passes over the real rows a cycle, at most."""
    patience: int = Field(2, ge=1)
    """Passes without a higher held-out AUC before a level stops."""
    real_share: float = Field(0.25, gt=0, lt=0.9)
    """Share of the training rows kept for them: on rows that it has learned by heart a generator isn't caught."""
    max_rows: int = Field(8000, ge=2)
    """Real rows that they learn from, at most."""
    generated_per_real: float = Field(2.0, gt=0)
    """Generated rows for each real one."""
    replay_share: float = Field(0.25, ge=0, lt=1)
    """Share of the generated rows that come from earlier cycles."""

    @model_validator(mode="after")
    def _heads_divide(self) -> DiscriminatorConfig:
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide dim {self.dim}")
        return self


class DiagnosticsConfig(Recipe):
    """What is looked at while training; it changes nothing of it."""

    enabled: bool = False
    """Reports by `diag` (extra diagnostics) into RUN/diagnostics."""
    interval: int = Field(100, ge=1)
    """Steps between reports."""


class TrainRecipe(Recipe):
    """Everything that decides the outcome of `disc-train train`."""

    target: str = ""
    """The column that users of the table predict; recorded for `evaluate`. Empty: none."""
    seed: int = Field(0, ge=0)
    """The one seed, from which every random choice derives."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes the generator's steps in bfloat16, for GPUs; weights stay fp32."""
    grad_accum: int = Field(1, ge=1)
    """Parts that a batch of real rows is cut into, to fit into memory; the step stays the same."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()


PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "warm_start": {"max_epochs": 20, "min_steps": 300},
        "feedback": {"cycles": 2, "steps_per_cycle": 20, "batch_size": 256},
        "discriminator": {"max_epochs": 2, "dim": 32},
    },
    "text": {"model": {"kind": "text", "dim": 128, "depth": 4}, "warm_start": {"learning_rate": 1e-3}},
}
