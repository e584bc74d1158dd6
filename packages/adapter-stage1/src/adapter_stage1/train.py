"""Training the adapter: load, step, validate, save.

Shape legend: B prompts, S tokens of the longest, U different tokens of a step, K latent width, D embedding width,
V vocabulary rows, C candidate rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adapter_stage1.compress import Linear, explained_variance
from adapter_stage1.config import TrainRecipe
from adapter_stage1.data import Example
from adapter_stage1.generate import answer_prompts
from adapter_stage1.language_model import LanguageModel
from adapter_stage1.losses import Balance, distill_loss, hidden_loss, next_token_loss, recon_loss, token_ce_loss
from adapter_stage1.memory import fits_memory, largest_batch
from adapter_stage1.model import Adapter, Rows, nearest_rows
from adapter_stage1.prompts import PromptFormat
from adapter_stage1.reading import Reading, read
from adapter_stage1.score import score
from trainworks.checkpoint import Checkpoints
from trainworks.console import Interrupted, info, progress
from trainworks.metrics import MetricsWriter
from trainworks.run import Run
from trainworks.seeding import rng
from trainworks.signals import StopFlag
from trainworks.torch import check_finite, load_state, load_weights, save_state, save_weights
from trainworks.tracking import Sink

MONITOR, TIE_BREAK = "valid/f1", "valid/mse"
IGNORED = -100
"""A place without a target."""
WEIGHTS, STATE = "adapter.safetensors", "optimizer.pt"


@dataclass(frozen=True)
class Setting:
    """All that training needs, read and tokenised.

    Attributes:
        prompts: token ids of the training prompts, without worked examples.
        answers: token ids of their first gold answers, with the stop string (for `teacher-forced` alone).
        valid: validation examples, and `valid_prompts` their prompts as evaluation poses them.
        frequencies_V: how often each vocabulary row occurs in the training prompts.
        latents_VK: latents of all vocabulary rows, rounded to float16 as they would be sent.
        residual: mean squared distance of a row from the compressor's own decoding.
    """

    language_model: LanguageModel
    compressor: Linear
    format: PromptFormat
    prompts: list[list[int]]
    answers: list[list[int]]
    valid: list[Example]
    valid_prompts: list[list[int]]
    frequencies_V: np.ndarray
    latents_VK: Tensor
    residual: float

    @property
    def vocabulary(self) -> Rows:
        return Rows(self.language_model.table, self.latents_VK)


@dataclass
class Loop:
    """What of a loop lies on disk or listens."""

    run: Run
    metrics: MetricsWriter
    checkpoints: Checkpoints
    stop: StopFlag
    sink: Sink


def train(setting: Setting, recipe: TrainRecipe, loop: Loop, adapter: Adapter) -> dict[str, float]:
    """Train the adapter in place, from the run's last checkpoint if there is one.

    Returns:
        The validation metrics of the best checkpoint, whose weights the adapter then has.

    Raises:
        NonFinite: a loss or gradient is not finite; the step was not taken.
        Interrupted: a signal came; a checkpoint of the last whole step was saved.
    """
    config, seed = recipe.training, recipe.seed
    optimizer = torch.optim.Adam([p for p in adapter.parameters() if p.requires_grad], lr=config.learning_rate)
    balance = Balance(recipe.objectives.balance, recipe.objectives.weights())
    steps_an_epoch = -(-len(setting.prompts) // config.batch_size)
    total, step = config.epochs * steps_an_epoch, 0
    unvalidated: dict[str, float] | None = None
    num_parts = recipe.grad_accum
    if (loop.checkpoints.directory / "last").exists():
        folder, meta = loop.checkpoints.load("last")
        load_weights(folder / WEIGHTS, adapter)
        optimizer.load_state_dict(load_state(folder / STATE))
        step, balance.running, unvalidated = meta["step"], meta["balance"], meta["unvalidated"]
        num_parts = meta["num_parts"]  # the order of sums depends on it, and another GPU may hold more
    loop.metrics.truncate_after(step)
    num_parts = num_parts or find_num_parts(setting, recipe, adapter)

    def save(metrics: dict[str, float], unvalidated: dict[str, float] | None = None) -> None:
        def write(folder: Path) -> None:
            save_weights(folder / WEIGHTS, adapter)
            save_state(folder / STATE, optimizer.state_dict())

        meta = {"metrics": metrics, "balance": balance.running, "unvalidated": unvalidated, "num_parts": num_parts}
        loop.checkpoints.publish(step, write, meta)

    def end_epoch(values: dict[str, float]) -> None:
        """Validate, log and save. A signal meanwhile leaves the last step's values, to do this first on `--resume`."""
        try:
            found = validate(setting, adapter, recipe, loop.stop.raise_if_set)
        except Interrupted:
            save({}, values)
            loop.stop.raise_if_set(f"step {step} is saved; --resume goes on from it")
        epoch = step // steps_an_epoch
        info(
            f"epoch {epoch}/{config.epochs}: loss {values['train/loss']:.4f}, rebuilt tokens "
            f"{found['valid/token_recovery']:.2%}, F1 {found['valid/f1']:.1f}"
        )
        log(values | found, epoch)
        save(found)

    def log(values: dict[str, float], epoch: int) -> None:
        loop.metrics.write(step, values, epoch=epoch)
        loop.sink.log(step, values)

    with progress(total, "training", start=step) as bar:
        if unvalidated:
            loop.metrics.truncate_after(step - 1)
            end_epoch(unvalidated)
        while step < total:
            if loop.stop:
                save({})
                loop.stop.raise_if_set(f"step {step} is saved; --resume goes on from it")
            epoch, place = divmod(step, steps_an_epoch)
            order = rng(seed, "order", epoch).permutation(len(setting.prompts))
            batch = order[place * config.batch_size : (place + 1) * config.batch_size].tolist()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config.learning_rate, step, total)
            optimizer.zero_grad()
            values = backward(setting, recipe, adapter, balance, batch, step, num_parts)
            norm = torch.nn.utils.clip_grad_norm_(adapter.parameters(), config.clip_norm)
            last = loop.checkpoints.directory / "last"
            for name, value in (("loss", values["train/loss"]), ("gradient norm", norm)):
                check_finite(value, name=name, step=step, checkpoint=last if last.exists() else None)
            optimizer.step()
            balance.end_step()
            step += 1
            values |= {"train/grad_norm": norm.item()}
            if step % steps_an_epoch:
                log(values, epoch)
            else:
                end_epoch(values)
            bar.advance(1, f"loss {values['train/loss']:.3f}")
    folder, meta = loop.checkpoints.load("best")
    load_weights(folder / WEIGHTS, adapter)
    return meta["metrics"]


