from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.encoding import MultipleChoice, Row
from pipeline.models.packing import (
    PackedExample,
    Pass,
    RowKind,
    choose_length,
    micro_batches,
    pack,
    pad,
    same_shapes,
    upload,
)

CPU = torch.device("cpu")
CAUSAL, MASKED = RowKind(causal=True, pad_id=9), RowKind(causal=False, pad_id=9)


def example(*rows: Sequence[int], slots: Sequence[int] = ()) -> PackedExample:
    """Rows of token ids that are read at their last position; slots count from the front."""
    made = [
        Row(tuple(ids), (*slots, *[-1] * (len(ids) - len(slots))), len(ids) - 1) for ids in rows
    ]
    return PackedExample.of(made[0] if len(made) == 1 else MultipleChoice(tuple(made)), 0)


def seen(layout: Pass, sequence: int, place: int) -> list[int]:
    """The tokens that a position sees, with their positions, by the mask of the batch."""
    (batch,) = upload([layout], CPU)
    chosen = batch.mask[sequence, 0, place].nonzero().flatten().tolist()
    return [int(batch.tokens[sequence, i]) for i in chosen]


def test_rows_that_begin_alike_share_positions_in_a_causal_model() -> None:
    examples = [example([1, 2, 3]), example([1, 2, 4, 5]), example([7])]
    (layout,) = pack(examples, CAUSAL, length=8, max_tokens=None)
    tokens, positions, seen_from, seen_until, reads, *answers, choices = layout.arrays
    assert tokens.tolist() == [[1, 2, 3, 4, 5, 7, 9, 9]]
    assert positions.tolist() == [[0, 1, 2, 2, 3, 0, 0, 0]]
    assert reads.tolist() == [2, 4, 5]
    assert layout.examples == [0, 1, 2]
    assert choices.tolist() == [[0], [1], [2]]
    assert [len(each) for each in answers] == [0, 0, 0]
    assert [seen(layout, 0, i) for i in range(7)] == [
        [1], [1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 5], [7], [9]
    ]  # fmt: skip
    assert (seen_from < seen_until).all()


def test_rows_of_a_masked_model_share_nothing_and_see_their_own_row() -> None:
    examples = [example([1, 2, 3]), example([1, 2])]
    (layout,) = pack(examples, MASKED, length=8, max_tokens=None)
    assert layout.arrays[0].tolist() == [[1, 2, 3, 1, 2, 9, 9, 9]]
    assert layout.arrays[1].tolist() == [[0, 1, 2, 0, 1, 0, 0, 0]]
    assert [seen(layout, 0, i) for i in range(6)] == [
        [1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2], [1, 2], [9]
    ]  # fmt: skip


def test_prompt_vectors_are_numbered_and_shared_where_they_are_the_same() -> None:
    row = Row((9, 5, 9, 6), (0, -1, 1, -1), 3)
    other = Row((9, 5, 9, 7), (0, -1, 1, -1), 3)
    first = [PackedExample.of(each, 0) for each in (row, other)]
    second = PackedExample.of(row, 4)
    assert first[0].rows == [(-1, 5, -2, 6)]
    assert second.rows == [(-5, 5, -6, 6)]
    (layout,) = pack([*first, second], CAUSAL, length=16, max_tokens=None)
    assert layout.arrays[0][0, :9].tolist() == [-5, 5, -6, 6, -1, 5, -2, 6, 7]


def test_the_answers_of_an_example_are_in_one_sequence() -> None:
    """Each has its tokens read from the last common position on, which is read once."""
    question = [1, 2, 3]
    rows = [Row((*question, 4), (-1,) * 4, 2, (4, 5)), Row(tuple(question), (-1,) * 3, 2, (6,))]
    chosen = PackedExample.of(MultipleChoice(tuple(rows)), 0)
    (layout,) = pack([chosen, example([8])], CAUSAL, length=8, max_tokens=None)
    tokens, _, _, _, reads, answer_ids, answer_reads, answer_rows, choices = layout.arrays
    assert tokens.tolist() == [[1, 2, 3, 4, 8, 9, 9, 9]]
    assert reads.tolist() == [2, 3, 4]
    assert answer_ids.tolist() == [4, 5, 6]
    assert answer_reads.tolist() == [0, 1, 0]
    assert answer_rows.tolist() == [0, 0, 1]
    # Filled with the number of rows.
    assert choices.tolist() == [[0, 1], [2, 3]]
    assert layout.rows == 3


def test_padded_rows_are_sequences() -> None:
    layout = pad([example([5, 6, 7]), example([1]), example([8])], [0, 2], MASKED)
    assert layout.arrays[0].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert layout.arrays[4].tolist() == [2, 3]
    assert layout.examples == [0, 2]
    assert not layout.packed


