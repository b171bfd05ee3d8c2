"""Measure the prompt bank against a plain loop over relations, and against peft with a Trainer.

All train prompts of the same size from the same facts with the same frozen model. The bank trains
all relations together, the others the first few, one after the other. Times are by phase: set-up,
training steps, dev rounds and the evaluation of a test set. Repetitions alternate, so that what
else the machine does affects all alike.
"""

import argparse
import datetime
import gc
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import peft_trainer
from benchmarks.facts import IN_FRONT, Relation, Sizes, allowed_words, make_relations
from benchmarks.machine import (
    DEV,
    PHASES,
    SETUP,
    STEP,
    TEST,
    Meter,
    describe,
    peak_flops,
    slug,
    versions,
)
from benchmarks.plain_loop import PlainLoop
from benchmarks.readme import RESULTS, results_text
from benchmarks.shapes import SHAPES, random_model
from pipeline.config.schema import MethodParams, PromptParams
from pipeline.models.language_model import PromptedModel
from pipeline.models.linear import torch_layers
from pipeline.models.loading import choose_device, choose_precision, load_model
from pipeline.models.scoring import score_examples
from pipeline.training import loop
from pipeline.training.loop import TrainingResult
from pipeline.training.passes import PassPlanner

# The released LAMA code's own.
OPTIMIZER = PromptParams(
    encoder="lstm",
    start="random",
    dropout=0.0,
    optimizer="adam",
    learning_rate=1e-5,
    weight_decay=5e-4,
    schedule="exponential",
    warmup_ratio=0.0,
    decay_per_epoch=0.98,
    max_grad_norm=None,
)

PLAIN, BANK, PEFT = "plain loop", "bank", "peft and Trainer"

# The results are equal if the vectors differ by no more than this share of their movement in
# training, and mean losses by no more than so many nats. Adam turns rounding into full steps.
MOST_OF_MOVEMENT = 0.02
MOST_NATS = 0.02
# Less is no movement, but rounding.
_LEAST_MOVEMENT = 1e-6

_TOKENS_TO_COMPARE = 100


