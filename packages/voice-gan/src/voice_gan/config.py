"""The recipe of `voice-gan`: every setting with its unit and the effect of turning it up."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from trainworks.config import Recipe


class AudioConfig(Recipe):
    """How sound becomes spectrograms. A prepared folder has the rate and hop that it was made with."""

    rate: int = Field(16000, ge=8000)
    """Samples a second that everything is resampled to."""
    n_fft: int = Field(1024, ge=64)
    """Samples of a window; more resolves pitch better and time worse."""
    hop: int = Field(256, ge=16)
    """Samples between frames, 16 ms; fewer is slower and finer in time."""
    mels: int = Field(80, ge=8)
    """Mel bands."""
    fmin: float = Field(0.0, ge=0)
    """Lowest frequency of the mel bands in Hz."""
    fmax: float = Field(8000.0, gt=0)
    """Highest frequency of the mel bands in Hz, at most half the rate."""
    f0_min: float = Field(65.0, gt=0)
    """Lowest fundamental frequency looked for, in Hz."""
    f0_max: float = Field(500.0, gt=0)
    """Highest fundamental frequency looked for, in Hz."""

    @model_validator(mode="after")
    def _fit(self) -> AudioConfig:
        if self.fmax > self.rate / 2:
            raise ValueError(f"fmax {self.fmax:g} Hz is above half the rate of {self.rate} Hz")
        if self.n_fft % 2 or self.hop % 2 or self.n_fft < 2 * self.hop:
            raise ValueError("n_fft and hop are even, and n_fft at least twice hop")
        return self


class DataConfig(Recipe):
    """What a step reads."""

    segment_seconds: float = Field(2.0, ge=0.5)
    """Length of a training segment; longer costs as much more."""
    reference_seconds: float = Field(2.0, ge=0.5)
    """Length of the sound that tells a voice in training; longer tells more of it and costs little."""
    batch_size: int = Field(8, ge=2)
    """Segments a step, over all processes."""


class ContentConfig(Recipe):
    """The content encoder: log-mel, normalised over time, through a bottleneck that drops the voice."""

    dim: int = Field(128, ge=8)
    """Channels of its ConvNeXt blocks."""
    layers: int = Field(4, ge=1)
    """Blocks."""
    bottleneck: int = Field(24, ge=2)
    """Numbers a frame that are passed on; more rebuilds better and leaks more of the voice."""
    quantiser: Literal["none", "vq"] = "none"
    """none: continuous, with noise; vq: the nearest of `codes` vectors, gradients straight through."""
    codes: int = Field(512, ge=2)
    """Vectors of the codebook (vq)."""
    noise: float = Field(1.0, ge=0)
    """Standard deviation of the noise on the bottleneck in training, whose channels have variance 1 (none); more lets
    less of the voice pass."""
    warp: float = Field(0.15, ge=0, lt=0.5)
    """In training the encoder hears the frequency axis stretched by up to this share, so that it can't rely on the
    length of a vocal tract (Jaitly & Hinton 2013); 0 turns it off."""


class SpeakerConfig(Recipe):
    """The speaker encoder."""

    kind: Literal["own", "ge2e"] = "own"
    """own: trained here; ge2e: starts from the weights that the resemblyzer package carries (extra ge2e)."""
    dim: int = Field(128, ge=8)
    """Length of an embedding (own); ge2e has 256."""
    channels: int = Field(128, ge=8)
    """Channels of its convolutions (own)."""
    layers: int = Field(4, ge=1)
    """Convolutions (own)."""
    unfreeze: bool = False
    """Fine-tune ge2e; otherwise its weights stay as they are."""
    generator_share: float = Field(0.0, ge=0, le=1)
    """Share of the reconstruction's gradient that the encoder learns from; the contrastive loss teaches it else. More
    draws voices to what they have in common."""
    learning_rate: float = Field(1e-5, gt=0)
    """Step size of fine-tuning (ge2e); the own encoder learns at the generator's."""

    @model_validator(mode="after")
    def _fit(self) -> SpeakerConfig:
        if self.unfreeze and self.kind == "own":
            raise ValueError("unfreeze is for kind=ge2e; the own encoder always learns")
        return self


class GeneratorConfig(Recipe):
    """The generator: content, fundamental frequency and voice to sound."""

    kind: Literal["vocos", "hifigan"] = "vocos"
    """vocos: ConvNeXt blocks and an inverse STFT; hifigan: transposed convolutions, many times slower."""
    conditioning: Literal["film", "cross-attention"] = "film"
    """How the voice enters: a scale and shift of every block's channels, or attention to tokens made from it."""
    dim: int = Field(192, ge=8)
    """Channels of its blocks (vocos), or before the first upsampling (hifigan)."""
    layers: int = Field(6, ge=1)
    """Blocks (vocos)."""
    tokens: int = Field(8, ge=1)
    """Tokens that a voice is spread over (cross-attention)."""
    upsample_rates: list[int] = [8, 8, 2, 2]
    """Factors of the upsamplings (hifigan); their product is the hop."""
    resblock_kernels: list[int] = [3, 7, 11]
    """Kernel sizes of the residual blocks after each upsampling (hifigan)."""


