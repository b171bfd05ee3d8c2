import pytest

from pipeline.training.loop import EpochRecord, Trained
from pipeline.training.selection import Unit, run_units

UNITS = [Unit(setting, split, 7) for setting in (1, 2, 3) for split in (1, 2)]


def ended(score):
    return Trained(history=[EpochRecord("cb", 0, None, 1.0, score)])


def run_with(scores, *, select=True):
    """Scores by setting; the two splits lie around them."""
    ran, discarded = [], []

    def run(unit):
        ran.append(unit)
        return ended(scores[unit.setting - 1] + (0.1 if unit.split == 1 else -0.1))

    selection = run_units(UNITS, run, select=select, discard=discarded.append)
    assert ran == UNITS
    return selection, discarded


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [((0.5, 0.25, 0.25), 1), ((0.25, 0.25, 0.5), 3), ((0.25, 0.5, 0.5), 2), ((0.5, 0.5, 0.5), 1)],
)
def test_the_best_mean_over_the_splits_is_chosen_and_of_equals_the_first(scores, chosen):
    selection, discarded = run_with(scores)
    assert selection.chosen == chosen
    assert selection.kept == [unit for unit in UNITS if unit.setting == chosen]
    assert set(discarded) == {unit for unit in UNITS if unit.setting != chosen}


def test_without_selection_all_are_kept():
    selection, discarded = run_with((0.5, 0.25, 0.75), select=False)
    assert selection.chosen is None
    assert selection.kept == UNITS
    assert not discarded


def test_a_unit_is_named_by_what_tells_it_apart():
    assert Unit(2, 1, 34).name == "setting-2/split-1/seed-34"
    assert len({unit.name for unit in UNITS}) == len(UNITS)
