"""The recipe of `qa-train train`, field by field, and the presets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from trainworks.config import Recipe


class NetworkConfig(Recipe):
    """The network, of either framework."""

    architecture: Literal["pointer", "baseline"] = "pointer"
    """`pointer` follows references from sentence to sentence; `baseline` is what the study used: an LSTM of two
    encoders, or a Transformer encoder with sinusoidal positions over all words."""
    dim: int = Field(64, ge=8)
    """Width of the states; more is stronger and slower."""
    num_heads: int = Field(1, ge=1)
    """Attention heads of the Transformer; must divide dim."""
    num_roles: int = Field(4, ge=1)
    """Pointer: words of a sentence that are read apart, such as subject and object."""
    num_layers: int = Field(2, ge=1)
    """Baseline Transformer: layers."""
    num_rounds: int = Field(12, ge=1)
    """Pointer Transformer: times that its one shared layer is applied; chains of references longer than this are
    not followed to their end."""
    max_words: int = Field(32, ge=2)
    """Pointer: words of a sentence, at most."""
    hardness: float = Field(4.0, gt=0)
    """Pointer: scores of matches are multiplied by this when questions are answered. Learning needs soft matches for
    its gradients; but a chance of a few percent for each of a hundred unrelated sentences would hide the one that does
    match. 1 answers as in training: better for stories no longer than the training ones."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share dropped in training: of activations (baseline), of the numbers of word vectors (pointer)."""

    @model_validator(mode="after")
    def _heads_divide(self) -> NetworkConfig:
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide dim {self.dim}")
        return self


class TrainingConfig(Recipe):
    """The loop, of either framework."""

    epochs: int = Field(12, ge=1)
    """Passes over the training stories, at most."""
    batch_size: int = Field(64, ge=1)
    """Stories a batch."""
    learning_rate: float = Field(4e-3, gt=0)
    """Peak step size of Adam: linear warm-up over the first tenth of all steps, then cosine decay to 3 %."""
    clip_norm: float = Field(1.0, gt=0)
    """Bound on the norm of the gradient."""
    direction_weight: float = Field(1.0, ge=0)
    """Pointer: weight of the auxiliary loss, the direction of each sentence's subject after the sentence; of no
    effect on stories whose sentences are not of the built-in grammar."""
    match_weight: float = Field(0.01, ge=0)
    """Pointer: weight of the mean probability of a match between sentences. It keeps matches rare, so that they don't
    add up in stories longer than the training ones."""
    patience: int = Field(0, ge=0)
    """Epochs without a better validation accuracy before training ends; 0: never before the last epoch."""
    checkpoint_every: int = Field(0, ge=0)
    """Keep every so many epochs' checkpoint beside the three best and the last; 0: no others."""


class TrainRecipe(Recipe):
    """Everything that decides the outcome of `qa-train train`."""

    model: Literal["transformer", "lstm"] = "transformer"
    """`transformer`: PyTorch; `lstm`: Keras on TensorFlow."""
    seed: int = Field(0, ge=0)
    """The one seed, from which every random choice derives."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes the Transformer's steps in bfloat16, for GPUs; weights stay fp32."""
    grad_accum: int = Field(1, ge=1)
    """Parts that a batch is cut into, to fit into memory; the step stays the same."""
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _transformer_alone(self) -> TrainRecipe:
        if self.model == "lstm" and (self.precision != "fp32" or self.grad_accum != 1):
            raise ValueError("precision bf16 and grad_accum are for the transformer")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "pointer": {},
    "baseline": {
        "network": {"architecture": "baseline", "dim": 128, "num_heads": 4, "dropout": 0.1},
        "training": {"learning_rate": 1e-3},
    },
    "babi": {
        "network": {"dim": 32, "hardness": 1.0, "dropout": 0.2},
        "training": {"epochs": 120, "batch_size": 32, "learning_rate": 2e-3, "match_weight": 0.1},
    },
}
