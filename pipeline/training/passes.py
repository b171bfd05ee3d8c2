"""The forward passes of training: which examples share one, and their tensors on the device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.models.encoding import EncodedExample
from pipeline.models.language_model import PromptedModel
from pipeline.models.packing import (
    Batch,
    Integers,
    PackedExample,
    Pass,
    micro_batches,
    pack,
    pad,
    round_up,
    to_device,
)
from pipeline.models.scoring import packing_length, plan_passes


class Item(NamedTuple):
    """An example of a step or of dev.

    Attributes:
        job: position of its job.
        example: as encoded.
        target: its right answer: a position among `words`, or a token id.
        words: ids of the allowed words; None allows the vocabulary.
        batch_size: number of examples that share a step of the job.
    """

    job: int
    example: EncodedExample
    target: int
    words: tuple[int, ...] | None
    batch_size: int = 1


class PlannedPass(NamedTuple):
    """A forward pass, and the positions of its examples among the items that were planned."""

    layout: Pass
    items: list[int]


class ReadyPass(NamedTuple):
    """A forward pass whose tensors are on the device.

    Attributes:
        batch: of `score_batch`.
        candidates: (words,) int64, ids of the allowed words; None allows the vocabulary.
        targets: (examples,) int64.
        batch_sizes: (examples,) int64, as in `Item`.
        items: the positions of its examples among the items that were planned; on the host.
        jobs: the job of each example; on the host.
    """

    batch: Batch
    candidates: Tensor | None
    targets: Tensor
    batch_sizes: Tensor
    items: list[int]
    jobs: list[int]


class Prompts(NamedTuple):
    """Where the vectors of each job are: its row, of so many vectors, in the bank's output."""

    rows: Mapping[int, int]
    longest: int

    def first_vector(self, job: int) -> int:
        """Number of the first vector of a job."""
        return self.rows.get(job, 0) * self.longest


@dataclass
class PassPlanner:
    """Distributes examples over forward passes.

    Attributes:
        model: the language model.
        max_tokens: maximum number of positions in a pass of a frozen model.
        micro_batch_size: number of examples in a pass of a tuned model; None if it is frozen.
    """

    model: PromptedModel
    max_tokens: int
    micro_batch_size: int | None
    _candidates: dict[tuple[int, ...], Tensor] = field(init=False, default_factory=dict)

    def choose_length(self, some: Sequence[Item], every: Sequence[EncodedExample]) -> int | None:
        """Return the length of sequences that suits the examples of a step and holds every one.

        None where rows are not packed.
        """
        examples = [PackedExample.of(item.example, 0) for item in some]
        longest = max(
            PackedExample.of(example, 0).positions(causal=not self.model.masked)
            for example in every
        )
        length = max(packing_length(self.model, examples), round_up(longest))
        return length if length <= self.model.max_packed_length else None

    def plan(
        self, items: Sequence[Item], prompts: Prompts, *, length: int | None, training: bool
    ) -> list[PlannedPass]:
        """Plan the passes of a step, or of dev.

        Examples with the same allowed words share passes.

        Args:
            items: the examples.
            prompts: of the jobs.
            length: of packed sequences; None chooses it for these examples.
            training: whether a tuned model is in training mode.
        """
        groups: dict[tuple[tuple[int, ...] | None, bool], list[int]] = {}
        for n, item in enumerate(items):
            groups.setdefault((item.words, len(item.example.rows) > 1), []).append(n)
        planned = []
        for group in groups.values():
            examples = [
                PackedExample.of(items[n].example, prompts.first_vector(items[n].job))
                for n in group
            ]
            if training and self.micro_batch_size is not None:
                passes = self._micro_batches(examples, length)
            else:
                passes = plan_passes(
                    self.model, examples, max_tokens=self.max_tokens, length=length
                )
            planned += [PlannedPass(p, [group[i] for i in p.examples]) for p in passes]
        return planned

    def _micro_batches(self, examples: Sequence[PackedExample], length: int | None) -> list[Pass]:
        """Passes of so many examples of similar length, whatever their rows.

        Where the model has dropout each row is a sequence, as dropout depends on the shape.
        """
        assert self.micro_batch_size is not None
        order = sorted(range(len(examples)), key=lambda i: examples[i].length)
        passes = []
        for chosen in micro_batches(order, [1] * len(order), self.micro_batch_size):
            if length is not None and not self.model.has_dropout:
                own = [examples[i] for i in chosen]
                (made,) = pack(own, self.model.kind, length=length, max_tokens=None)
                passes.append(replace(made, examples=[chosen[i] for i in made.examples]))
            else:
                passes.append(pad(examples, chosen, self.model.kind))
        return passes

    def upload(
        self, planned: Sequence[PlannedPass], items: Sequence[Sequence[Item]], *more: Integers
    ) -> tuple[list[ReadyPass], list[Tensor]]:
        """Move passes, and further arrays, to the device in one transfer.

        Args:
            planned: the passes.
            items: of each pass, those that it was planned with.
            more: further arrays.
        """
        chosen = [[own[n] for n in each.items] for each, own in zip(planned, items, strict=True)]
        targets = [np.array([item.target for item in own], dtype=np.int64) for own in chosen]
        sizes = [np.array([item.batch_size for item in own], dtype=np.int64) for own in chosen]
        arrays = [array for each in planned for array in each.layout.arrays]
        tensors = iter(to_device([*arrays, *targets, *sizes, *more], self.model.device))
        batches = [each.layout.batch(tensors) for each in planned]
        candidates = [self._words(own[0].words) for own in chosen]
        on_device = [[next(tensors) for _ in planned] for _ in (targets, sizes)]
        positions = [each.items for each in planned]
        jobs = [[item.job for item in own] for own in chosen]
        ready = list(map(ReadyPass, batches, candidates, *on_device, positions, jobs))
        return ready, list(tensors)

    def _words(self, words: tuple[int, ...] | None) -> Tensor | None:
        if words is None:
            return None
        if words not in self._candidates:
            self._candidates[words] = torch.tensor(words, device=self.model.device)
        return self._candidates[words]