def backward(
    setting: Setting,
    recipe: TrainRecipe,
    adapter: Adapter,
    balance: Balance,
    batch: Sequence[int],
    step: int,
    num_parts: int,
) -> dict[str, float]:
    """Add the gradients of a batch of prompts to the adapter's parameters.

    Args:
        num_parts: parts that the batch goes through the language model in.

    Returns:
        Each objective's raw and weighted magnitude, and their weighted sum "train/loss".
    """
    table_VD = setting.language_model.table
    weights = {name: weight for name, weight in recipe.objectives.weights().items() if weight}
    random = rng(recipe.seed, "rows", step)
    num_drawn = min(recipe.training.vocabulary_rows + recipe.training.negatives, len(table_VD))
    drawn = random.choice(len(table_VD), num_drawn, replace=False)
    extra = drawn[: recipe.training.vocabulary_rows]
    words = np.concatenate([setting.prompts[n] + setting.answers[n] for n in batch])
    candidates = torch.from_numpy(np.union1d(words, drawn)).to(table_VD.device)
    rows = setting.vocabulary.take(candidates)
    raw: dict[str, float] = {}
    weighted: dict[str, float] = {}

    def add(losses: dict[str, Tensor], shares: dict[str, float]) -> None:
        parts = balance.weigh(losses, shares, adapter.out.weight)
        for name, loss in losses.items():
            raw[name] = raw.get(name, 0.0) + shares[name] * loss.item()
            weighted[name] = weighted.get(name, 0.0) + parts[name].item()
        torch.stack(list(parts.values())).sum().backward()

    if weights.keys() & {"recon", "token-ce"}:
        losses = table_losses(setting, adapter, batch, extra, candidates, rows, weights)
        add(losses, dict.fromkeys(losses, 1.0))
    if weights.keys() - {"recon", "token-ce"}:
        lengths = np.array([len(setting.prompts[n]) for n in batch])
        targets = dict.fromkeys(weights, lengths)
        targets["prompt-ce"] = lengths - 1
        targets["teacher-forced"] = np.array([len(setting.answers[n]) for n in batch])
        for part in np.array_split(np.argsort(lengths, kind="stable"), min(num_parts, len(batch))):
            losses = language_losses(setting, recipe, adapter, [batch[n] for n in part], rows, weights)
            add(losses, {name: float(targets[name][part].sum() / targets[name].sum()) for name in losses})
    named = {f"train/{name}/raw": value for name, value in raw.items()}
    named |= {f"train/{name}/weighted": value for name, value in weighted.items()}
    return {"train/loss": math.fsum(weighted.values())} | named