class ModelConfig(Recipe):
    """The networks of a finished model."""

    content: ContentConfig = ContentConfig()
    speaker: SpeakerConfig = SpeakerConfig()
    generator: GeneratorConfig = GeneratorConfig()


class DiscriminatorsConfig(Recipe):
    """The discriminators, which only training has. Defaults are slim, 0.7 million parameters."""

    periods: list[int] = [2, 3, 5, 7, 11]
    """Periods of the multi-period discriminator, in samples."""
    mpd_channels: list[int] = [8, 32, 64, 128, 128]
    """Channels of its convolutions; HiFi-GAN's are 32, 128, 512, 1024, 1024."""
    resolutions: list[tuple[int, int, int]] = [(512, 128, 512), (1024, 256, 1024), (2048, 512, 2048)]
    """n_fft, hop and window of each part of the multi-resolution discriminator, in samples; UnivNet's are (1024, 120,
    600), (2048, 240, 1200) and (512, 50, 240). Shorter hops cost as much more."""
    mrd_channels: int = Field(8, ge=1)
    """Channels of its convolutions; UnivNet's are 32."""
    segment_seconds: float = Field(1.0, gt=0)
    """Part of each segment that they hear, cut out at random; more costs as much more."""
    learning_rate: float = Field(5e-5, gt=0)
    """Step size of AdamW."""


class LossesConfig(Recipe):
    """Weights of the losses; 0 leaves one out."""

    mel: float = Field(1.0, ge=0)
    """L1 distance of log-mel spectrograms at three resolutions."""
    stft: float = Field(0.5, ge=0)
    """L1 distance of log magnitudes and spectral convergence at the same resolutions."""
    lambda_adv: float = Field(1.0, ge=0)
    """The generator's adversarial loss; 0 trains no discriminators."""
    adversarial: Literal["hinge", "lsgan"] = "hinge"
    """Hinge (Lim & Ye 2017) or least squares (Mao et al. 2017)."""
    feature_matching: float = Field(2.0, ge=0)
    """L1 distance of the discriminators' features between real and rebuilt."""
    contrastive: float = Field(0.5, ge=0)
    """InfoNCE of voices: a segment is nearer to its own speaker than to others; on real and converted segments."""
    num_negatives: int = Field(6, ge=1)
    """Other speakers' segments that a segment is told apart from."""
    hard_negatives: bool = True
    """Take the nearest other-speaker segments of those that are drawn; otherwise any of them."""
    negative_pool: int = Field(32, ge=1)
    """Other speakers' segments of the queue that are drawn for an anchor, of which the nearest are hard negatives; more
    are harder, and as many as the queue has are the hardest that there are."""
    queue: int = Field(256, ge=1)
    """Segments of earlier batches that negatives are chosen from."""
    key_momentum: float = Field(0.995, ge=0, lt=1)
    """How slowly the encoder of the keys, which voices are compared with, follows the one that learns. It must be slow
    beside the queue: the age of a key would otherwise tell it from a fresh one, and be all that is learnt."""
    temperature: float = Field(0.1, gt=0)
    """Of InfoNCE; lower looks at the nearest negatives alone."""
    content_consistency: float = Field(1.0, ge=0)
    """Squared distance of the content of a converted segment from its source's."""
    conversion_share: float = Field(0.5, ge=0, le=1)
    """Share of a batch that is converted to another speaker of it; more costs time."""
    commitment: float = Field(0.25, ge=0)
    """How strongly content is drawn to its code, beside the code to content (vq)."""
    lambda_gp: float = Field(0.1, ge=0)
    """Gradient penalty of the discriminators; more makes them smooth and slow. HiFi-GAN, Vocos and DAC have none."""
    penalty: Literal["r1", "wgan-gp"] = "r1"
    """r1: on real sound (Mescheder et al. 2018); wgan-gp: towards norm 1 between real and generated."""
    penalty_every: int = Field(16, ge=1)
    """Steps between penalties, each then weighing as much more (lazily, Karras et al. 2020)."""


