"""Every tool, the smallest training of each that trains, and one finished run of it."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SHARED = ("typer.main", "matplotlib.pyplot", "neptune", "trackio")
TORCH = (
    *SHARED, "torch._dynamo", "transformers.models.llama.modeling_llama", "sklearn.linear_model", "adapter_stage1.run",
    "disc_train.run", "qa_train.train", "qa_train.transformer_trainer", "voice_gan.run",
)  # fmt: skip
KERAS = (*SHARED, "qa_train.train", "qa_train.lstm_trainer", "diversity_finetune.run", "diversity_finetune.train")


@dataclass(frozen=True)
class Tool:
    """One command, and the module that it is imported as."""

    command: str
    module: str

    @property
    def program(self) -> str:
        """What the console script does, as Python source."""
        return f"import sys; sys.argv[0] = {self.command!r}; from {self.module}.cli import main; main()"

    def __str__(self) -> str:
        return self.command


@dataclass(frozen=True)
class Trainer(Tool):
    """A tool that trains, and how its smallest training is asked for.

    Attributes:
        framework: what takes long to import.
        recipe: TOML that makes a training take a second or two.
        data: the arguments that name the data.
        make_data: the command that makes them in the working directory, or Python source that does.
        preset: a preset with a key that it sets, its value there and the default.
        model: of --model, where the tool has several.
        before: Python source that is run before the command.
    """

    framework: tuple[str, ...]
    recipe: str
    data: tuple[str, ...]
    make_data: tuple[str, ...] | str
    preset: tuple[str, str, int, int]
    model: str = ""
    before: str = ""

    @property
    def options(self) -> list[str]:
        return [*self.data, "--config", "recipe.toml", "--threads", "1", "--device", "cpu", *self.chosen]

    @property
    def chosen(self) -> list[str]:
        return ["--model", self.model] if self.model else []

    def __str__(self) -> str:
        return f"{self.command}-{self.model}" if self.model else self.command


QUESTIONS = """
import json, tokenizers, torch, transformers
names, colours = ("Anna", "Ben", "Clara", "David", "Emma", "Felix"), ("red", "blue")
lines = [
    {"context": f"{name} has a {colour} hat.", "question": f"What has {name}?", "answer": f"a {colour} hat"}
    for name in names for colour in colours
]
open("questions.jsonl", "w").write("".join(json.dumps(line) + chr(10) for line in lines))
tokenizer = tokenizers.ByteLevelBPETokenizer()
tokenizer.train_from_iterator([], vocab_size=300, special_tokens=["<end>"])
fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, eos_token="<end>", pad_token="<end>")
fast.save_pretrained("model")
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=len(fast), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
    bos_token_id=None, eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id,
)
transformers.LlamaForCausalLM(config).save_pretrained("model")
"""
ADAPTER = """
model = { name = "model", dtype = "float32" }
prompt = { shots = 1, max_new_tokens = 2 }
compressor = { ratio = 4 }
[training]
examples = 8
epochs = 3
batch_size = 4
vocabulary_rows = 16
negatives = 16
valid_share = 0.2
valid_questions = 1
"""
ROWS = """
rows = [f"{'rgb'[i % 3]},{'SML'[i % 3]},{20 + i % 7}" for i in range(48)]
open("rows.csv", "w").write(chr(10).join(["color,size,age", *rows, ""]))
"""
DISC = """
model = { dim = 8, num_heads = 1, depth = 1 }
warm_start = { max_epochs = 3, min_steps = 4, batch_size = 16 }
feedback = { cycles = 2, steps_per_cycle = 3, batch_size = 8, real_batch_size = 8 }
discriminator = { dim = 8, num_heads = 1, folds = 2, max_epochs = 1 }
"""
NO_PLOTS = """
import matplotlib.figure  # to draw takes longer than such a training
matplotlib.figure.Figure.savefig = lambda *given, **named: None
"""
CHEAP_FORESTS = """
from disc_train import train
train.validation_auc = lambda real, fake, seed: 0.5 + abs(fake.mean() % 1 - 0.5)
"""
DIVERSITY = """
model = { embedding = 4, encoder = 4, decoder = 8, latent = 2 }
gan = { warmup_epochs = 1, length = 2, width = 4 }
training = { epochs = 3, batch_size = 32, log_every = 2, quality_every = 3, quality_examples = 2 }
diagnostics = { num_samples = 1 }
"""
STORIES = ("make-stories", "--out", "data", "--category", "simple", "--category", "dense", "--train", "4")
STORIES += ("--valid", "1", "--valid-b", "1", "--test", "1")
QA = """
network = { dim = 8, num_rounds = 2 }
training = { epochs = 3, batch_size = 32 }
"""
VOICE = """
data = { segment_seconds = 0.5, batch_size = 2 }
training = { epochs = 3, warm_up = 0.5, validate_every = 3, valid_utterances = 1 }
diagnostics = { num_samples = 1 }
[model]
content = { dim = 8, layers = 1, bottleneck = 4 }
speaker = { channels = 8, layers = 1, dim = 8 }
generator = { dim = 8, layers = 1 }
[discriminators]
mpd_channels = [2]
periods = [2]
mrd_channels = 2
segment_seconds = 0.25
resolutions = [[256, 64, 256]]
"""
VOICES = ("prepare", "--demo", "--voices", "2", "--utterances", "4", "--out", "data")
TICKETS = ("prepare", "--demo", "--dialogues", "20", "--length", "16", "--out", "data")

TRAINERS = [
    Trainer(
        "adapter-stage1", "adapter_stage1", TORCH, ADAPTER, ("--data", "questions.jsonl"), QUESTIONS,
        preset=("small", "training.epochs", 1, 2),
    ),
    Trainer(
        "disc-train", "disc_train", TORCH, DISC, ("rows.csv",), ROWS,
        preset=("small", "feedback.cycles", 2, 5), before=CHEAP_FORESTS,
    ),
    Trainer(
        "diversity-finetune", "diversity_finetune", KERAS, DIVERSITY, ("data",), TICKETS,
        preset=("tiny", "training.epochs", 7, 10),
    ),
    Trainer(
        "qa-train", "qa_train", TORCH, QA, ("data",), STORIES,
        preset=("babi", "training.epochs", 120, 12), model="transformer",
    ),
    Trainer(
        "qa-train", "qa_train", KERAS, QA, ("data",), STORIES,
        preset=("babi", "training.epochs", 120, 12), model="lstm",
    ),
    Trainer(
        "voice-gan", "voice_gan", TORCH, VOICE, ("data",), VOICES,
        preset=("small", "training.epochs", 2, 40),
    ),
]  # fmt: skip
READERS = [Tool("ablate", "ablate"), Tool("diag", "diag")]
TOOLS = [*{trainer.command: Tool(trainer.command, trainer.module) for trainer in TRAINERS}.values(), *READERS]


@pytest.fixture(scope="module", params=TOOLS, ids=str)
def tool(request: pytest.FixtureRequest) -> Tool:
    return request.param


@pytest.fixture(params=READERS, ids=str)
def reader(request: pytest.FixtureRequest) -> Tool:
    """A tool that reads runs and trains nothing itself."""
    return request.param


@pytest.fixture(scope="module")
def light(fork_server: Any) -> Any:
    """A fork server for commands that import nothing heavy."""
    return fork_server("typer.main", "pydantic")


@pytest.fixture(scope="module")
def call(light: Any) -> Callable[..., Any]:
    """`call(tool, *arguments)`: the ended process of a command."""

    def ended(tool: Tool, *arguments: object, environment: dict[str, str] | None = None, **options: Any) -> Any:
        plain = {"NO_COLOR": "1", "TERM": "dumb"} | (environment or {})
        process = light.start(tool.program, *arguments, environment=plain, **options)
        process.wait()
        return process

    return ended


@dataclass(frozen=True)
class Workshop:
    """A working directory with a trainer's data and recipe, where commands are run."""

    trainer: Trainer
    path: Path
    server: Any

    def run(self, *arguments: object, before: str = "", plots: bool = False, **options: Any) -> Any:
        """The ended process of a command line; `before` is Python source to run first."""
        program = f"{self.trainer.before}\n{'' if plots else NO_PLOTS}\n{before}\n{self.trainer.program}"
        process = self.server.start(program, *arguments, **{"directory": self.path, **options})
        process.wait()
        return process

    def train(self, out: Path, *options: object, **more: Any) -> Any:
        """The ended process of the smallest training."""
        return self.run("train", *self.trainer.options, "--out", out, *options, **more)


@pytest.fixture(scope="module")
def trackio_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where Trackio, which reads the variable when it is imported, keeps its files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        yield Path(os.environ["TRACKIO_DIR"])


@pytest.fixture(scope="module", params=TRAINERS, ids=str)
def workshop(
    request: pytest.FixtureRequest, fork_server: Any, trackio_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Workshop:
    trainer: Trainer = request.param
    path = tmp_path_factory.mktemp(str(trainer))
    (path / "recipe.toml").write_text(trainer.recipe)
    server = fork_server(*trainer.framework)
    made = trainer.make_data
    program, arguments = (made, ()) if isinstance(made, str) else (trainer.program, made)
    process = server.start(program, *arguments, directory=path)
    assert process.wait() == 0, process.err
    return Workshop(trainer, path, server)


@dataclass(frozen=True)
class Finished:
    """A finished run, and what its training said. Read it; to change it, change a copy."""

    path: Path
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.path / "run.json").read_text())


@pytest.fixture(scope="module")
def finished(workshop: Workshop) -> Finished:
    out = workshop.path / "unbroken" / "run"
    process = workshop.train(out, plots=True)
    assert process.status == 0, process.err
    return Finished(out, process.out, process.err)
