"""The recipe of `diversity-finetune train`, field by field, and the presets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from trainworks.config import Recipe

FINAL_WEIGHTS = "final_model.weights.h5"
"""Of a finished run: the weights of its best epoch."""


class ModelConfig(Recipe):
    """The networks."""

    architecture: Literal["separate", "combined"] = "separate"
    """`separate`: customer and agent side have encoders and latent spaces of their own; `combined`, the rival: one
    encoder reads the previous agent turn and the message as one text, into one latent space."""
    embedding: int = Field(128, ge=4)
    """Width of the word embeddings."""
    encoder: int = Field(128, ge=4)
    """Width of each encoder LSTM, of each direction."""
    decoder: int = Field(256, ge=4)
    """Width of the decoder LSTM."""
    latent: int = Field(32, ge=1)
    """Width of each latent space."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the numbers of embeddings and of the decoder's output dropped in training."""
    tied: bool = True
    """Whether the output layer uses the agent's word embeddings (Press & Wolf 2017): fewer weights, learns faster."""
    copy_words: bool = True
    """Whether a word may be copied from what is attended to (See et al. 2017, the pointer-generator)."""


class VAEConfig(Recipe):
    """The variational part."""

    enabled: bool = True
    """False: no latents at all; the decoder follows from the encoders."""
    free_bits: float = Field(2.0, ge=0)
    """Nats of KL that each latent space has for nothing (Kingma et al. 2016, section 3.3); more keeps the latents in
    use, and moves the replies' training away from what inference sees."""
    warmup_epochs: float = Field(2.0, ge=0)
    """Epochs over which the KL's weight rises from 0 to `kl_weight` (Bowman et al. 2016)."""
    kl_weight: float = Field(1.0, ge=0)
    """Weight of the KL after the warm-up; 1 is the evidence lower bound."""
    word_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of the decoder's input words replaced by the unknown word in training (Bowman et al. 2016)."""
    prior_share: float = Field(0.5, ge=0, le=1)
    """Share of the rows whose agent latent is drawn from the prior in training, as at inference (Sohn et al. 2015,
    section 4.2, the hybrid objective); 0 trains on the posterior alone."""


class GANConfig(Recipe):
    """The adversarial part."""

    enabled: bool = True
    """False: no discriminator."""
    warmup_epochs: int = Field(2, ge=0)
    """Epochs of likelihood training before the discriminator begins."""
    weight: float = Field(0.05, ge=0)
    """Weight of the generator's adversarial loss."""
    feature_weight: float = Field(0.1, ge=0)
    """Weight of feature matching (Salimans et al. 2016, section 3.1) beside it."""
    interval: int = Field(4, ge=2)
    """Steps between turns of the discriminator, and between turns of the adversarial loss, which come in between."""
    stride: int = Field(4, ge=1)
    """Of how many pairs of a batch one takes part in those turns; 1 takes all, which doubles the time of a step."""
    length: int = Field(16, ge=2)
    """Words of a generated reply that the discriminator reads, at most."""
    temperature: float = Field(1.0, gt=0)
    """Gumbel-softmax temperature of the generated words (Jang et al. 2017), at the first step."""
    temperature_end: float = Field(0.5, gt=0)
    """The same at the last step; on the way it goes linearly."""
    straight_through: bool = True
    """True: whole words forward, soft gradients; False: soft embeddings both ways."""
    width: int = Field(64, ge=4)
    """Filters of each of the discriminator's convolutions."""
    learning_rate: float = Field(2e-4, gt=0)
    """Step size of the discriminator's Adam."""


