"""The training loop of the dual encoder: batches, loss, averaged weights, early stopping.

State on disk is one folder, `OUT/training`: precomputed features, a checkpoint after every epoch,
and the curve. A stopped run continues after its last whole epoch, with the same result as a run
that was not stopped. Reading data sets and choosing the photos is not done here.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from indexes.arrays import Ints
from indexes.errors import RetrievalError
from indexes.lazy_imports import load_torch
from retrieval.encoders.mini.image import fast_dtype
from retrieval.evaluation.metrics import inner_products, rank, recall
from retrieval.training import losses
from retrieval.training.augmentation import FreshViews
from retrieval.training.captioned_images import CaptionedImages
from retrieval.training.checkpoint import State, read_checkpoint, trained_tensors, write_checkpoint
from retrieval.training.dual_encoder import DualEncoder
from retrieval.training.history import Epoch, History
from retrieval.training.optimiser import cosine_schedule, freeze, parameter_groups
from retrieval.training.precomputed import Precomputed, encode_by_length, precompute
from retrieval.training.run import TrainingRun

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = load_torch()
    nn = torch.nn


class Trainer:
    """One training run. `run` leaves the best model in its folder `out`."""

    def __init__(
        self,
        model: DualEncoder,
        training: CaptionedImages,
        held_out: CaptionedImages,
        settings: TrainingRun,
        extra_texts: Sequence[str] = (),
        on_epoch: Callable[[Epoch], None] = lambda _: None,
    ) -> None:
        """extra_texts: texts without photos, whose similarities to each other are preserved."""
        self.model, self.training, self.held_out = model, training, held_out
        self.settings, self.on_epoch = settings, on_epoch
        self.recipe, self.seed, self.device = settings.recipe, settings.seed, settings.device
        self.checkpoint = settings.folder / "checkpoint.pt"
        self.dtype = torch.bfloat16 if self.device.startswith("cuda") else fast_dtype()
        self.begin = freeze(model, self.recipe)
        model.to(self.device)
        scale = -float(np.log(self.recipe.temperature))
        self.scale = nn.Parameter(torch.tensor(scale, device=self.device))
        self.bias = nn.Parameter(torch.tensor(-10.0, device=self.device))
        self.steps_taken = 0
        self.extra_tokens = model.tokenize(extra_texts)
        self.batch_size = min(self.recipe.batch, len(training.photos))
        self.batches_per_epoch = max(len(training.photos) // self.batch_size, 1)

    def run(self) -> History:
        """Train from the start or from the last checkpoint."""
        state = read_checkpoint(self.checkpoint, self.recipe, self.seed, self.device)
        history = History() if state is None else History.from_json(state["log"])
        if self._is_finished(history):
            return history
        folder = self.settings.folder
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*.tmp"):  # of a killed run, maybe gigabytes
            leftover.unlink()
        self.inputs: Precomputed = precompute(
            self.model,
            self.training,
            self.held_out,
            self.extra_tokens,
            self.begin,
            self.settings,
        )
        self.class_sentences = self.model.class_sentences()
        groups = parameter_groups(self.model, self.recipe, (self.scale, self.bias))
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        steps = self.recipe.epochs * self.batches_per_epoch
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: cosine_schedule(step, steps, self.recipe.warmup)
        )
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        if state is None:
            self._finish_epoch(history, -1, 0.0, time.perf_counter())
        else:
            self._restore(state)
        while not self._is_finished(history):
            epoch, started = history.epochs[-1].epoch + 1, time.perf_counter()
            self._finish_epoch(history, epoch, self._train_epoch(epoch), started)
        return history

    def _is_finished(self, history: History) -> bool:
        """Whether all epochs are done, or none of the last `patience` epochs was better."""
        if not history.epochs:
            return False
        last = history.epochs[-1].epoch
        return last + 1 >= self.recipe.epochs or last - history.best.epoch >= self.recipe.patience

    def _finish_epoch(self, history: History, epoch: int, loss: float, started: float) -> None:
        """Measure the averaged model, write it if it is the best, and write a checkpoint."""
        text_to_photo, photo_to_text = self.recalls(self.average)
        seconds = round(time.perf_counter() - started, 1)
        history.epochs.append(Epoch(epoch, round(loss, 4), text_to_photo, photo_to_text, seconds))
        if history.best is history.epochs[-1]:
            self.average.write(self.settings.out, self.recipe.gate)
        write_checkpoint(self.checkpoint, self._state(history))
        self.on_epoch(history.epochs[-1])

    def _train_epoch(self, epoch: int) -> float:
        """Train for one epoch; returns the mean loss."""
        # Both generators depend on the epoch alone, so that a run can continue after any of them.
        random = np.random.default_rng((self.seed, epoch))
        torch.manual_seed(self.seed * 1000 + epoch)
        batches = list(self._batches(random))
        total = 0.0
        self.model.train()
        for number, chosen in enumerate(batches):
            if isinstance(self.inputs.views, FreshViews) and number + 1 < len(batches):
                self.inputs.views.expect(epoch, batches[number + 1])
            if self.recipe.layers and number % 10 == 0:
                self.class_sentences = self.model.eval().class_sentences()
                self.model.train()
            with torch.autocast(
                self.device.split(":")[0], self.dtype, enabled=self.dtype != torch.float32
            ):
                loss = self._loss(epoch, chosen, random)
            if not bool(torch.isfinite(loss)):
                raise RetrievalError(
                    "Training diverged: the loss is not a number. Try lower rates, for example "
                    "--set head_rate=3e-4 --set photo_rate=3e-5."
                )
            self.optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.schedule.step()
            self._update_average()
            total += float(loss.detach())
            self.settings.progress(f"Epoch {epoch + 1}", number + 1, len(batches))
        return total / len(batches)

    def _batches(self, random: np.random.Generator) -> Iterator[Ints]:
        """Every photo once; with hard negatives, a share of a batch is near neighbours of it."""
        size, similar = self.batch_size, self.inputs.photo_sentences
        order = random.permutation(len(self.training.photos))
        hard = int(size * self.recipe.hard)
        for start in range(0, self.batches_per_epoch * size, size):
            chosen = order[start : start + size]
            if hard:
                seeds = chosen[: size - hard]
                near = similar[seeds[:hard]] @ similar.T
                near[:, seeds] = -2.0
                close = near.topk(5, 1).indices.cpu().numpy()
                picked = close[np.arange(len(close)), random.integers(0, 5, len(close))]
                chosen = np.concatenate([seeds, np.setdiff1d(picked, seeds)])
            yield chosen

    def _loss(self, epoch: int, chosen: Ints, random: np.random.Generator) -> Tensor:
        """The loss of a batch of photos, each with `recipe.captions` of its captions."""
        recipe, model, inputs = self.recipe, self.model, self.inputs
        scale = self.scale.exp().clamp(max=100.0)
        classes = model.embed_classes(self.class_sentences)
        photos = model.embed_photos(inputs.views.batch(epoch, chosen), self.begin, classes)
        target = losses.soft_target(
            inputs.photo_sentences[chosen], recipe.soft, recipe.soft_temperature
        )
        captions = np.concatenate(
            [self._draw_captions(chosen, random) for _ in range(recipe.captions)]
        )
        count = len(self.extra_tokens)
        extra = random.choice(count, min(count, len(chosen)), replace=False)
        texts = self._embed_texts(captions, extra)
        before = torch.cat([inputs.sentences[captions], inputs.extra_sentences[extra]])
        loss = recipe.class_loss * losses.class_agreement(
            photos, classes, inputs.class_probabilities[chosen].float(), scale
        )
        if recipe.keep_loss:
            loss = loss + recipe.keep_loss * losses.similarity_preservation(texts, before)
        for one_each in torch.split(texts[: len(captions)], len(chosen)):
            if recipe.loss == "sigmoid":
                pairs = losses.sigmoid(photos, one_each, scale, self.bias)
            else:
                pairs = losses.contrastive(photos, one_each, target, scale)
            loss = loss + pairs / recipe.captions
        return loss

    def _embed_texts(self, captions: Ints, extra: Ints) -> Tensor:
        """Captions and texts without photos, by their numbers, in the shared space."""
        inputs = self.inputs
        if not self.recipe.layers:  # the text tower is frozen: its sentences are precomputed
            sentences = torch.cat([inputs.sentences[captions], inputs.extra_sentences[extra]])
            rows: Tensor = self.model.text.head(sentences)
            return rows
        return self.model.embed_texts(
            [*(inputs.tokens[i] for i in captions), *(self.extra_tokens[i] for i in extra)]
        )

    def _draw_captions(self, chosen: Ints, random: np.random.Generator) -> Ints:
        """One caption of each chosen photo, by its number among all captions."""
        first = self.inputs.offsets[chosen]
        drawn: Ints = first + random.integers(0, self.inputs.offsets[chosen + 1] - first)
        return drawn

    def _update_average(self) -> None:
        """Move the averaged weights towards the trained ones (exponential moving average)."""
        # A young average moves faster: otherwise the weights before training would stay in it.
        self.steps_taken += 1
        keep = min(self.recipe.average, self.steps_taken / (self.steps_taken + 10))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
                if now.requires_grad:
                    mean.lerp_(now, 1 - keep)

    def recalls(self, model: DualEncoder) -> tuple[list[float], list[float]]:
        """R@1, R@5 and R@10 on the held-out photos, in percent, text to photo and photo to text."""
        model.eval()
        views = self.inputs.held_out_views
        with torch.inference_mode():
            if self.recipe.layers:
                texts = encode_by_length(
                    model.embed_texts, self.inputs.held_out_tokens, model.config["dim"]
                )
                classes = model.embed_classes(model.class_sentences())
            else:
                texts = model.text.head(self.inputs.held_out_sentences)
                classes = model.embed_classes(self.class_sentences)
            parts = []
            for start in range(0, len(views), 100):
                x = torch.from_numpy(np.array(views[start : start + 100])).to(self.device)
                parts.append(model.embed_photos(x, self.begin, classes))
        photos, captions = torch.cat(parts).cpu().numpy(), texts.cpu().numpy()
        photo_owners = np.arange(len(photos))
        counts = [len(captions) for captions in self.held_out.captions]
        owners = np.repeat(photo_owners, counts)
        text_to_photo = rank(inner_products(captions, photos), owners, photo_owners).ranks
        photo_to_text = rank(inner_products(photos, captions), photo_owners, owners).ranks
        first, second = (
            [round(float(recall(k)(ranks).mean()), 2) for k in (1, 5, 10)]
            for ranks in (text_to_photo, photo_to_text)
        )
        return first, second

    def _state(self, history: History) -> State:
        """Everything that `_restore` needs to continue as if the run had not been stopped."""
        return {
            "recipe": self.recipe.to_json(),
            "seed": self.seed,
            "log": history.to_json(),
            "model": trained_tensors(self.model),
            "average": trained_tensors(self.average, like=self.model),
            "scalars": [self.scale.detach(), self.bias.detach()],
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict()["last_epoch"],
            "taken": self.steps_taken,
        }

    def _restore(self, state: State) -> None:
        self.model.load_state_dict(state["model"], strict=False)
        self.average.load_state_dict(state["average"], strict=False)
        with torch.no_grad():
            for own, stored in zip((self.scale, self.bias), state["scalars"], strict=True):
                own.copy_(stored)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.last_epoch = state["schedule"]
        self.steps_taken = state["taken"]
