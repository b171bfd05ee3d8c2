"""Rows packed into the sequences of forward passes: little padding, and common beginnings once.

What a causal model computes at a position depends on the positions before it only, so rows that
begin alike share those positions. The rows of a masked model share nothing: they lie one behind
the other and do not see each other. Each position says which others see it, and its position in
its row, so the model needs no change: it gets a mask and position ids.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.encoding import NO_SLOT, EncodedExample, Row

Item = TypeVar("Item")
Integers = NDArray[np.int64]

# A row with a gap of its size is looked for in so many sequences.
_OPEN_SEQUENCES = 16

# A layer has 12 weights for each pair of the model's units, and attends to each position with two
# products: at a length of 6 times its size, attention computes as much as all else.
_LENGTH_OF_EQUAL_COST = 6

# Lengths of sequences are multiples of it, as GPUs prefer.
_MULTIPLE = 8
_MAX_LENGTH = 2048


class RowKind(NamedTuple):
    """What packing depends on of a model.

    Attributes:
        causal: whether rows share positions.
        pad_id: fills sequences.
    """

    causal: bool
    pad_id: int


@dataclass(frozen=True)
class Batch:
    """The tensors of one forward pass, on the model's device.

    Attributes:
        tokens: (sequences, length) int64, token ids; -1 - v for prompt vector v of the pass.
        positions: (sequences, length) int64, each position's place in its row.
        seen_from: (sequences, length) int64; position j is seen by the positions i of its sequence
            with `seen_from[j] <= i < seen_until[j]`. Padding is seen by itself only.
        seen_until: (sequences, length) int64.
        reads: (reads,) int64, where answers are read, in the flattened sequences; row by row, but
            once where answers that are written out begin alike.
        answer_ids: (tokens,) int64, the tokens of answers that are written out; empty where words
            are scored at one position of each row.
        answer_reads: (tokens,) int64, the position in `reads` of each of these tokens.
        answer_rows: (tokens,) int64, their rows.
        choices: (examples, most) int64, the rows of each example's answers, filled with the number
            of rows; one column if each example is one row.
        rows: number of rows.
        packed: whether a sequence may have several rows; else each is one row, padded at its end.
    """

    tokens: Tensor
    positions: Tensor
    seen_from: Tensor
    seen_until: Tensor
    reads: Tensor
    answer_ids: Tensor
    answer_reads: Tensor
    answer_rows: Tensor
    choices: Tensor
    rows: int
    packed: bool

    @property
    def mask(self) -> Tensor:
        """(sequences, 1, length, length) bool: whether a position (row) sees another (column)."""
        place = torch.arange(self.tokens.shape[1], device=self.tokens.device)[:, None]
        return ((self.seen_from[:, None] <= place) & (place < self.seen_until[:, None]))[:, None]


@dataclass(frozen=True)
class Pass:
    """One forward pass, not yet on a device.

    Attributes:
        examples: positions of its examples in the input, in the order of their rows.
        arrays: the tensors of `Batch`, in order.
        pad_id: fills sequences.
        rows: as in `Batch`.
        packed: as in `Batch`.
    """

    examples: list[int]
    arrays: tuple[Integers, ...]
    pad_id: int
    rows: int
    packed: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of sequences and of positions in each."""
        sequences, length = self.arrays[0].shape
        return sequences, length

    def filled(self, sequences: int) -> "Pass":
        """Add empty sequences, up to this number."""
        missing = sequences - self.shape[0]
        if not missing:
            return self
        tokens, positions, seen_from, seen_until, *others = self.arrays
        places = np.arange(self.shape[1])
        empty = (np.full_like(places, self.pad_id), np.zeros_like(places), places, places + 1)
        grown = [
            np.concatenate([array, np.tile(row, (missing, 1))])
            for array, row in zip((tokens, positions, seen_from, seen_until), empty, strict=True)
        ]
        return replace(self, arrays=(*grown, *others))

    def batch(self, tensors: Iterator[Tensor]) -> Batch:
        """Take the tensors of the pass from those of `to_device`."""
        names = [each.name for each in fields(Batch)]
        own = dict(zip(names, islice(tensors, len(self.arrays)), strict=False))
        return Batch(**own, rows=self.rows, packed=self.packed)


