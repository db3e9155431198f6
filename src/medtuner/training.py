"""The training loop: token-budget batches, bf16 autocast, evaluation, checkpoints, and an exact resume.

    loop = TrainingLoop(job, ranks=ranks, observer=print)
    result = loop.run()                     # raises RunInterrupted after saving when asked to stop

A step is one optimiser update of one global batch, whose parts are spread over ranks and accumulated. The loss is the sum
of weighted cross entropies divided by the summed weights of the labelled subwords of the global batch, whatever the parts.
Random numbers are reseeded from (seed, step, part) and the order of batches from (seed, epoch), so weights, optimiser and
step are the whole state: on a CPU an interrupted run ends bit for bit where an undisturbed one does.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medtuner.batches import IGNORED, BatchItem, collate, derive_seed, plan_epoch, split_batch
from medtuner.checkpoints import Checkpoint, CheckpointFolder
from medtuner.config import TrainSection
from medtuner.distributed import Ranks
from medtuner.documents import Document
from medtuner.errors import MedtunerError, RunInterrupted
from medtuner.evaluation import ScoreOptions, evaluate
from medtuner.models import head_parameters
from medtuner.prediction import Predictor, autocast, predict_in_shares
from medtuner.signals import StopRequest

_LAYER = re.compile(r"\.(?:layer|layers|h|block)\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """All that a loop works on; `dev` may be empty, and then the last weights count as the best.

    On the first rank `before_save` may refuse a checkpoint by raising, and `after_save` hears of each that stands.
    """

    options: TrainSection
    seed: int
    items: Sequence[BatchItem]
    dev: Sequence[Document]
    predictor: Predictor
    checkpoints: Path
    stop: StopRequest
    before_save: Callable[[], object]
    after_save: Callable[[int], object]


@dataclass(slots=True, kw_only=True)
class LoopState:
    """What a checkpoint holds beside weights and optimiser."""

    best_step: int = 0
    best_f1: float = -1.0
    evaluated_step: int = 0
    evaluations_without_gain: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What the loop tells its observer: a logged step, or an evaluation (then `dev` holds scores)."""

    step: int
    num_steps: int
    epoch: float
    tokens: int
    seconds: float
    loss: float | None = None
    lr: float | None = None
    tokens_per_s: float | None = None
    dev: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Interval:
    """Sums since the last logged step."""

    losses: list[torch.Tensor] = field(default_factory=list)
    weight: float = 0.0
    tokens: int = 0
    started: float = field(default_factory=time.perf_counter)


