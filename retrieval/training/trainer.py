"""The training loop: a dual encoder learns from captioned photos.

State on disk is one folder, `OUT/training`: what was prepared, a checkpoint after every epoch, the
log and its curve. A run that was killed goes on after its last epoch; its end is the same.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from indexes.arrays import Array, Ints
from indexes.errors import RetrievalError
from indexes.lazy_imports import load_torch
from retrieval.encoders.mini.image import fast_dtype
from retrieval.evaluation.metrics import inner_products, rank, recall
from retrieval.training import losses
from retrieval.training.augmentation import FreshViews, Views, clean_views, make_views
from retrieval.training.config import Recipe
from retrieval.training.dual_encoder import DualEncoder
from retrieval.training.examples import Examples, Opener, Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = load_torch()
    nn = torch.nn


@dataclass
class Epoch:
    """One line of the log: mean loss, recalls in percent at 1, 5 and 10, seconds."""

    epoch: int
    loss: float
    text_to_photo: list[float]
    photo_to_text: list[float]
    seconds: float

    @property
    def score(self) -> float:
        """What early stopping goes by."""
        return sum(self.text_to_photo) + sum(self.photo_to_text) / 2


@dataclass
class Log:
    """All epochs so far; the first, numbered -1, is the model before training."""

    epochs: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch:
        return max(self.epochs, key=lambda epoch: epoch.score)


class Trainer:
    """One run. `go` trains and leaves the best model of it in `out`."""

    def __init__(
        self,
        model: DualEncoder,
        train: Examples,
        held_out: Examples,
        out: Path,
        recipe: Recipe,
        seed: int,
        device: str,
        texts: Sequence[str] = (),
        progress: Progress = lambda *_: None,
        after: Callable[[Epoch], None] = lambda _: None,
    ) -> None:
        """texts: more texts, without photos, whose nearness to each other is to be kept."""
        self.model, self.train, self.held_out = model, train, held_out
        self.out, self.recipe, self.seed, self.device = out, recipe, seed, device
        self.state = out / "training"
        self.progress, self.after = progress, after
        self.dtype = torch.bfloat16 if device.startswith("cuda") else fast_dtype()
        blocks = len(model.image.tower.blocks)
        self.begin = max(blocks - recipe.blocks, 0)
        model.text.tower.frozen = max(len(model.text.tower.layers) - recipe.layers, 0)
        self._freeze()
        model.to(device)
        self.scale = nn.Parameter(torch.tensor(-float(np.log(recipe.temperature)), device=device))
        self.bias = nn.Parameter(torch.tensor(-10.0, device=device))
        self.taken = 0  # steps
        self.more = model.tokens(texts)
        self.owner = np.repeat(
            np.arange(len(held_out.captions)), [len(c) for c in held_out.captions]
        )

    # Before the first step -------------------------------------------------------------------

    def _freeze(self) -> None:
        recipe, model = self.recipe, self.model
        tower, text = model.image.tower, model.text.tower
        tower.requires_grad_(False)
        text.requires_grad_(False)
        if recipe.blocks:
            tower.top.requires_grad_(True)
            tower.blocks[self.begin :].requires_grad_(True)
            if self.begin == 0:
                tower.stem.requires_grad_(True)
        for layer in text.layers[text.frozen :]:
            layer.requires_grad_(True)
        if recipe.layers > len(text.layers):
            text.requires_grad_(True)
        model.image.head.dropout = recipe.photo_dropout
        model.text.head.dropout = recipe.text_dropout
        tuned = range(self.begin, len(tower.blocks))
        for place, number in enumerate(tuned):
            rate = recipe.path_dropout * (place + 1) / len(tuned)
            if tower.blocks[number].residual and rate:
                project = cast(nn.Module, tower.blocks[number].project)
                project.register_forward_hook(_DropPath(rate))

    def _prepare(self) -> None:
        """Everything that the frozen parts give, computed once."""
        recipe, model, keep = self.recipe, self.model.eval(), self.state
        train, held = self.train, self.held_out
        self.views: Views = make_views(
            model, train.photos, recipe, self.seed, self.begin, keep, self.device, self.progress
        )

        def clean_of(photos: Sequence[Opener], name: str) -> Array:
            return clean_views(
                model, photos, recipe, self.begin, keep, name, self.device, self.progress
            )

        clean = clean_of(train.photos, "clean")
        self.held_views = clean_of(held.photos, "held-out")
        self.tokens = [ids for captions in train.captions for ids in model.tokens(captions)]
        self.held_tokens = [ids for captions in held.captions for ids in model.tokens(captions)]
        self.first = np.cumsum([0, *(len(captions) for captions in train.captions)])
        self.meaning = self._sentences(self.tokens, keep / "meaning.npy", "Reading captions")
        self.held_meaning = self._sentences(self.held_tokens, keep / "held-meaning.npy", "Reading")
        self.more_meaning = self._sentences(self.more, keep / "more-meaning.npy", "Reading texts")
        self.class_rows = self.model.class_sentences()
        self.seen = self._seen(clean, keep / "seen.npy")
        means = [
            self.meaning[a:b].mean(0) for a, b in zip(self.first, self.first[1:], strict=False)
        ]
        self.photo_meaning = torch.nn.functional.normalize(torch.stack(means), dim=1)

    def _sentences(self, tokens: Sequence[list[int]], file: Path, what: str) -> Tensor:
        """Sentence vectors by the tower as it is at first, kept in a file."""
        if file.exists():
            return torch.from_numpy(np.load(file, allow_pickle=False)).to(self.device)
        tower = self.model.text.tower
        with torch.inference_mode():
            rows = _by_length(
                tower,
                tokens,
                tower.words.shape[1],
                lambda done: self.progress(what, done, len(tokens)),
            )
        _save(file, rows.cpu().numpy())
        return rows.clone()

    def _seen(self, clean: NDArray[np.float16], file: Path) -> Tensor:
        """What the classifier saw in every training photo at first: (n, classes)."""
        if not file.exists():
            head, rows = self.model.image.head, []
            with torch.inference_mode():
                for start in range(0, len(clean), 100):
                    x = torch.from_numpy(np.array(clean[start : start + 100])).to(self.device)
                    mean = self.model.grid(x, self.begin).mean(1)
                    rows.append(head.classifier(mean).softmax(1).half().cpu().numpy())
                    self.progress("Looking at photos", start + len(x), len(clean))
            _save(file, np.concatenate(rows))
        return torch.from_numpy(np.load(file, allow_pickle=False)).to(self.device)

    # The loop ----------------------------------------------------------------------------------

    def go(self) -> Log:
        """Train from the start or from the last checkpoint; the model in `out` is the best one."""
        saved = self._saved()
        log = _log_of(saved)
        if self._finished(log):
            return log
        self.state.mkdir(parents=True, exist_ok=True)
        self._prepare()
        recipe = self.recipe
        self.optimiser = torch.optim.AdamW(self._groups(), betas=(0.9, 0.98))
        steps = recipe.epochs * self._steps()
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: _cosine(step, steps, recipe.warmup)
        )
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        if saved is None:
            self._record(log, -1, 0.0, time.perf_counter())
        else:
            self._restore(saved)
        while not self._finished(log):
            epoch, started = log.epochs[-1].epoch + 1, time.perf_counter()
            self._record(log, epoch, self._epoch(epoch), started)
        return log

    def _finished(self, log: Log) -> bool:
        """Whether all epochs are done, or the last ones brought nothing better."""
        if not log.epochs:
            return False
        last = log.epochs[-1].epoch
        return last + 1 >= self.recipe.epochs or last - log.best.epoch >= self.recipe.patience

    def _record(self, log: Log, epoch: int, loss: float, started: float) -> None:
        """Measure the averaged model, keep it if it is the best, and put a checkpoint."""
        text_to_photo, photo_to_text = self.measure(self.average)
        took = round(time.perf_counter() - started, 1)
        log.epochs.append(Epoch(epoch, round(loss, 4), text_to_photo, photo_to_text, took))
        if log.best is log.epochs[-1]:
            self.average.write(self.out, self.recipe.gate)
        self._checkpoint(log)
        self.after(log.epochs[-1])

    def _epoch(self, epoch: int) -> float:
        chance = np.random.default_rng((self.seed, epoch))
        torch.manual_seed(self.seed * 1000 + epoch)
        batches = list(self._batches(chance))
        total = 0.0
        self.model.train()
        for number, chosen in enumerate(batches):
            if isinstance(self.views, FreshViews) and number + 1 < len(batches):
                self.views.expect(epoch, batches[number + 1])
            if self.recipe.layers and number % 10 == 0:
                self.class_rows = self.model.eval().class_sentences()
                self.model.train()
            with torch.autocast(
                self.device.split(":")[0], self.dtype, enabled=self.dtype != torch.float32
            ):
                loss = self._loss(epoch, chosen, chance)
            if not bool(torch.isfinite(loss)):
                raise RetrievalError(
                    "Training diverged: the loss is no number. Try lower rates, as in "
                    "--set head_rate=3e-4 --set photo_rate=3e-5."
                )
            self.optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.schedule.step()
            self._follow()
            total += float(loss.detach())
            self.progress(f"Epoch {epoch + 1}", number + 1, len(batches))
        return total / len(batches)

    def _loss(self, epoch: int, chosen: Ints, chance: np.random.Generator) -> Tensor:
        recipe, model = self.recipe, self.model
        scale = self.scale.exp().clamp(max=100.0)
        concepts = model.concepts(self.class_rows)
        photos = model.photos(self.views.batch(epoch, chosen), self.begin, concepts)
        target = losses.soft_target(
            self.photo_meaning[chosen], recipe.soft, recipe.soft_temperature
        )
        picked = [self._pick(chosen, chance) for _ in range(recipe.captions)]
        more = chance.choice(len(self.more), min(len(self.more), len(chosen)), replace=False)
        rows = self._text_rows(np.concatenate(picked), more)
        meaning = torch.cat([self.meaning[np.concatenate(picked)], self.more_meaning[more]])
        loss = recipe.class_loss * losses.agreement(
            photos, concepts, self.seen[chosen].float(), scale
        )
        if recipe.keep_loss:
            loss = loss + recipe.keep_loss * losses.kept_nearness(rows, meaning)
        for texts in torch.split(rows[: len(chosen) * recipe.captions], len(chosen)):
            if recipe.loss == "sigmoid":
                loss = loss + losses.sigmoid(photos, texts, scale, self.bias) / recipe.captions
            else:
                loss = loss + losses.contrastive(photos, texts, target, scale) / recipe.captions
        return loss

    def _text_rows(self, captions: Ints, more: Ints) -> Tensor:
        """Captions and texts without photos in the shared space; by number."""
        if not self.recipe.layers:
            rows: Tensor = self.model.text.head(
                torch.cat([self.meaning[captions], self.more_meaning[more]])
            )
            return rows
        return self.model.texts(
            [*(self.tokens[i] for i in captions), *(self.more[i] for i in more)]
        )

    def _pick(self, chosen: Ints, chance: np.random.Generator) -> Ints:
        """A caption of each chosen photo, by its number among all captions."""
        count = self.first[chosen + 1] - self.first[chosen]
        picked: Ints = self.first[chosen] + chance.integers(0, count)
        return picked

    def _batches(self, chance: np.random.Generator) -> Iterator[Ints]:
        """Every photo once, or, with hard negatives, in the company of its neighbours."""
        total, size = len(self.train.photos), self._size()
        order = chance.permutation(total)
        hard = int(size * self.recipe.hard)
        for start in range(0, self._steps() * size, size):
            chosen = order[start : start + size]
            if hard:
                seeds = chosen[: size - hard]
                near = self.photo_meaning[seeds[:hard]] @ self.photo_meaning.T
                near[:, seeds] = -2.0
                close = near.topk(5, 1).indices.cpu().numpy()
                picked = close[np.arange(len(close)), chance.integers(0, 5, len(close))]
                chosen = np.concatenate([seeds, np.setdiff1d(picked, seeds)])
            yield chosen

    def _size(self) -> int:
        return min(self.recipe.batch, len(self.train.photos))

    def _steps(self) -> int:
        return max(len(self.train.photos) // self._size(), 1)

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters with their rates: the later a layer, the more it learns."""
        recipe, model = self.recipe, self.model
        tower, text = model.image.tower, model.text.tower
        blocks, layers = len(tower.blocks), len(text.layers)
        parts: list[tuple[nn.Module, float]] = [
            (model.image.head, recipe.head_rate),
            (model.text.head, recipe.head_rate),
            (tower.top, recipe.photo_rate),
            (tower.stem, recipe.photo_rate * recipe.layer_decay ** (blocks + 1)),
            (text.norm, recipe.text_rate * recipe.layer_decay ** (layers + 1)),
        ]
        for number, block in enumerate(tower.blocks):
            parts.append((block, recipe.photo_rate * recipe.layer_decay ** (blocks - number)))
        for number, layer in enumerate(text.layers):
            parts.append((layer, recipe.text_rate * recipe.layer_decay ** (layers - 1 - number)))
        groups = []
        for part, rate in parts:
            learned = [p for p in part.parameters() if p.requires_grad]
            for matrices, decay in ((True, recipe.weight_decay), (False, 0.0)):
                some = [p for p in learned if (p.ndim > 1) == matrices]
                if some:
                    groups.append({"params": some, "lr": rate, "weight_decay": decay})
        free = [text.words, text.places] if text.words.requires_grad else []
        if free:
            rate = recipe.text_rate * recipe.layer_decay ** (layers + 1)
            groups.append({"params": free, "lr": rate, "weight_decay": 0.0})
        scalars = [self.scale, self.bias]
        return [*groups, {"params": scalars, "lr": recipe.head_rate, "weight_decay": 0.0}]

    def _follow(self) -> None:
        """The averaged weights take a step towards the learned ones."""
        # A young average follows faster, so that it does not remember the start for ever.
        self.taken += 1
        keep = min(self.recipe.average, self.taken / (self.taken + 10))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
                if now.requires_grad:
                    mean.lerp_(now, 1 - keep)

    def measure(self, model: DualEncoder) -> tuple[list[float], list[float]]:
        """Recalls on the held-out photos, in percent, both ways."""
        model.eval()
        with torch.inference_mode():
            if self.recipe.layers:
                texts = _by_length(model.texts, self.held_tokens, model.config["dim"])
                concepts = model.concepts(model.class_sentences())
            else:
                texts = model.text.head(self.held_meaning)
                concepts = model.concepts(self.class_rows)
            parts = []
            for start in range(0, len(self.held_views), 100):
                x = torch.from_numpy(np.array(self.held_views[start : start + 100])).to(self.device)
                parts.append(model.photos(x, self.begin, concepts))
        photos, said = torch.cat(parts).cpu().numpy(), texts.cpu().numpy()
        own = np.arange(len(photos))
        text_to_photo = rank(inner_products(said, photos), self.owner, own).ranks
        photo_to_text = rank(inner_products(photos, said), own, self.owner).ranks
        first, second = (
            [round(float(recall(k)(ranks).mean()), 2) for k in (1, 5, 10)]
            for ranks in (text_to_photo, photo_to_text)
        )
        return first, second

    # Going on after a kill -----------------------------------------------------------------------

    def _checkpoint(self, log: Log) -> None:
        file = self.state / "checkpoint.pt"
        state = {
            "recipe": self.recipe.to_json(),
            "seed": self.seed,
            "log": json.dumps([asdict(epoch) for epoch in log.epochs]),
            "model": _learned(self.model),
            "average": _learned(self.average, like=self.model),
            "scalars": [self.scale.detach(), self.bias.detach()],
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict()["last_epoch"],
            "taken": self.taken,
        }
        torch.save(state, file.with_suffix(".tmp"))
        os.replace(file.with_suffix(".tmp"), file)  # noqa: PTH105

    def _saved(self) -> dict[str, Any] | None:
        """The last checkpoint, if there is one; RetrievalError if it is of another run."""
        file = self.state / "checkpoint.pt"
        if not file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location=self.device, weights_only=True)
            same = (state["recipe"], state["seed"]) == (self.recipe.to_json(), self.seed)
        except Exception as error:
            raise RetrievalError(
                f"The checkpoint {file} cannot be read. Delete it to train from the start."
            ) from error
        if not same:
            raise RetrievalError(
                f"{self.out} holds a run with other settings. Repeat those, name another --out, or "
                f"delete {self.state} to train anew."
            )
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        """Put everything that learns back to where a checkpoint has it."""
        self.model.load_state_dict(state["model"], strict=False)
        self.average.load_state_dict(state["average"], strict=False)
        with torch.no_grad():
            for mine, theirs in zip((self.scale, self.bias), state["scalars"], strict=True):
                mine.copy_(theirs)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.last_epoch = state["schedule"]
        self.taken = state["taken"]