ROWS = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=9), min_size=1, max_size=25)


@settings(max_examples=150)
@given(ROWS, st.booleans(), st.integers(9, 40), st.integers(1, 100))
def test_every_row_sees_itself_and_nothing_else(
    rows: list[list[int]], causal: bool, length: int, max_tokens: int
) -> None:
    kind = CAUSAL if causal else MASKED
    passes = pack([example(row) for row in rows], kind, length=length, max_tokens=max_tokens)
    assert sorted(i for layout in passes for i in layout.examples) == list(range(len(rows)))
    for layout, batch in zip(passes, upload(passes, CPU), strict=True):
        assert layout.shape[1] == length
        assert layout.shape[0] == 1 or layout.shape[0] * length <= max_tokens
        for i, read in zip(layout.examples, batch.reads.tolist(), strict=True):
            sequence, place = divmod(read, length)
            row = batch.mask[sequence, 0, place].nonzero().flatten()
            tokens, positions = batch.tokens[sequence, row], batch.positions[sequence, row]
            order = positions.argsort()
            assert tokens[order].tolist() == rows[i]
            assert positions[order].tolist() == list(range(len(rows[i])))
            if not causal:  # and every position of it sees the same
                assert all(
                    (batch.mask[sequence, 0, j] == batch.mask[sequence, 0, place]).all()
                    for j in row
                )


def test_a_shared_beginning_of_many_rows_is_computed_once() -> None:
    passage = list(range(100, 400))
    rows = [[*passage, 1, n % 7, n] for n in range(60)]
    examples = [example(row) for row in rows]
    length = choose_length(examples, causal=True, hidden_size=576)
    passes = pack(examples, CAUSAL, length=length, max_tokens=None)
    computed = sum(np.prod(layout.shape) for layout in passes)
    # 300 and 1 once, 7 of the next, 60 of the last.
    assert computed == 368
    assert 60 * 303 / computed > 45


def test_the_length_suits_rows_and_model() -> None:
    short = [example([n, n + 1, n + 2]) for n in range(0, 3000, 3)]
    small, large = (choose_length(short, causal=True, hidden_size=size) for size in (4, 1024))
    assert small < large
    assert small % 8 == large % 8 == 0
    one = [example(list(range(13)))]
    assert choose_length(one, causal=False, hidden_size=64) == 16
    # Longer than any other length: still a length that holds it.
    assert choose_length([example(range(5000))], causal=True, hidden_size=64) == 5000


@settings(max_examples=100)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=30), st.integers(1, 4))
def test_few_shapes_with_the_fewest_added_sequences(sizes: list[int], count: int) -> None:
    layouts = [
        pack([example([n]) for n in range(size)], MASKED, length=1, max_tokens=None)[0]
        for size in sizes
    ]
    made = same_shapes(layouts, count)
    shapes = {layout.shape[0] for layout in made}
    assert len(shapes) <= count
    for before, after in zip(layouts, made, strict=True):
        assert after.shape[0] >= before.shape[0]
        assert (after.arrays[0][: before.shape[0]] == before.arrays[0]).all()
        assert (after.arrays[0][before.shape[0] :] == 9).all()
        assert after.arrays[4].tolist() == before.arrays[4].tolist()
    added = sum(layout.shape[0] for layout in made) - sum(sizes)
    # Against every choice of that many shapes.
    choices = combinations(sorted(set(sizes)), min(count, len(set(sizes))))
    fewest = min(
        sum(min((s for s in chosen if s >= size), default=10**6) - size for size in sizes)
        for chosen in choices
    )
    assert added == fewest


def test_nothing_to_upload_is_nothing() -> None:
    assert upload([], CPU) == []


@settings(max_examples=50)
@given(st.lists(st.integers(1, 9)), st.integers(1, 12))
def test_passes_keep_the_order_and_are_as_full_as_may_be(sizes: list[int], most: int) -> None:
    cut = list(micro_batches(range(len(sizes)), sizes, most))
    assert [i for own in cut for i in own] == list(range(len(sizes)))
    totals = [sum(sizes[i] for i in own) for own in cut]
    assert all(total <= most or len(own) == 1 for total, own in zip(totals, cut, strict=True))
    assert all(total + sizes[own[0]] > most for total, own in zip(totals, cut[1:], strict=False))


@pytest.mark.parametrize("kind", [CAUSAL, MASKED])
def test_padding_is_seen_by_itself_only(kind: RowKind) -> None:
    (layout,) = pack([example([1, 2])], kind, length=5, max_tokens=None)
    (batch,) = upload([layout.filled(2)], CPU)
    assert batch.mask[0, 0, 2:].tolist() == torch.eye(5, dtype=torch.bool)[2:].tolist()
    assert batch.mask[1, 0].tolist() == torch.eye(5, dtype=torch.bool).tolist()