class TrainingConfig(Recipe):
    """The loop."""

    epochs: int = Field(40, ge=1)
    """Passes over the training segments."""
    warm_up: float = Field(0.8, ge=0, le=1)
    """Share of all steps before the discriminators start. A step with them costs some five times as much: after .8 of
    the steps they take more than half of the time, after .95 a fifth."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak step size of AdamW for all but the discriminators: linear warm-up of 100 steps (at most a tenth of all),
    cosine decay to 5 %."""
    clip_norm: float = Field(10.0, gt=0)
    """Bound on the norm of each optimizer's gradient."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the moving average of the weights, which is the model that is used."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes the networks' layers in bfloat16, spectra and losses in float32."""
    grad_accum: int = Field(1, ge=1)
    """Parts that a process's batch is cut into, to fit into memory; the step stays the same."""
    activation_checkpointing: bool = False
    """Keep no activations of the generator's blocks and compute them again: less memory, a third more time."""
    compile: bool = False
    """Compile the generator with torch.compile, which takes minutes at the start and needs a C++ compiler."""
    validate_every: int = Field(5, ge=1)
    """Epochs between validations; there is a checkpoint after every epoch."""
    valid_utterances: int = Field(12, ge=1)
    """Validation utterances that are measured, at most."""


class GuardConfig(Recipe):
    """What watches the adversarial game and steps in, within bounds; every step is written to metrics.jsonl."""

    enabled: bool = True
    dominance: float = Field(0.95, gt=0.5, le=1)
    """Running share of what the discriminators call right, above which they are too strong."""
    window: int = Field(50, ge=1)
    """Steps that the running averages look back, and the least number between two interventions."""
    rest: int = Field(20, ge=1)
    """Steps that a too strong discriminator rests."""
    min_rate: float = Field(0.125, gt=0, le=1)
    """Lowest factor on the discriminators' step size."""
    max_penalty: float = Field(8.0, ge=1)
    """Highest factor on lambda_gp."""
    explosion: float = Field(10.0, gt=1)
    """A gradient norm of this many running averages is clipped down to one running average."""
    collapse: float = Field(0.2, ge=0, lt=1)
    """The generator has collapsed when its outputs differ from each other by less than this share of how real ones
    do; the adversarial weight is then halved."""
    min_adversarial: float = Field(0.125, gt=0, le=1)
    """Lowest factor on lambda_adv."""


class DiagnosticsConfig(Recipe):
    """What is written for people along the way."""

    enabled: bool = False
    """Reports by `diag` (extra diagnostics) into RUN/diagnostics."""
    interval: int = Field(100, ge=1)
    """Steps between reports."""
    sample_interval: int = Field(0, ge=0)
    """Epochs between samples (sound, picture, metadata); 0: at the end alone."""
    num_samples: int = Field(4, ge=1)
    """Utterances of each set of samples."""


class VoiceRecipe(Recipe):
    """Everything that decides the outcome of `voice-gan train`."""

    seed: int = Field(0, ge=0)
    """The one seed, from which every random choice derives."""
    audio: AudioConfig = AudioConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    discriminators: DiscriminatorsConfig = DiscriminatorsConfig()
    losses: LossesConfig = LossesConfig()
    training: TrainingConfig = TrainingConfig()
    guard: GuardConfig = GuardConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()

    @model_validator(mode="after")
    def _fit(self) -> VoiceRecipe:
        if self.discriminators.segment_seconds > self.data.segment_seconds:
            raise ValueError("discriminators.segment_seconds is more than data.segment_seconds")
        generator, product = self.model.generator, 1
        for rate in generator.upsample_rates:
            product *= rate
        if generator.kind == "hifigan" and product != self.audio.hop:
            raise ValueError(f"model.generator.upsample_rates multiply to {product}, not to audio.hop {self.audio.hop}")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "cpu": {
        # Few steps are left to discriminators here, in which they would learn little at 5e-5.
        "discriminators": {"learning_rate": 5e-4, "segment_seconds": 0.5},
        "training": {"epochs": 14, "warm_up": 0.9, "learning_rate": 2e-3},
    },
    "base": {
        "data": {"batch_size": 32},
        "model": {
            "content": {"dim": 256, "layers": 6},
            "speaker": {"channels": 256},
            "generator": {"dim": 512, "layers": 8},
        },
        "discriminators": {
            "mpd_channels": [32, 128, 512, 1024, 1024],
            "mrd_channels": 32,
            "resolutions": [[1024, 120, 600], [2048, 240, 1200], [512, 50, 240]],
        },
        "training": {"epochs": 400, "warm_up": 0.2, "learning_rate": 5e-4, "precision": "bf16"},
    },
    "small": {
        "data": {"segment_seconds": 1.0, "batch_size": 4},
        "model": {
            "content": {"dim": 32, "layers": 2, "bottleneck": 16},
            "speaker": {"channels": 32, "layers": 2, "dim": 32},
            "generator": {"dim": 48, "layers": 2},
        },
        "discriminators": {"mpd_channels": [4, 8, 8], "mrd_channels": 4, "resolutions": [[512, 128, 512]]},
        "training": {"epochs": 2, "validate_every": 1, "valid_utterances": 2},
    },
}