@dataclass(frozen=True)
class PackedExample:
    """An example in the terms of a pass: its rows as tuples that are equal where they are computed.

    Attributes:
        rows: for each row its tokens, as in `Batch.tokens`.
        encoded: the example.
    """

    rows: list[tuple[int, ...]]
    encoded: EncodedExample

    @classmethod
    def of(cls, encoded: EncodedExample, first_vector: int) -> "PackedExample":
        """Number the prompt vectors of an example, whose first one has this number in the pass."""

        def tokens(row: Row) -> tuple[int, ...]:
            if max(row.slots) == NO_SLOT:
                return row.token_ids
            pairs = zip(row.token_ids, row.slots, strict=True)
            return tuple(t if s == NO_SLOT else -1 - first_vector - s for t, s in pairs)

        return cls([tokens(row) for row in encoded.rows], encoded)

    @cached_property
    def length(self) -> int:
        """Positions of the longest row."""
        return max(map(len, self.rows))

    def positions(self, *, causal: bool) -> int:
        """Positions of the example in a sequence to itself."""
        return _new_positions(self, (), causal=causal)


def pack(
    examples: Sequence[PackedExample], kind: RowKind, *, length: int, max_tokens: int | None
) -> list[Pass]:
    """Pack examples into passes; the rows of an example are in one sequence.

    Args:
        examples: one or more.
        kind: of the model.
        length: of a sequence, at least that of `choose_length`.
        max_tokens: maximum number of positions in a pass, which has one sequence at least; None
            puts all into one pass.
    """
    sequences = _assign(examples, length, causal=kind.causal)
    size = len(sequences) if max_tokens is None else max(1, max_tokens // length)
    return [
        _make_pass(examples, sequences[start : start + size], length, kind.pad_id, packed=True)
        for start in range(0, len(sequences), size)
    ]


def pad(examples: Sequence[PackedExample], chosen: Sequence[int], kind: RowKind) -> Pass:
    """Put some examples into one pass whose sequences are their rows, padded to the longest."""
    sequences = []
    for i in chosen:
        for n, row in enumerate(examples[i].rows):
            sequence = _Sequence(causal=kind.causal)
            sequence.add_row(i, n, row, 0)
            sequences.append(sequence)
    length = max(examples[i].length for i in chosen)
    return _make_pass(examples, sequences, length, kind.pad_id, packed=False)


def choose_length(
    examples: Sequence[PackedExample], *, causal: bool, hidden_size: int, most: int = _MAX_LENGTH
) -> int:
    """Return the length of sequences with the least computation.

    Long sequences share more and have less padding, but attention grows with their length.

    Args:
        examples: those to pack, or some that are like them.
        causal: whether rows share positions.
        hidden_size: of the model.
        most: maximum length, but that of the longest example is at least returned.
    """
    longest = max(example.positions(causal=causal) for example in examples)
    length = best = round_up(longest)
    least = float("inf")
    while True:
        sequences = _assign(examples, length, causal=causal)
        used = length if len(sequences) > 1 else round_up(len(sequences[0].tokens))
        cost = len(sequences) * used * (1 + used / (_LENGTH_OF_EQUAL_COST * hidden_size))
        if cost >= least:
            return best
        best, least = used, cost
        if len(sequences) == 1 or 2 * length > min(most, _MAX_LENGTH):
            return best
        length *= 2


def round_up(length: int) -> int:
    """The next length of a sequence."""
    return -(-length // _MULTIPLE) * _MULTIPLE


def same_shapes(passes: Sequence[Pass], count: int = 4) -> list[Pass]:
    """Fill passes with empty sequences, so that they have few different shapes.

    A GPU then uses the same memory, and the same recorded work, again and again.

    Args:
        passes: with sequences of the same length.
        count: maximum number of shapes; the numbers of sequences that add the fewest are chosen.
    """
    numbers = Counter(each.shape[0] for each in passes)
    sizes = sorted(numbers)
    # For each number of shapes: the added sequences of the first sizes, and the shapes that do it.
    start: tuple[int, list[int]] = (0, [])
    best = [start] * (len(sizes) + 1)
    for _ in range(min(count, len(sizes))):
        previous, best = best, [start]
        for n, size in enumerate(sizes, 1):
            options = []
            for smaller in range(n):
                added, shapes = previous[smaller]
                if smaller == 0 or shapes:
                    added += sum(numbers[s] * (size - s) for s in sizes[smaller:n])
                    options.append((added, [*shapes, size]))
            best.append(min(options))
    shapes = best[-1][1]
    return [each.filled(next(s for s in shapes if s >= each.shape[0])) for each in passes]


def to_device(arrays: Sequence[Integers], device: torch.device) -> list[Tensor]:
    """Move arrays to the device, in one transfer."""
    flat = np.concatenate([np.empty(0, dtype=np.int64), *(array.ravel() for array in arrays)])
    parts = torch.from_numpy(flat).to(device).split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def upload(passes: Sequence[Pass], device: torch.device) -> list[Batch]:
    """Move passes to the device, in one transfer."""
    tensors = iter(to_device([array for each in passes for array in each.arrays], device))
    return [each.batch(tensors) for each in passes]


@dataclass
class _Sequence:
    """A sequence under construction.

    Attributes:
        causal: whether a position is seen by those that continue its row, or by its whole row.
        path: the positions of the last row.
        last: the tokens of the last row.
        rows: (example, row of the example, positions of the row).
    """

    causal: bool
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    seen_from: list[int] = field(default_factory=list)
    seen_until: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    last: tuple[int, ...] = ()
    rows: list[tuple[int, int, list[int]]] = field(default_factory=list)

    def add_row(self, example: int, number: int, row: tuple[int, ...], shared: int) -> None:
        """Add a row; its first `shared` positions are those of the last one."""
        start, count = len(self.tokens), len(row) - shared
        new = range(start, start + count)
        self.tokens += row[shared:]
        self.positions += range(shared, len(row))
        self.seen_from += new if self.causal else [start] * count
        self.seen_until += [start + count] * count
        self.path = [*self.path[:shared], *new]
        if self.causal:
            for place in self.path[:shared]:
                self.seen_until[place] = start + count
        self.last = row
        self.rows.append((example, number, self.path))


def _assign(examples: Sequence[PackedExample], length: int, *, causal: bool) -> list[_Sequence]:
    """Put each example into the first open sequence that has room, the latest one first."""
    if causal:  # what begins alike is adjacent
        order = sorted(range(len(examples)), key=lambda i: examples[i].rows)
    else:  # small rows fill the gaps that long ones leave
        order = sorted(range(len(examples)), key=lambda i: -examples[i].length)
    full: list[_Sequence] = []
    opened: list[_Sequence] = []
    for i in order:
        example = examples[i]
        for sequence in opened:
            needed = _new_positions(example, sequence.last, causal=causal)
            if len(sequence.tokens) + needed <= length:
                break
        else:
            sequence = _Sequence(causal=causal)
            opened.insert(0, sequence)
            if len(opened) > _OPEN_SEQUENCES:
                full.append(opened.pop())
        for number, row in enumerate(example.rows):
            shared = _common(row, sequence.last) if causal else 0
            sequence.add_row(i, number, row, shared)
    return full + opened[::-1]


def _new_positions(example: PackedExample, last: tuple[int, ...], *, causal: bool) -> int:
    """How many positions an example adds behind a row."""
    needed = 0
    for row in example.rows:
        needed += len(row) - (_common(row, last) if causal else 0)
        last = row
    return needed


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Length of the common beginning."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _make_pass(
    examples: Sequence[PackedExample],
    sequences: Sequence[_Sequence],
    length: int,
    pad_id: int,
    *,
    packed: bool,
) -> Pass:
    shape = (len(sequences), length)
    places = np.arange(length)
    tokens = np.full(shape, pad_id)
    positions = np.zeros(shape, dtype=np.int64)
    seen_from = np.tile(places, (len(sequences), 1))
    seen_until = seen_from + 1
    reads: list[int] = []
    numbers: dict[int, int] = {}  # place of an answer that is written out -> number of its read
    answer_ids: list[int] = []
    answer_reads: list[int] = []
    answer_rows: list[int] = []
    rows: dict[int, list[int]] = {}
    count = 0
    for n, sequence in enumerate(sequences):
        own = slice(len(sequence.tokens))
        tokens[n, own], positions[n, own] = sequence.tokens, sequence.positions
        seen_from[n, own], seen_until[n, own] = sequence.seen_from, sequence.seen_until
        for example, number, path in sequence.rows:
            row = examples[example].encoded.rows[number]
            if not row.answer_ids:
                reads.append(n * length + path[row.answer_position])
            for k, token in enumerate(row.answer_ids):
                place = n * length + path[row.answer_position + k]
                if place not in numbers:
                    numbers[place] = len(reads)
                    reads.append(place)
                answer_ids.append(token)
                answer_reads.append(numbers[place])
                answer_rows.append(count)
            rows.setdefault(example, []).append(count)
            count += 1
    most = max(map(len, rows.values()))
    choices = [[*own, *[count] * (most - len(own))] for own in rows.values()]
    answers = (answer_ids, answer_reads, answer_rows)
    arrays = (tokens, positions, seen_from, seen_until, reads, *answers, choices)
    as_arrays = tuple(np.asarray(array, dtype=np.int64) for array in arrays)
    return Pass(list(rows), as_arrays, pad_id, count, packed)


def micro_batches(order: Sequence[Item], sizes: Sequence[int], most: int) -> Iterator[list[Item]]:
    """Split items into passes.

    Args:
        order: the items, in order.
        sizes: of each, such as its number of positions.
        most: maximum sum of sizes in a pass; a larger item gets a pass to itself.
    """
    chosen: list[Item] = []
    total = 0
    for item, size in zip(order, sizes, strict=True):
        if chosen and total + size > most:
            yield chosen
            chosen, total = [], 0
        chosen.append(item)
        total += size
    if chosen:
        yield chosen
