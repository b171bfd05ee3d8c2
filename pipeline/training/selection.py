"""Settings, splits and seeds as units of training, and the choice of a setting by dev."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.training.loop import Trained


@dataclass(frozen=True, order=True)
class Unit:
    """One training of a task with a method: a unit of work that is kept, and shown, by itself.

    Attributes:
        setting: number of the setting, from 1.
        split: number of the train and dev set, from 1.
        seed: of the training.
    """

    setting: int
    split: int
    seed: int

    @property
    def name(self) -> str:
        """Tells it apart within its stage."""
        return f"setting-{self.setting}/split-{self.split}/seed-{self.seed}"


@dataclass(frozen=True)
class Selection:
    """What the units of a stage gave.

    Attributes:
        trained: every unit that was run, and how it ended.
        chosen: the number of the setting that dev chose; None where none was to be chosen.
    """

    trained: dict[Unit, Trained]
    chosen: int | None

    @property
    def kept(self) -> list[Unit]:
        """The units that are evaluated: of the chosen setting, or all."""
        return [unit for unit in self.trained if self.chosen in (None, unit.setting)]


def run_units(
    units: Sequence[Unit],
    run: Callable[[Unit], Trained],
    *,
    select: bool,
    discard: Callable[[Unit], None],
) -> Selection:
    """Run every unit; dev chooses the setting with the best mean score over splits and seeds.

    Args:
        units: in the order in which they are run; those of one setting stand together.
        run: trains one, or takes over what an earlier attempt left of it.
        select: whether a setting is chosen; if not, all units are kept.
        discard: called for units that can no longer be chosen, as soon as that is known.

    Returns:
        The outcome. Of settings with equal means the first is chosen.

    Source: FewNLU (arXiv 2109.12742), section 3.3: hyper-parameters by the mean dev score over
    splits.
    """
    trained: dict[Unit, Trained] = {}
    best: int | None = None
    for number in dict.fromkeys(unit.setting for unit in units):
        own = [unit for unit in units if unit.setting == number]
        for unit in own:
            trained[unit] = run(unit)
        if not select:
            continue
        loser = best
        if best is None or dev_score(trained, number) > dev_score(trained, best):
            best = number
        else:
            loser = number
        for unit in trained:
            if unit.setting == loser:
                discard(unit)
    return Selection(trained, best)


def dev_score(trained: Mapping[Unit, Trained], setting: int) -> float:
    """Return the mean over a setting's units of the best epoch's dev score."""
    return statistics.fmean(
        own.best_score for unit, own in trained.items() if unit.setting == setting
    )