class _DropPath:
    """Leaves out a residual branch for some photos while training (Huang et al., 2016)."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, module: nn.Module, _: Any, out: Tensor) -> Tensor:
        if not module.training:
            return out
        keep = torch.rand(len(out), 1, 1, 1, device=out.device) >= self.rate
        return out * (keep / (1 - self.rate))


def _log_of(saved: dict[str, Any] | None) -> Log:
    lines = [] if saved is None else json.loads(saved["log"])
    return Log([Epoch(**line) for line in lines])


def _by_length(
    encode: Callable[[list[list[int]]], Tensor],
    tokens: Sequence[list[int]],
    width: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Rows of texts, (n, width) in their own order; alike long ones go together, to pad little."""
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    rows = torch.empty(0, width)
    for start in range(0, len(order), 250):
        chosen = order[start : start + 250]
        part = encode([tokens[i] for i in chosen])
        if not start:
            rows = part.new_empty(len(tokens), width)
        rows[chosen] = part
        progress(start + len(chosen))
    return rows


def _learned(model: nn.Module, like: nn.Module | None = None) -> dict[str, Tensor]:
    """The tensors that learn, of `model`."""
    names = {name for name, p in (like or model).named_parameters() if p.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name in names}


def _cosine(step: int, steps: int, warmup: float) -> float:
    """The share of the rate at a step: a line up, then half a cosine down."""
    rise = max(int(steps * warmup), 1)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + float(np.cos(np.pi * min((step - rise) / max(steps - rise, 1), 1.0))))


def _save(file: Path, rows: Array) -> None:
    part = file.with_suffix(".tmp")
    with part.open("wb") as written:
        np.save(written, rows, allow_pickle=False)
    part.replace(file)