class TrainingLoop:
    """One run's training; `run` returns its final state."""

    def __init__(self, job: TrainingJob, *, ranks: Ranks, observer: Callable[[Event], None]) -> None:
        self._job = job
        self._ranks = ranks
        self._observer = observer
        self._model = job.predictor.model
        self._parameters = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer, self._base_rates = build_optimizer(self._model, job.options)
        self._folder = CheckpointFolder(job.checkpoints, keep=job.options.keep_checkpoints)
        self._steps_per_epoch = len(self._plan(0))
        self.num_steps = job.options.epochs * self._steps_per_epoch
        self.step = 0
        self.state = LoopState()
        self._saved: tuple[int, LoopState] | None = None
        self._interval = _Interval()

    def resume(self) -> Checkpoint | None:
        """Go back to the newest whole checkpoint, if there is one; call it before `run`."""
        checkpoint = self._folder.latest()
        if checkpoint is None:
            return None
        self._model.load_state_dict(checkpoint.load_weights())
        self._optimizer.load_state_dict(checkpoint.load_optimizer())
        self.step = checkpoint.step
        saved = {name: value for name, value in checkpoint.state.items() if name != "step"}
        self.state = LoopState(**saved)
        self._saved = (self.step, replace(self.state))
        return checkpoint

    @property
    def damaged_checkpoints(self) -> Sequence[Path]:
        """Return the checkpoints that failed verification."""
        return self._folder.damaged

    def run(self) -> LoopState:
        """Train to the end and return the final state, the model holding the best weights on dev.

        Raises `RunInterrupted` after saving when a stop is requested on any rank.
        """
        self._model.train()
        batches = self._batches_from(self.step)
        self._interval = _Interval()
        while True:
            if self._evaluation_due() and not self._evaluate():
                self._save_and_leave()
            if self.step >= self.num_steps or self._out_of_patience():
                break
            if self._ranks.agree_any(self._job.stop.requested):
                self._save_and_leave()
            self._train_step(next(batches))
            if self.step % self._job.options.checkpoint_every == 0 and not self._evaluation_due():
                self._save()
        self._load_best()
        return self.state

    def _plan(self, epoch: int) -> list[list[int]]:
        budget = self._job.options.tokens_per_batch
        return plan_epoch(self._job.items, tokens_per_batch=budget, seed=self._job.seed, epoch=epoch)

    def _batches_from(self, step: int) -> Iterator[list[int]]:
        while step < self.num_steps:
            epoch, done = divmod(step, self._steps_per_epoch)
            for batch in self._plan(epoch)[done:]:
                yield batch
                step += 1

    def _train_step(self, batch: Sequence[int]) -> None:
        job, ranks, items = self._job, self._ranks, self._job.items
        parts = split_batch(batch, items, tokens_per_part=job.options.tokens_per_rank, size=ranks.size)
        weight = sum(items[index].weight for index in batch)
        rate = self._set_learning_rates()
        loss_sum = torch.zeros((), device=ranks.device)
        for number in range(ranks.rank, len(parts), ranks.size):
            if parts[number]:
                torch.manual_seed(derive_seed(job.seed, self.step, number))
                loss_sum += self._accumulate([items[index] for index in parts[number]], weight)
        ranks.sum_gradients(self._parameters)
        if job.options.clip:
            nn.utils.clip_grad_norm_(self._parameters, job.options.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        tokens = sum(len(items[index].ids) for index in batch)
        self.state.tokens += tokens
        self._log(loss_sum, weight, tokens, rate)

    def _accumulate(self, items: Sequence[BatchItem], weight: float) -> torch.Tensor:
        """Add the gradients of one part and return its summed loss, still on the device."""
        predictor = self._job.predictor
        tensors = collate(items, pad_id=predictor.encoder.pad_id, device=predictor.device)
        with autocast(predictor.device, predictor.precision):
            logits_BTC = self._model(input_ids=tensors.ids_BT, attention_mask=tensors.mask_BT).logits
        losses_BT = tag_losses(logits_BTC.float(), tensors.tags_BT, tensors.unknown_BN)
        loss = (losses_BT * tensors.weights_BT).sum()
        (loss / weight).backward()
        return loss.detach()

    def _set_learning_rates(self) -> float:
        """Warm up linearly, then decay linearly to zero; return the largest encoder rate of this step."""
        warmup = max(1, round(self.num_steps * self._job.options.warmup))
        if self.step < warmup:
            factor = (self.step + 1) / warmup
        else:
            factor = (self.num_steps - self.step) / max(1, self.num_steps - warmup)
        for group, rate in zip(self._optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor
        return self._job.options.lr * factor

    def _log(self, loss_sum: torch.Tensor, weight: float, tokens: int, rate: float) -> None:
        interval = self._interval
        interval.losses.append(loss_sum)
        interval.weight += weight
        interval.tokens += tokens
        if self.step % self._job.options.log_every and self.step != self.num_steps:
            return
        (loss,) = self._ranks.sum_numbers(float(torch.stack(interval.losses).sum()))
        seconds = time.perf_counter() - interval.started
        self.state.seconds += seconds
        self._observer(
            self._event(loss=loss / interval.weight, lr=rate, tokens_per_s=interval.tokens / max(seconds, 1e-9))
        )
        self._interval = _Interval()

    def _event(
        self,
        *,
        loss: float | None = None,
        lr: float | None = None,
        tokens_per_s: float | None = None,
        dev: Mapping[str, Any] | None = None,
    ) -> Event:
        return Event(
            step=self.step,
            num_steps=self.num_steps,
            epoch=self.step / self._steps_per_epoch,
            tokens=self.state.tokens,
            seconds=self.state.seconds,
            loss=loss,
            lr=lr,
            tokens_per_s=tokens_per_s,
            dev=dev,
        )

    def _evaluation_due(self) -> bool:
        every = self._job.options.evaluate_every or self._steps_per_epoch
        at_step = self.step > 0 and (self.step % every == 0 or self.step == self.num_steps)
        return at_step and self.state.evaluated_step < self.step

    def _evaluate(self) -> bool:
        """Score the dev set, note whether it is the best so far, save; return False when asked to stop midway."""
        started = time.perf_counter()
        if self._job.dev:
            scores = self._score_dev()
            if scores is None:
                return False
            f1 = scores["strict"]["micro"]["f1"]
            self.state.evaluations_without_gain += 1
            if f1 > self.state.best_f1:
                self.state.best_f1, self.state.best_step = f1, self.step
                self.state.evaluations_without_gain = 0
            self._observer(self._event(dev=scores))
        else:
            self.state.best_step = self.step
        self.state.evaluated_step = self.step
        self._save()
        self._interval.started += time.perf_counter() - started  # tokens/s are those of training alone
        return True

    def _score_dev(self) -> Mapping[str, Any] | None:
        """Predict and score the dev set; None when any rank was asked to stop."""
        job = self._job
        predicted = predict_in_shares(job.predictor, job.dev, ranks=self._ranks, should_stop=lambda: job.stop.requested)
        if predicted is None:
            return None
        return evaluate(job.dev, predicted, options=ScoreOptions(bootstrap=0, seed=job.seed))

    def _out_of_patience(self) -> bool:
        patience = self._job.options.patience
        return patience > 0 and self.state.evaluations_without_gain >= patience

    def _save(self) -> None:
        if self._saved == (self.step, self.state):
            return
        refusal: MedtunerError | None = None
        if self._ranks.is_main:
            try:
                self._job.before_save()
                self._folder.save(
                    step=self.step,
                    weights=self._model.state_dict(),
                    optimizer=self._optimizer.state_dict(),
                    state=asdict(self.state),
                )
                self._job.after_save(self.step)
            except MedtunerError as error:
                refusal = error
        # No rank goes on, or leaves, before the checkpoint stands.
        first_refusal = self._ranks.gather(refusal)[0]
        if first_refusal is not None:
            raise first_refusal
        self._saved = (self.step, replace(self.state))

    def _save_and_leave(self) -> None:
        self._save()
        raise RunInterrupted(f"stopped at step {self.step} of {self.num_steps}, saved")

    def _load_best(self) -> None:
        best = self._folder.read(self.state.best_step) or self._folder.latest()
        assert best is not None, "the checkpoint of the last evaluation has just been written or read"
        self._model.load_state_dict(best.load_weights())


def build_optimizer(model: nn.Module, options: TrainSection) -> tuple[torch.optim.AdamW, list[float]]:
    """Return AdamW (Loshchilov & Hutter 2019) and the base learning rate of each of its parameter groups.

    The head has its own rate. Encoder layers below the top one learn slower by `layer_decay` a layer (Howard & Ruder
    2018), embeddings slowest. Biases and normalisation weights are not decayed.
    """
    head = head_parameters(model)
    depths = {name: int(match[1]) for name, _ in model.named_parameters() if (match := _LAYER.search(name))}
    num_layers = max(depths.values(), default=-1) + 1
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        below_top = num_layers - 1 - depths[name] if name in depths else num_layers if "embed" in name else 0
        rate = options.head_lr if name in head else options.lr * options.layer_decay**below_top
        decay = options.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    settings = [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]
    return torch.optim.AdamW(settings, fused=True), [rate for rate, _ in groups]


def tag_losses(logits_BTN: torch.Tensor, tags_BT: torch.Tensor, unknown_BN: torch.Tensor | None) -> torch.Tensor:
    """Return the loss of each subword, [B, T]: minus the log-probability of its tag, 0 where that is `IGNORED`.

    Where the tag is O, the probabilities of the window's `unknown_BN` tags count for O: its annotators did not look for
    those types, so their absence says nothing (partial annotation; Greenberg et al. 2018, "Marginal Likelihood Training
    of BiLSTM-CRF for Biomedical Named Entity Recognition from Disjoint Label Sets", here without the CRF).
    """
    shape = tags_BT.shape
    losses = functional.cross_entropy(
        logits_BTN.flatten(0, 1), tags_BT.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(shape)
    if unknown_BN is None:
        return losses
    outside_BN = unknown_BN.clone()
    outside_BN[:, 0] = True  # O itself
    kept_BTN = logits_BTN.masked_fill(~outside_BN.unsqueeze(1), float("-inf"))
    open_BT = logits_BTN.logsumexp(-1) - kept_BTN.logsumexp(-1)
    return torch.where(tags_BT == 0, open_BT, losses)