@dataclass(frozen=True)
class Work:
    """Relations to train with a model in one layout; the test facts of the first are scored."""

    model: PromptedModel
    config: MethodParams
    relations: Sequence[Relation]
    tested: int

    def first(self, count: int) -> "Work":
        """The same with the first relations only."""
        return replace(self, relations=self.relations[:count])

    def plain(self, meter: Meter) -> dict[str, TrainingResult]:
        """Train one relation after the other by the plain loop, and score their test facts."""
        results = {}
        phases = {"__init__": SETUP, "train_epoch": STEP, "score_dev": DEV, "score_test": TEST}
        with meter.watched(PlainLoop, **phases), torch_layers(self.model.network):
            for each in self.relations:
                plain = PlainLoop(self.model, each, self.config)
                results[each.job.name] = plain.train()
                plain.score_test(each.test)
        return results

    def bank(self, meter: Meter, *, max_tokens: int) -> dict[str, TrainingResult]:
        """Train the relations together by the pipeline, and score their test facts."""
        phases = {"__init__": SETUP, "_prepare": SETUP, "train_epoch": STEP, "score_dev": DEV}
        planning = meter.watched(PassPlanner, plan=SETUP, upload=SETUP)
        with meter.watched(loop._Bank, **phases), planning:
            trained = loop.train(
                self.model,
                [each.job for each in self.relations],
                self.config,
                max_tokens_per_forward=max_tokens,
                best_checkpoint_path=Path(),
                checkpoint=None,
                on_epoch=lambda *_: None,
            )
        for each, result in zip(self.relations[: self.tested], trained, strict=False):
            with meter.phase(TEST):
                score_examples(
                    self.model,
                    each.test.rows,
                    result.vectors,
                    each.test.word_ids,
                    max_tokens_per_forward=max_tokens,
                )
        return {each.job.name: r for each, r in zip(self.relations, trained, strict=True)}

    def peft(self, meter: Meter) -> None:
        """Train one relation after the other by peft and Trainer, and score their test facts."""
        with torch_layers(self.model.network):
            for each in self.relations:
                peft_trainer.train_relation(self.model, each, self.config, meter)

    def units(self, phase: str) -> int:
        """How often a phase does what its time is given for.

        These are relations for set-up, else facts: as often as they are trained or scored.
        """
        if phase == SETUP:
            return len(self.relations)
        epochs = self.config.epochs
        data = {
            STEP: lambda each: epochs * len(each.job.train.rows),
            DEV: lambda each: (epochs + 1) * len(each.job.dev.rows),
            TEST: lambda each: len(each.test.rows),
        }
        return sum(map(data[phase], self.relations[: self.tested if phase == TEST else None]))

    @property
    def steps(self) -> int:
        """Training steps of a relation."""
        longest = max(len(each.job.train.rows) for each in self.relations)
        return self.config.epochs * -(-longest // self.config.batch_size)


@dataclass(frozen=True)
class Run:
    """Something to measure; `settings` describe it, `run` does it."""

    method: str
    work: Work
    run: Callable[[Meter], Any]
    settings: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, write a file."""
    options = _parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    for name, value in _BY_DEVICE[device.type].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    model = _model(options, device)
    hardware = describe(device)
    words = allowed_words(model, options.words)
    # No relation stops early.
    config = MethodParams(
        tune=["prompt"],
        epochs=options.epochs,
        batch_size=options.batch,
        patience=options.epochs + 1,
        prompts_per_unit=None,
        prompt=OPTIMIZER,
    )
    sizes = Sizes(options.relations, options.facts, options.dev, options.test)

    def work(layout: str, sizes: Sizes) -> Work:
        made = make_relations(model, config, layout, sizes, words, seed=options.seed)
        return Work(model, config, made, tested=options.plain_relations)

    works = {layout: work(layout, sizes) for layout in (options.layout, IN_FRONT)}
    _say(f"{options.name}, {hardware['name']}: {len(words)} allowed words")
    # Few steps in float32, as rounding adds up and is larger in bfloat16.
    few = Sizes(options.plain_relations, min(options.facts, 2 * options.batch), options.batch, 1)
    equality = compare(work(options.layout, few))
    if choose_precision(options.dtype, device) == "bfloat16":
        model.network.to(torch.bfloat16)
    result = {
        "benchmark": "bank",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": _command(options),
        "hardware": hardware,
        "versions": versions(),
        "load_average": os.getloadavg()[0],
        "model": _describe_model(options, model),
        "settings": {
            **{name: getattr(options, name) for name in _COUNTS if name != "words"},
            "allowed_words": len(words),
            "optimizer": OPTIMIZER.model_dump(),
        },
        "equality": equality,
        **measure(works, options),
    }
    _say(f"\n{results_text([result])}\n")
    if not peft_trainer.installed():
        _say(f"peft is not installed, so its row is left out: {peft_trainer.INSTALL}")
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"bank-{slug(options.name)}-{slug(hardware['name'])}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _say(f"written: {path}")


def compare(work: Work, other: Work | None = None) -> dict[str, float]:
    """The differences between the results of the plain loop and of the bank.

    Args:
        work: of both.
        other: of the bank, if it is not the same.

    Raises:
        RuntimeError: they are larger than rounding, or training moved nothing.
    """

    def bank(work: Work) -> dict[str, TrainingResult]:
        run = partial(work.bank, max_tokens=_TOKENS_TO_COMPARE)
        results: dict[str, TrainingResult] = Meter(work.model.network).measure(run)
        return results

    plain = Meter(work.model.network).measure(work.plain)
    untrained = replace(work, config=work.config.model_copy(update={"epochs": 0}))
    found = differences(plain, bank(other or work), bank(untrained))
    if found["moved"] < _LEAST_MOVEMENT:
        raise RuntimeError("nothing to compare: dev chose each prompt as it was before training")
    nats = max(found["dev_loss"], found["train_loss"])
    if found["vectors_of_movement"] > MOST_OF_MOVEMENT or nats > MOST_NATS or found["dev_score"]:
        raise RuntimeError(f"the bank and the plain loop differ: {found}")
    return found


def differences(
    ours: dict[str, TrainingResult],
    theirs: dict[str, TrainingResult],
    start: dict[str, TrainingResult],
) -> dict[str, float]:
    """The largest differences over the relations of `ours`.

    Args:
        ours: results of relations.
        theirs: other results of the same relations, and perhaps of others.
        start: results of `ours` before training.

    Returns:
        `vectors`: of a number of the vectors; `moved`: of such a number from its start;
        `vectors_of_movement`: of the vectors, as a share of their movement; `dev_loss` and
        `train_loss`: in nats; `dev_score`; and `relations`, how many were compared.
    """
    largest = dict.fromkeys(
        ("moved", "vectors", "vectors_of_movement", "dev_loss", "train_loss", "dev_score"), 0.0
    )

    def note(key: str, value: float) -> None:
        largest[key] = max(largest[key], value)

    for name, mine in ours.items():
        other = theirs[name]
        assert mine.vectors is not None
        assert other.vectors is not None
        apart, way = mine.vectors - other.vectors, mine.vectors - start[name].vectors
        note("moved", float(way.abs().max()))
        note("vectors", float(apart.abs().max()))
        if way.any():
            note("vectors_of_movement", float(apart.norm() / way.norm()))
        for one, two in zip(mine.history, other.history, strict=True):
            note("dev_loss", abs(one.dev_loss - two.dev_loss))
            note("dev_score", abs(one.dev_score - two.dev_score))
            note("train_loss", abs((one.train_loss or 0.0) - (two.train_loss or 0.0)))
    return {"relations": len(ours), **largest}


def measure(works: dict[str, Work], options: argparse.Namespace) -> dict[str, Any]:
    """Measure all rows of the table in turns, after one run of each that counts operations.

    Returns:
        The figures of the result file.
    """
    runs = list(_runs(works, options))
    model = runs[0].work.model
    device, dtype = model.device, model.dtype
    # CPU time does not depend on other programs, but counts the waiting of several threads.
    clock = "seconds"
    if device.type == "cpu" and torch.get_num_threads() == 1:
        clock = "cpu_seconds"
    counted = [_measured(run, counting=True) for run in runs]
    taken: list[list[Meter]] = [[] for _ in runs]
    peaks = []
    for turn in range(options.repeats):
        gc.collect()
        peaks.append(peak_flops(device, dtype, clock))
        for run, meters in zip(runs, taken, strict=True):
            _say(f"turn {turn + 1} of {options.repeats}: {run.method}, {run.settings}")
            meters.append(_measured(run))
    rows = [
        _describe_run(run, counts, meters, clock, peaks)
        for run, counts, meters in zip(runs, counted, taken, strict=True)
    ]
    alone = works[options.layout].first(1)
    one = _measured(
        Run(BANK, alone, partial(alone.bank, max_tokens=options.max_tokens_per_forward[0]), {}),
        counting=True,
    )
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "clock": clock,
        "matmul_flops_per_second": peaks,
        "operations_of_one_relation": one.costs[STEP].operations / alone.steps,
        "rows": rows,
        "ratios": [
            _ratio(slow, fast)
            for slow in rows
            for fast in rows
            if slow["method"] != BANK == fast["method"]
            and (slow["method"] == PEFT or fast["layout"] == options.layout)
        ],
    }


def _runs(works: dict[str, Work], options: argparse.Namespace) -> Iterator[Run]:
    few = works[options.layout].first(options.plain_relations)
    yield Run(PLAIN, few, few.plain, {"layout": options.layout})
    if peft_trainer.installed():
        few = works[IN_FRONT].first(options.plain_relations)
        yield Run(PEFT, few, few.peft, {"layout": IN_FRONT})
    for layout, work in works.items():
        for most in options.max_tokens_per_forward:
            settings = {"layout": layout, "max_tokens_per_forward": most}
            yield Run(BANK, work, partial(work.bank, max_tokens=most), settings)


def _measured(run: Run, *, counting: bool = False) -> Meter:
    meter = Meter(run.work.model.network)
    with meter if counting else nullcontext():
        meter.measure(run.run)
    return meter


def _describe_run(
    run: Run, counts: Meter, taken: Sequence[Meter], clock: str, peaks: Sequence[float]
) -> dict[str, Any]:
    phases = {}
    for phase in PHASES:
        units, counted = run.work.units(phase), counts.costs[phase]
        times = {
            name: [getattr(meter.costs[phase], name) for meter in taken]
            for name in ("seconds", "cpu_seconds")
        }
        each = [1000 * seconds / units for seconds in times[clock]]
        phases[phase] = {
            "units": units,
            **times,
            "milliseconds": statistics.median(each),
            "lowest": min(each),
            "highest": max(each),
            "positions_per_unit": counted.positions / units,
            "flops_per_unit": counted.flops / units,
        }
    step, counted = phases[STEP], counts.costs[STEP]
    # The plain loop and peft take the steps of each relation, the bank those of all at once.
    steps = run.work.steps * (1 if run.method == BANK else len(run.work.relations))
    speeds = [counted.flops / seconds for seconds in step[clock]]
    memory = [meter.peak_bytes for meter in taken if meter.peak_bytes is not None]
    return {
        "method": run.method,
        **run.settings,
        "relations": len(run.work.relations),
        "timed_steps": steps * len(taken),
        "phases": phases,
        "operations_per_step": counted.operations / steps,
        "passes_per_step": counted.passes / steps,
        "share_of_matmul": statistics.median(
            speed / peak for speed, peak in zip(speeds, peaks, strict=True)
        ),
        "peak_memory_bytes": max(memory, default=None),
    }


def _ratio(slow: dict[str, Any], fast: dict[str, Any]) -> dict[str, Any]:
    """How many times as fast the steps of the second are: the median and range over the turns."""

    def ratios(clock: str) -> list[float]:
        one, two = slow["phases"][STEP], fast["phases"][STEP]
        return [
            (mine / one["units"]) / (theirs / two["units"])
            for mine, theirs in zip(one[clock], two[clock], strict=True)
        ]

    return {
        "of": fast["method"],
        "layout": fast["layout"],
        "max_tokens_per_forward": fast["max_tokens_per_forward"],
        "to": slow["method"],
        **{
            clock: {"median": statistics.median(found), "lowest": min(found), "highest": max(found)}
            for clock in ("seconds", "cpu_seconds")
            for found in [ratios(clock)]
        },
    }


def _model(options: argparse.Namespace, device: torch.device) -> PromptedModel:
    """The model in float32, for the comparison."""
    if options.model is not None:
        return load_model(options.model, device=device.type, dtype="float32")
    return random_model(options.shape, device=device, seed=options.seed)


def _describe_model(options: argparse.Namespace, model: PromptedModel) -> dict[str, Any]:
    network = model.network
    return {
        "name": options.name,
        "weights": "random" if options.model is None else "of a folder",
        "type": network.config.model_type,
        "masked": model.masked,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "vocabulary": model.vocabulary_size,
    }


def _command(options: argparse.Namespace) -> str:
    """The command, with only the name of a model's folder, and without that of the output."""
    words = list(options.arguments)
    if "--output" in words:
        at = words.index("--output")
        del words[at : at + 2]
    if options.model is not None:
        words = [options.model.name if Path(word) == options.model else word for word in words]
    return " ".join(["python -m benchmarks.bank", *words])


# Option -> default and help; None depends on the device.
_COUNTS = {
    "relations": (41, "that the bank trains together"),
    "plain_relations": (3, "of those, that the plain loop and peft train one by one"),
    "facts": (None, "of a relation, to learn from"),
    "dev": (None, "further facts of a relation, scored before and after each epoch"),
    "test": (None, "further facts of the plain relations, scored after training"),
    "batch": (8, "facts of a relation in a step"),
    "epochs": (1, "of each relation"),
    "words": (21018, "allowed words, at most; LAMA's common vocabulary has 21018"),
    "repeats": (3, "turns"),
    "seed": (34, "of all that is random"),
}
# On a GPU, 34 steps in each of three turns.
_ON_GPU = {"facts": 272, "dev": 64, "test": 64, "max_tokens_per_forward": [32768]}
_BY_DEVICE: dict[str, dict[str, Any]] = {
    "cpu": {"facts": 32, "dev": 4, "test": 32, "max_tokens_per_forward": [1024]},
    "cuda": _ON_GPU,
    "mps": {**_ON_GPU, "max_tokens_per_forward": [4096]},
}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bank",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", type=Path, help="folder of a model of transformers")
    what.add_argument("--shape", choices=SHAPES, default="smollm2-135m", help="random weights")
    parser.add_argument("--name", help="of the results; else the shape's or the folder's")
    for name, (default, text) in _COUNTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=text)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16; when timed")
    parser.add_argument("--threads", type=int, help="of the CPU; else torch's choice")
    parser.add_argument(
        "--max-tokens-per-forward",
        type=lambda text: [int(part) for part in text.split(",")],
        help="of the bank, such as 1024,8192: each is measured; else what `auto` takes at most",
    )
    parser.add_argument("--layout", default="paper-v2", help="of the plain loop and the bank")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result file")
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(given)
    options.arguments = given
    options.name = options.name or (options.model.name if options.model else options.shape)
    return options


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
