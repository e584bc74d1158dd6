"""The smallest training of each tool that still publishes several checkpoints: seconds of one core."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo")


@dataclass(frozen=True)
class Training:
    """How to train with a tool.

    Attributes:
        name: the tool, and the framework where it has two.
        modules: what a process of it has loaded before it trains, as `Nursery` takes it; the first is the tool's cli.
        write: writes files into the folder that it is given, in which all commands run.
        prepare: the command that makes the folder `data` there, if one does.
        train: the command without --out and --config.
        use: a command that reads a run in place of "RUN".
        clocks: metrics that are measured in seconds, beside "time".
    """

    name: str
    modules: tuple[str, ...]
    write: Callable[[Path], None]
    prepare: tuple[str, ...]
    recipe: str
    train: tuple[str, ...]
    use: tuple[str, ...]
    clocks: tuple[str, ...] = ()

    @property
    def tool(self) -> str:
        return self.name.partition("/")[0]


def distance_of_means(real: Any, fake: Any, seed: int) -> float:
    """Stands in for the forests of disc-train's two-sample test, which take most of a small training's time."""
    return 0.5 + min(0.5, abs(float(real.mean() - fake.mean())))


def write_table(folder: Path) -> None:
    """A table of which the second column follows from the first."""
    chance = random.Random(0)
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["color", "size", "age"])
        for _ in range(160):
            color = chance.choice(["red", "green", "blue"])
            writer.writerow([color, {"red": "S", "green": "M", "blue": "L"}[color], chance.randint(18, 60)])


def write_questions(folder: Path) -> None:
    """SQuAD JSON about who has what, prompts, and a language model of random weights that reads them."""
    import numpy as np
    import safetensors.numpy
    import tokenizers

    articles, texts = [], []
    for name in NAMES:
        context, question = f"{name} has a red hat and a blue cup.", f"What has {name}?"
        answer = {"text": "hat", "answer_start": context.index("hat")}
        qas = [{"id": name, "question": question, "answers": [answer]}]
        articles.append({"title": name, "paragraphs": [{"context": context, "qas": qas}]})
        texts.append(f"Context: {context}\nQuestion: {question}\nAnswer: hat\n")
    (folder / "train.json").write_text(json.dumps({"version": "1.1", "data": articles}))
    prompts = [{"id": name, "question": "What?", "context": f"{name} has a hat."} for name in NAMES[:2]]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))

    model = folder / "model"
    model.mkdir()
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=300, special_tokens=["<end>"])
    tokenizer.save(str(model / "tokenizer.json"))
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (model / "tokenizer_config.json").write_text(json.dumps(special))
    words, width, inner = tokenizer.get_vocab_size(), 16, 32
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id("<end>"),
        "tie_word_embeddings": False,
    }
    (model / "config.json").write_text(json.dumps(config))
    layer = "model.layers.0"
    shapes = {
        "model.embed_tokens.weight": (words, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (words, width),
        **{f"{layer}.self_attn.{name}_proj.weight": (width, width) for name in "qkvo"},
        **{f"{layer}.mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")},
        f"{layer}.mlp.down_proj.weight": (width, inner),
        f"{layer}.input_layernorm.weight": (width,),
        f"{layer}.post_attention_layernorm.weight": (width,),
    }
    random_numbers = np.random.default_rng(0)
    weights = {name: random_numbers.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    safetensors.numpy.save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def write_voices(folder: Path) -> None:
    """Hums of two voices."""
    import numpy as np
    import soundfile

    for voice, hertz in {"alto": 190, "bass": 100}.items():
        (folder / "corpus" / voice).mkdir(parents=True)
        for take in range(4):
            seconds = np.arange(16_000 * 5 // 4) / 16_000
            melody = hertz * (1 + 0.1 * np.sin(2 * np.pi * (1 + take / 3) * seconds))
            phase = 2 * np.pi * np.cumsum(melody) / 16_000
            wave = 0.2 * sum(np.exp(-0.5 * harmonic) * np.sin(harmonic * phase) for harmonic in range(1, 12))
            soundfile.write(folder / "corpus" / voice / f"{take}.wav", wave, 16_000)


def write_nothing(folder: Path) -> None:
    """For a tool that makes its data itself."""


TRAININGS = (
    Training(
        "adapter-stage1",
        (
            "adapter_stage1.cli",
            "adapter_stage1.run",
            "torch._dynamo",
            "transformers.models.llama.modeling_llama",
        ),
        write_questions,
        (),
        """
        [model]
        name = "model"
        dtype = "float32"
        [prompt]
        shots = 1
        max_new_tokens = 2
        [compressor]
        ratio = 4
        [training]
        examples = 6
        epochs = 4
        batch_size = 3
        vocabulary_rows = 16
        negatives = 16
        valid_share = 0.2
        valid_questions = 1
        """,
        ("train", "--data", "train.json"),
        ("compress", "RUN", "prompts.jsonl"),
    ),
    Training(
        "disc-train",
        (
            "disc_train.cli",
            "disc_train.run",
            "disc_train.sample",
            "torch._dynamo",
            "disc_train.train.validation_auc=faults.trainings.distance_of_means",
        ),
        write_table,
        (),
        """
        target = "color"
        [model]
        dim = 16
        depth = 1
        [warm_start]
        max_epochs = 1
        min_steps = 110
        batch_size = 32
        learning_rate = 1e-2
        [feedback]
        cycles = 2
        steps_per_cycle = 3
        batch_size = 32
        real_batch_size = 32
        [discriminator]
        dim = 8
        depth = 1
        max_epochs = 1
        """,
        ("train", "table.csv"),
        ("sample", "RUN", "-n", "5"),
    ),
    Training(
        "qa-train/transformer",
        (
            "qa_train.cli",
            "qa_train.train",
            "qa_train.transformer_trainer",
            "qa_train.predict",
            "torch._dynamo",
        ),
        write_nothing,
        ("make-stories", "--out", "data", "--category", "simple", "--train", "24", "--valid", "4", "--test", "4"),
        """
        model = "transformer"
        [network]
        dim = 16
        num_rounds = 2
        [training]
        epochs = 4
        batch_size = 32
        """,
        ("train", "data"),
        ("predict", "RUN", "data/test.jsonl"),
    ),
    Training(
        "voice-gan",
        ("voice_gan.cli", "voice_gan.run", "torch._dynamo", "soundfile"),
        write_voices,
        ("prepare", "corpus", "--out", "data", "--unseen", "0"),
        """
        [data]
        segment_seconds = 0.5
        batch_size = 4
        [model.content]
        dim = 16
        layers = 1
        bottleneck = 8
        [model.speaker]
        channels = 16
        layers = 2
        dim = 16
        [model.generator]
        dim = 24
        layers = 1
        [discriminators]
        mpd_channels = [2, 4]
        periods = [2, 3]
        mrd_channels = 2
        segment_seconds = 0.25
        resolutions = [[256, 64, 256]]
        [training]
        epochs = 4
        warm_up = 0.5
        validate_every = 2
        valid_utterances = 1
        [diagnostics]
        num_samples = 1
        """,
        ("train", "data"),
        ("convert", "RUN", "--content", "corpus/alto/0.wav", "--voice", "corpus/bass/0.wav", "-o", "converted.wav"),
        clocks=("time/data_seconds", "train/audio_seconds_per_second"),
    ),
    Training(
        "diversity-finetune",
        ("diversity_finetune.cli", "diversity_finetune.train", "diversity_finetune.generate"),
        write_nothing,
        ("prepare", "--demo", "--dialogues", "40", "--out", "data", "--length", "24"),
        """
        [model]
        embedding = 8
        encoder = 8
        decoder = 16
        latent = 2
        [gan]
        warmup_epochs = 1
        length = 2
        width = 8
        [training]
        epochs = 3
        batch_size = 64
        quality_every = 3
        quality_examples = 4
        """,
        ("train", "data"),
        ("generate", "RUN", "data/test.jsonl"),
    ),
    Training(
        "qa-train/lstm",
        ("qa_train.cli", "qa_train.train", "qa_train.lstm_trainer", "qa_train.predict"),
        write_nothing,
        ("make-stories", "--out", "data", "--category", "simple", "--train", "24", "--valid", "4", "--test", "4"),
        """
        model = "lstm"
        [network]
        dim = 16
        [training]
        epochs = 4
        batch_size = 32
        """,
        ("train", "data"),
        ("predict", "RUN", "data/test.jsonl"),
    ),
)