def find_num_parts(setting: Setting, recipe: TrainRecipe, adapter: Adapter) -> int:
    """Parts of a batch such that each, even of the longest prompts, fits into the GPU's memory; 1 on the CPU."""
    device = setting.language_model.device
    weights = {name: weight for name, weight in recipe.objectives.weights().items() if weight}
    if device.type != "cuda" or not weights.keys() - {"recon", "token-ce"}:
        return 1
    longest = sorted(range(len(setting.prompts)), key=lambda n: len(setting.prompts[n] + setting.answers[n]))
    candidates = torch.randperm(len(setting.language_model.table), device=device)[: recipe.training.negatives]

    def try_step(size: int) -> None:
        words = torch.tensor([token for n in longest[-size:] for token in setting.prompts[n]], device=device)
        rows = setting.vocabulary.take(torch.cat([candidates, words]).unique())
        losses = language_losses(setting, recipe, adapter, longest[-size:], rows, weights)
        torch.stack(list(losses.values())).sum().backward()
        adapter.zero_grad()

    limit = min(recipe.training.batch_size, len(longest))
    return -(-limit // largest_batch(lambda size: fits_memory(lambda: try_step(size), device), limit))


def table_losses(
    setting: Setting,
    adapter: Adapter,
    batch: Sequence[int],
    extra: np.ndarray,
    candidates_C: Tensor,
    candidates: Rows,
    wanted: dict[str, float],
) -> dict[str, Tensor]:
    """`recon` and `token-ce`, which need the embedding table and no forward pass of the language model.

    A token is rebuilt alike wherever it stands, so each different one is rebuilt once and weighed by its count. Half
    of the weight goes to the batch's tokens, half to the `extra` rows of the vocabulary, if there are any.
    """
    device = candidates_C.device
    rows, counts = np.unique(np.concatenate([setting.prompts[n] for n in batch]), return_counts=True)
    weights = counts / counts.sum()
    if len(extra):
        rows = np.concatenate([rows, extra])
        weights = np.concatenate([weights, np.full(len(extra), 1 / len(extra))]) / 2
    rows_U, weights_U = torch.from_numpy(rows).to(device), torch.from_numpy(weights).float().to(device)
    latents_UK = setting.latents_VK[rows_U]
    rebuilt_UD = adapter.rebuild(latents_UK)
    losses = {}
    if "recon" in wanted:
        losses["recon"] = recon_loss(rebuilt_UD, setting.language_model.table[rows_U], weights_U)
    if "token-ce" in wanted:
        target_U = torch.searchsorted(candidates_C, rows_U)
        losses["token-ce"] = token_ce_loss(adapter.row_logits(rebuilt_UD, latents_UK, candidates), target_U, weights_U)
    return losses


def language_losses(
    setting: Setting,
    recipe: TrainRecipe,
    adapter: Adapter,
    batch: Sequence[int],
    candidates: Rows,
    wanted: dict[str, float],
) -> dict[str, Tensor]:
    """The objectives that send rebuilt prompts through the language model."""
    language_model, layers = setting.language_model, recipe.objectives.hidden_layers
    model = language_model.model
    tokens_BS, is_prompt_BS = padded([setting.prompts[n] for n in batch], language_model.device)
    rows_U, place = tokens_BS.unique(return_inverse=True)
    latents_UK = setting.latents_VK[rows_U]
    rebuilt_UD = adapter.snap(adapter.rebuild(latents_UK), latents_UK, candidates)
    rebuilt_BSD = rebuilt_UD[place].to(model.dtype)
    losses = {}
    if wanted.keys() & {"prompt-ce", "distill", "hidden"}:
        mask, keep = is_prompt_BS.long(), "hidden" in wanted
        student = model(inputs_embeds=rebuilt_BSD, attention_mask=mask, output_hidden_states=keep)
        if "prompt-ce" in wanted:
            losses["prompt-ce"] = next_token_loss(student.logits, tokens_BS, is_prompt_BS)
        if wanted.keys() & {"distill", "hidden"}:
            with torch.no_grad():
                teacher = model(input_ids=tokens_BS, attention_mask=mask, output_hidden_states=keep)
            if "distill" in wanted:
                losses["distill"] = distill_loss(student.logits, teacher.logits, is_prompt_BS)
            if "hidden" in wanted:
                mine, true = ([output.hidden_states[n] for n in layers] for output in (student, teacher))
                losses["hidden"] = hidden_loss(mine, true, is_prompt_BS)
    if "teacher-forced" in wanted:
        losses["teacher-forced"] = teacher_forced_loss(setting, batch, rebuilt_UD, rows_U)
    return losses


def teacher_forced_loss(setting: Setting, batch: Sequence[int], rebuilt_UD: Tensor, rows_U: Tensor) -> Tensor:
    """Objective 3: the loss on the answer, whose own true embeddings stand in the input. Evaluation has none of them,
    which is why this teaches less than it seems to."""
    language_model = setting.language_model
    device = language_model.device
    inputs, golds = [], []
    for n in batch:
        place = torch.searchsorted(rows_U, torch.tensor(setting.prompts[n], device=device))
        golds.append(torch.tensor(setting.answers[n], device=device))
        inputs.append(torch.cat([rebuilt_UD[place], language_model.table[golds[-1]]]))
    longest = max(map(len, golds))
    # Answers end where the batch does, so that the output layer needs no logits of the prompts.
    _, logits_BAV = read(language_model, Reading.nothing(len(batch), device), inputs, longest + 1)
    target_BA = torch.stack([F.pad(gold, (longest - len(gold), 0), value=IGNORED) for gold in golds])
    return F.cross_entropy(logits_BAV[:, :-1].float().flatten(0, 1), target_BA.flatten(), ignore_index=IGNORED)


def padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, (B, S), and which of them are tokens, (B, S) bool."""
    longest = max(map(len, sequences))
    tokens = torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in sequences], device=device)
    lengths = torch.tensor([len(tokens) for tokens in sequences], device=device)
    return tokens, torch.arange(longest, device=device) < lengths[:, None]


@torch.no_grad()
def validate(setting: Setting, adapter: Adapter, recipe: TrainRecipe, check: Callable[[], None]) -> dict[str, float]:
    """Validation prompts rebuilt and answered, through the code that evaluation uses."""
    language_model = setting.language_model
    table_VD = language_model.table
    rows, counts = np.unique(np.concatenate(setting.valid_prompts), return_counts=True)
    rows_U = torch.from_numpy(rows).to(table_VD.device)
    raw_UD = torch.cat([adapter.rebuild(part) for part in setting.latents_VK[rows_U].split(4096)])
    rebuilt_VD = torch.zeros_like(table_VD)
    rebuilt_VD[rows_U] = adapter(setting.latents_VK[rows_U], setting.vocabulary)
    answers = answer_prompts(
        language_model,
        setting.valid_prompts,
        lambda tokens: rebuilt_VD[tokens],
        setting.format,
        max_new_tokens=recipe.prompt.max_new_tokens,
        check=check,
    )
    scores = score([answer.text for answer in answers], setting.valid)
    true_UD, weights = table_VD[rows_U].cpu().numpy(), counts / counts.sum()
    right = (nearest_rows(raw_UD, table_VD) == rows_U).cpu().numpy()
    return {
        "valid/f1": scores["f1"],
        "valid/exact_match": scores["exact_match"],
        "valid/token_recovery": float(weights @ right),
        "valid/explained_variance": explained_variance(true_UD, raw_UD.cpu().numpy(), weights),
        "valid/mse": float(weights @ np.square(rebuilt_VD[rows_U].cpu().numpy() - true_UD).mean(1)),
    }


def learning_rate(peak: float, step: int, total: int) -> float:
    """Linear warm-up over the first tenth of `total` steps, then cosine decay to 3 % of the peak."""
    warm_up = max(1, total // 10)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, total - warm_up)
    return peak * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))


def build_adapter(setting: Setting, recipe: TrainRecipe) -> Adapter:
    """An adapter that has learned nothing yet: the compressor's decoder."""
    from trainworks.torch import seed_torch

    seed_torch(recipe.seed, "init")
    width, device = setting.language_model.table.shape[1], setting.language_model.device
    adapter = Adapter(setting.latents_VK.shape[1], width, recipe.adapter)
    adapter.start_from(setting.compressor, setting.latents_VK.cpu(), setting.residual)
    return adapter.to(device)
