"""The recipe of `adapter-stage1 train`, field by field, and the presets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from trainworks.config import Recipe

OBJECTIVES = ("recon", "token-ce", "prompt-ce", "teacher-forced", "distill", "hidden")


class LanguageModelConfig(Recipe):
    """The frozen language model."""

    name: str = "smollm2"
    """A Hugging Face model directory, a GGUF file, or smollm2, which the extra of that name brings."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of its weights and activations. The adapter itself stays float32."""
    device_map: str = ""
    """How accelerate spreads it over devices, such as "auto"; empty: all on --device."""


class PromptConfig(Recipe):
    """How questions are put to the model, in evaluation. Training reads the questions without worked examples."""

    format: str = "squad"
    """A built-in format (squad, instructed, terse, question-first, passage, quoted, chatml), or a JSON file with
    header, shot, query and stop."""
    shots: int = Field(3, ge=0)
    """Worked examples before the question, from the training data."""
    seed: int = Field(0, ge=0)
    """Chooses the worked examples; apart from the recipe's seed, so that seeds of training share a baseline."""
    max_new_tokens: int = Field(20, ge=1)
    """Tokens of an answer, at most."""


class CompressorConfig(Recipe):
    """What a prompt's embeddings are made smaller by."""

    kind: Literal["pca", "random-projection"] = "pca"
    ratio: int = Field(8, ge=1)
    """Width of the embeddings over width of the latents; must divide the former."""
    whiten: bool = False
    """Give each latent variance 1 (pca)."""
    weighting: Literal["tokens", "vocabulary"] = "tokens"
    """What the fit weighs a vocabulary row by: its frequency in the training prompts plus one, or 1."""


class AdapterConfig(Recipe):
    """The network that rebuilds embeddings from latents."""

    hidden_multiple: float = Field(7.5, gt=0)
    """Width of the hidden layer over that of the latents; 7.5 makes 19.8 million parameters for 512 to 4096."""
    snap: Literal["soft", "none"] = "soft"
    """soft: the output is drawn towards rows of the embedding table by attention with a learned temperature."""


class ObjectivesConfig(Recipe):
    """Weights of the losses; 0 leaves one out."""

    recon: float = Field(1.0, ge=0)
    """Squared error of rebuilt embeddings at the prompt's positions, before the snap (option 1 of the analysis)."""
    token_ce: float = Field(1.0, ge=0)
    """Which vocabulary row is this? Cross-entropy over candidate rows."""
    prompt_ce: float = Field(0.0, ge=0)
    """The model's next-token loss on the prompt from rebuilt embeddings, no answer in the input (option 2)."""
    teacher_forced: float = Field(0.0, ge=0)
    """FLAWED, for comparison: loss on the answer with the answer's true embeddings in the input (option 3)."""
    distill: float = Field(0.0, ge=0)
    """KL from the model's next-token distributions on the true prompt to those on the rebuilt one."""
    hidden: float = Field(0.0, ge=0)
    """Squared error of hidden states at `hidden_layers`, over their mean square."""
    hidden_layers: list[int] = Field([-1], min_length=1)
    """Layers whose states `hidden` matches; -1 is the last."""
    balance: Literal["fixed", "magnitude", "gradient"] = "magnitude"
    """fixed: weights as they stand; magnitude: each loss is divided by its running mean; gradient: by the running norm
    of its gradient at the adapter's output layer."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> ObjectivesConfig:
        if not any(self.weights().values()):
            raise ValueError("all objectives have weight 0; give one a weight")
        return self

    def weights(self) -> dict[str, float]:
        """Weights by the objectives' names on the command line."""
        return {name: getattr(self, name.replace("-", "_")) for name in OBJECTIVES}


class TrainingConfig(Recipe):
    """The loop."""

    examples: int = Field(2000, ge=1)
    """Training questions, at most what the data has."""
    epochs: int = Field(2, ge=1)
    """Passes over them."""
    batch_size: int = Field(16, ge=1)
    """Prompts a step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak step size of Adam: linear warm-up over the first tenth of all steps, then cosine decay to 3 %."""
    clip_norm: float = Field(1.0, gt=0)
    """Bound on the norm of the gradient."""
    vocabulary_rows: int = Field(512, ge=0)
    """Rows drawn from the whole vocabulary for each step beside the batch's own, so that words which training prompts
    lack are rebuilt too (recon, token-ce)."""
    negatives: int = Field(2048, ge=0)
    """Further rows that token-ce and the soft snap choose among in training; evaluation chooses among all rows."""
    max_prompt_tokens: int = Field(512, ge=8)
    """Training prompts longer than this are left out, and counted."""
    valid_share: float = Field(0.05, gt=0, lt=1)
    """Share of the data's questions, by article, kept for validation."""
    valid_questions: int = Field(32, ge=1)
    """Validation questions answered after every epoch, from rebuilt prompts alone."""


class TrainRecipe(Recipe):
    """Everything that decides the outcome of `adapter-stage1 train`."""

    seed: int = Field(0, ge=0)
    """The one seed, from which every random choice but the worked examples derives."""
    grad_accum: int = Field(1, ge=0)
    """Parts that a batch is cut into for the language model, to fit into memory; the step stays the same. 0 tries on a
    GPU how many prompts use at most 90 % of its memory."""
    model: LanguageModelConfig = LanguageModelConfig()
    prompt: PromptConfig = PromptConfig()
    compressor: CompressorConfig = CompressorConfig()
    adapter: AdapterConfig = AdapterConfig()
    objectives: ObjectivesConfig = ObjectivesConfig()
    training: TrainingConfig = TrainingConfig()


PRESETS: dict[str, dict[str, Any]] = {
    "small": {"training": {"examples": 320, "epochs": 1, "valid_questions": 8}},
    "llama-3.1-8b": {
        "grad_accum": 0,
        "model": {"device_map": "auto"},
        "training": {"examples": 10_000, "epochs": 3, "batch_size": 32},
    },
}
