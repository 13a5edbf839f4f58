"""Replay of earlier tasks' examples beside the task's own: the shared part of ER, DER, DER++ and what builds on them.

    loss = CE(current) + labels * CE(replayed batch) + logits * MSE(logits of another replayed batch, stored logits)

Batches come from a reservoir (`parts/replay_buffer.py`), augmented anew each time. The examples of a task are offered to the buffer once, when the
task is finished, with the logits of the finished network in its stored integers, so that what is kept can be checked against the store.
"""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from torch import nn

from tsn_toolkit.contracts import Split, TaskResult
from tsn_toolkit.data.augment import augment
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.parts.replay_buffer import ReplayBuffer, offer
from tsn_toolkit.parts.replay_losses import label_loss, logit_loss
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.loop import predict, to_device
from tsn_toolkit.trainer.revision import Memory, RevisionOptions, SharedNetwork, finish_revision, start_revision, train_shared_
from tsn_toolkit.trainer.training_hooks import TrainingHooks


class ReplayOptions(RevisionOptions):
    """Options that every strategy with a buffer has.

    Attributes:
        buffer: most examples that are kept for replay.
        replay_batch: replayed examples per step and draw.
    """

    buffer: int = Field(200, ge=1)
    replay_batch: int = Field(32, ge=1)


def learn_with_replay(context: TaskContext, options: ReplayOptions, *, strategy: str, labels: float, logits: float) -> TaskResult:
    """One task on top of the newest revision, with its buffer.

    Args:
        context: the task.
        options: of the strategy.
        strategy: its registry name.
        labels, logits: factors of the loss on replayed examples.

    Raises:
        RecipeError: as `start_revision`.
    """
    with seeded(context.seed):
        network = start_revision(context, options)
        replay = Replay(network, context, options, labels=labels, logits=logits)
        train_shared_(network, context, options, name="training with replay", hooks=TrainingHooks(extra_loss=replay))
        return finish_revision(network, context, options, strategy=strategy, remember=replay.remember, replayed=replay.examples())


class Replay:
    """The loss on replayed examples, and the buffer's next state.

    Attributes:
        buffer: examples of earlier tasks; None in the first task.
    """

    def __init__(self, network: SharedNetwork, context: TaskContext, options: ReplayOptions, *, labels: float, logits: float):
        """Draws from generators of its own, seeded by the task.

        Args:
            network: at the beginning of the task.
            context: the task.
            options: of the strategy.
            labels: factor of the cross entropy.
            logits: factor of the squared distance to stored logits; 0 keeps no logits.
        """
        self.buffer = ReplayBuffer.from_memory(network.memory)
        self._network, self._context = network, context
        self._options, self._labels, self._logits = options, labels, logits
        self._generator = torch.Generator().manual_seed(context.seed + 1)

    def __call__(self, _: torch.Tensor) -> torch.Tensor:
        """The loss (scalar) on fresh draws; one forward pass per factor that is not 0."""
        loss = torch.zeros((), device=self._context.settings.device)
        if self.buffer is None:
            return loss
        head = self._network.head
        if self._labels:
            x, rows, _, _ = self._draw(self.buffer)
            loss = loss + self._labels * label_loss(self._forward(x), rows, head)
        if self._logits:
            x, rows, stored, width = self._draw(self.buffer)
            loss = loss + self._logits * logit_loss(self._forward(x), stored, width, rows, head)
        return loss

    def on(self, network: SharedNetwork) -> Replay:
        """The same replay, draws continued, on another network of the task."""
        other = copy.copy(self)
        other._network = network
        return other

    @property
    def examples_per_step(self) -> int:
        """Replayed examples that pass the network in one step."""
        return 0 if self.buffer is None else self._options.replay_batch * ((self._labels > 0) + (self._logits > 0))

    def examples(self) -> torch.Tensor | None:
        """All replayed inputs, normalised, on the CPU; None in the first task."""
        data = self._network.data
        return None if self.buffer is None else normalise(self.buffer.x, data.mean, data.std)

    def remember(self, model: nn.Module) -> Memory:
        """The buffer after the task, for the next one.

        Args:
            model: finished, in evaluation mode on the CPU.
        """
        data, order = self._network.data, torch.randperm(len(self._network.data.train), generator=self._generator)
        split = Split(data.train.x[order], data.train.y[order])
        logits = predict(model, split, data, torch.device("cpu")) if self._logits else torch.zeros(len(split), 0)
        return offer(self.buffer, split.x, split.y, logits, capacity=self._options.buffer, seed=self._context.seed).to_memory()

    def _draw(self, buffer: ReplayBuffer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """A batch drawn with replacement: inputs as the network takes them, labels as logits, stored logits, their number."""
        settings, data = self._context.settings, self._network.data
        chosen = torch.randint(len(buffer), (self._options.replay_batch,), generator=self._generator)
        x = normalise(buffer.x[chosen], data.mean, data.std)
        if settings.augment:
            x = augment(x, settings.augment, self._generator)
        return to_device(x, settings.device), *(part[chosen].to(settings.device) for part in (buffer.rows, buffer.logits, buffer.width))

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        settings = self._context.settings
        with torch.autocast(settings.device.type, settings.dtype, enabled=settings.dtype != torch.float32):
            logits: torch.Tensor = self._network.model(x)
        return logits.float()