class DiversityConfig(Recipe):
    """The diversity loss and its parts."""

    weight: float = Field(0.15, ge=0)
    """Weight of the whole beside the reconstruction; 0 turns it off."""
    distinct: float = Field(0.3, ge=0)
    """Weight, inside the whole, of expected distinct words that are missing."""
    repetition: float = Field(0.4, ge=0)
    """Weight, inside the whole, of the expected repetition that the gold reply doesn't have."""
    entropy: float = Field(0.3, ge=0)
    """Weight, inside the whole, of the entropy that a word's distribution lacks."""
    entropy_floor: float = Field(0.5, gt=0)
    """Nats of entropy that are enough: above, the entropy loss is 0 and doesn't fight the likelihood."""
    unlikelihood: float = Field(0.0, ge=0)
    """Weight of the token unlikelihood loss (Welleck et al. 2020, equation 4); 0 turns it off."""
    stride: int = Field(4, ge=1)
    """Of how many pairs of a batch one is read by these losses; they want every word's probability, where likelihood
    wants the gold word's alone. 1 reads all, which doubles the time of a step."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of the distributions that the diversity loss reads, at the first step."""
    temperature_end: float = Field(1.0, gt=0)
    """The same at the last step; on the way it goes linearly: rising or falling."""


class TrainingConfig(Recipe):
    """The loop."""

    epochs: int = Field(10, ge=1)
    """Passes over the training pairs, at most."""
    batch_size: int = Field(64, ge=1)
    """Pairs a step."""
    learning_rate: float = Field(3e-3, gt=0)
    """First step size of Adam."""
    clip_norm: float = Field(1.0, gt=0)
    """Bound on the norm of the gradient."""
    average: float = Field(0.998, ge=0, lt=1)
    """Momentum of the moving average of the weights that is evaluated and kept; 0 keeps the weights themselves."""
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    """What the step size is multiplied by when the validation loss stops falling."""
    plateau_patience: int = Field(5, ge=1)
    """Epochs without a better validation loss until then."""
    decay_share: float = Field(0.3, ge=0, le=1)
    """Share of all steps, the last ones, over which the step size goes linearly to 0 (Hägele et al. 2024, section 3);
    0 leaves it to the plateau alone."""
    patience: int = Field(15, ge=1)
    """Epochs without a better validation loss until training ends."""
    log_every: int = Field(50, ge=1)
    """Steps between records of the training metrics, beside the one of each epoch."""
    quality_every: int = Field(5, ge=1)
    """Epochs between measurements of the quality of validation replies."""
    quality_examples: int = Field(200, ge=1)
    """Validation pairs that are replied to then."""


class DiagnosticsConfig(Recipe):
    """What is written for people along the way; it changes nothing of the training."""

    enabled: bool = False
    """Reports by `diag` (extra diagnostics) into RUN/diagnostics."""
    interval: int = Field(100, ge=1)
    """Steps between reports."""
    sample_interval: int = Field(0, ge=0)
    """Epochs between samples (replies to validation messages); 0: at the end alone."""
    num_samples: int = Field(10, ge=1)
    """Replies of each set of samples."""


class TrainRecipe(Recipe):
    """Everything that decides the outcome of `diversity-finetune train`."""

    seed: int = Field(0, ge=0)
    """The one seed, from which every random choice derives."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes in bfloat16, for GPUs; weights, losses and softmax stay fp32."""
    grad_accum: int = Field(1, ge=1)
    """Parts that a batch is cut into, to fit into memory; the step stays the same."""
    model: ModelConfig = ModelConfig()
    vae: VAEConfig = VAEConfig()
    gan: GANConfig = GANConfig()
    diversity: DiversityConfig = DiversityConfig()
    training: TrainingConfig = TrainingConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()

    @model_validator(mode="after")
    def _parts_are_not_empty(self) -> TrainRecipe:
        if self.grad_accum > self.training.batch_size:
            raise ValueError(f"grad_accum {self.grad_accum} cuts a batch of {self.training.batch_size} into nothing")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {  # for a few thousand short pairs, such as the built-in tickets: few words, so more and smaller steps
        "model": {"embedding": 64, "encoder": 64, "decoder": 128},
        "training": {"epochs": 7, "batch_size": 32, "learning_rate": 4e-3},
    },
    "small": {},
    "full": {
        "model": {"encoder": 512, "decoder": 512, "latent": 256, "dropout": 0.3, "tied": False},
        "training": {"epochs": 60, "batch_size": 128, "learning_rate": 1e-3},
    },
}
