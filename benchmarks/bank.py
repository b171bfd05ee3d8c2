"""Measure the prompt bank against a plain loop over relations, at equal results.

Both train the same prompts from the same facts with the same frozen model. The plain loop
(`released_style.py`) takes one relation after the other and may do so for the first few of them;
the bank takes all at once. Times are by training fact, scoring dev before and after each epoch
included. Repetitions alternate, so that what else the machine does meets both.
"""

import argparse
import datetime
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.facts import allowed_words, make_relations
from benchmarks.machine import (
    Timed,
    count_flops,
    describe,
    peak_flops,
    slug,
    timed,
    versions,
)
from benchmarks.readme import RESULTS, results_text
from benchmarks.released_style import Relation, Switches, train_one_by_one
from benchmarks.shapes import SHAPES, random_model
from pipeline.config.schema import MethodParams, PromptParams
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import choose_device, choose_precision, load_model
from pipeline.training.loop import TrainingResult, train

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

# From the released code to the bank, a step at a time. The second is what the bank is measured
# against; the last step, to the bank itself, is that the relations share their passes.
RELEASED = "released: loss, sort at all positions"
PLAIN = "plain: head at all positions, rest at the answer"
LADDER = {
    RELEASED: Switches(every_position=True),
    PLAIN: Switches(),
    "+ head at the answer alone": Switches(answer_head=True),
    "+ prompt vectors placed at once": Switches(answer_head=True, placed_at_once=True),
    "+ best allowed word without sorting": Switches(
        answer_head=True, placed_at_once=True, best_allowed=True
    ),
}
SHARED = "+ passes shared by all relations: the bank"

# Equal means: the vectors differ by no more than this share of the way that training moved them,
# and a mean loss by no more than so many nats. Adam turns rounding into steps of full size.
MOST_OF_MOVEMENT = 0.02
MOST_NATS = 0.02

_TOKENS_TO_COMPARE = 100
_DEFAULT_TOKENS = {"cpu": 1024, "cuda": 32768, "mps": 4096}


@dataclass(frozen=True)
class Work:
    """What is trained, and how, on both sides; the plain loop takes the first `one_by_one`."""

    model: PromptedModel
    relations: Sequence[Relation]
    one_by_one: int
    config: MethodParams

    def plain(self, switches: Switches) -> dict[str, TrainingResult]:
        """Train the first relations one by one."""
        few = self.relations[: self.one_by_one]
        return train_one_by_one(self.model, few, self.config, switches)

    def bank(
        self, max_tokens_per_forward: int, *, few: bool = False, epochs: int | None = None
    ) -> Any:
        """Train all relations together, or as few as the plain loop takes."""
        chosen = self.relations[: self.one_by_one] if few else self.relations
        config = self.config
        if epochs is not None:
            config = config.model_copy(update={"epochs": epochs})
        results = train(
            self.model,
            [relation.job for relation in chosen],
            config,
            max_tokens_per_forward=max_tokens_per_forward,
            best_checkpoint_path=Path(),
            checkpoint=None,
            on_epoch=lambda *_: None,
        )
        return {r.job.name: result for r, result in zip(chosen, results, strict=True)}

    def facts(self, relations: int) -> int:
        """Number of training facts of the first relations in all epochs."""
        return sum(len(r.train_subjects) for r in self.relations[:relations]) * self.config.epochs


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write a file."""
    options = _parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    bfloat16 = choose_precision(options.dtype, device) == "bfloat16"
    model = _model(options, device)
    hardware = describe(device)
    started = time.perf_counter()
    words = allowed_words(model, options.words)
    # No relation stops early.
    config = MethodParams(
        tune=["prompt"],
        epochs=options.epochs,
        batch_size=options.batch,
        patience=options.epochs + 1,
        prompt=OPTIMIZER,
    )
    sizes = (options.relations, options.facts, options.dev)
    relations = make_relations(model, config, sizes, words, seed=options.seed)
    prepared = time.perf_counter() - started
    one_by_one = min(options.plain_relations, options.relations)
    work = Work(model, relations, one_by_one, config)
    rows = options.max_tokens_per_forward or [_DEFAULT_TOKENS[device.type]]
    _say(f"{options.name}, {hardware['name']}: {len(words)} allowed words")
    equality = None
    if bfloat16:
        # Rounding in bfloat16 would drown what is to be seen.
        equality = compare(work, work.plain(LADDER[PLAIN]), work.bank(rows[0], few=True))
        model.network.to(torch.bfloat16)
    figures, plain, bank = measure(work, rows, options.repeats)
    if equality is None:
        equality = compare(work, plain, bank)
    result = {
        "benchmark": "bank",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": _command(options),
        "hardware": hardware,
        "versions": versions(),
        "model": _describe_model(options, model),
        "settings": {
            **{name: getattr(options, name) for name in _COUNTS if name != "words"},
            "plain_relations": one_by_one,
            "allowed_words": len(words),
            "optimizer": OPTIMIZER.model_dump(),
        },
        "prepare_seconds": prepared,
        "equality": equality,
        **figures,
    }
    _say(f"\n{results_text([result])}\n")
    for tried in result["max_tokens_per_forward"]:
        name = _bank(tried["max_tokens_per_forward"])
        _say(f"{name}: {tried['milliseconds_per_fact']:.2f} ms/fact")
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"bank-{slug(options.name)}-{slug(hardware['name'])}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    _say(f"written: {path}")


def compare(
    work: Work, plain: dict[str, TrainingResult], bank: dict[str, TrainingResult]
) -> dict[str, float]:
    """The differences between the results of the plain loop and of the bank.

    Raises:
        RuntimeError: by more than rounding, or training moved nothing.
    """
    found = differences(plain, bank, work.bank(_TOKENS_TO_COMPARE, few=True, epochs=0))
    if not found["moved"]:
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


def measure(
    work: Work, rows: Sequence[int], repeats: int
) -> tuple[dict[str, Any], dict[str, TrainingResult], dict[str, TrainingResult]]:
    """Time every step of the ladder and the bank with each number of tokens a pass, in turns.

    Returns:
        The figures of the result file, and the results of the plain loop and the bank.
    """
    device, dtype = work.model.device, work.model.input_embeddings.dtype
    runs: dict[str, Callable[[], Any]] = {
        name: partial(work.plain, switches) for name, switches in LADDER.items()
    }
    runs |= {_bank(size): partial(work.bank, size) for size in rows}
    flops = _flops_per_fact(work, rows)
    before = peak_flops(device, dtype)
    times: dict[str, list[Timed]] = {name: [] for name in runs}
    for turn in range(repeats):
        gc.collect()
        for name, run in runs.items():
            _say(f"turn {turn + 1} of {repeats}: {name}")
            times[name].append(timed(run, device))
    peak = max(before, peak_flops(device, dtype))
    described = {}
    for name, taken in times.items():
        facts = work.facts(work.one_by_one if name in LADDER else len(work.relations))
        described[name] = _describe_run(taken, facts=facts, flops=flops[name], peak=peak)
    sweep = {size: described[_bank(size)] for size in rows}
    best = min(sweep, key=lambda size: sweep[size]["milliseconds_per_fact"])
    bank = {"max_tokens_per_forward": best, **sweep[best]}
    figures = {
        "dtype": str(dtype).removeprefix("torch."),
        "matmul_peak_flops_per_second": peak,
        "plain": described[PLAIN],
        "bank": bank,
        "ratio": _ratio(described[PLAIN], bank),
        "ratio_to_released": _ratio(described[RELEASED], bank),
        "ladder": _ladder({**{name: described[name] for name in LADDER}, SHARED: bank}),
        "max_tokens_per_forward": [
            {"max_tokens_per_forward": size, **tried} for size, tried in sweep.items()
        ],
    }
    return figures, times[PLAIN][0].result, times[_bank(best)][0].result


def _flops_per_fact(work: Work, rows: Sequence[int]) -> dict[str, float]:
    """Count, on few relations, what each run computes for a training fact; it warms up as well."""
    one = replace(work, one_by_one=1)
    flops = {
        name: count_flops(partial(one.plain, switches)) / one.facts(1)
        for name, switches in LADDER.items()
    }
    few = work.one_by_one
    for size in rows:
        # As many passes for few relations as for all: rows of a pass are as alike in length.
        scaled = max(1, size * few // len(work.relations))
        counted = count_flops(partial(work.bank, scaled, few=True))
        flops[_bank(size)] = counted / work.facts(few)
    return flops


def _bank(max_tokens_per_forward: int) -> str:
    return f"bank, {max_tokens_per_forward} tokens a pass"


def _describe_run(
    taken: Sequence[Timed], *, facts: int, flops: float, peak: float
) -> dict[str, Any]:
    fastest = min(run.seconds for run in taken)
    peaks = [run.peak_bytes for run in taken if run.peak_bytes is not None]
    return {
        "facts": facts,
        "seconds": [run.seconds for run in taken],
        "cpu_seconds": [run.cpu_seconds for run in taken],
        "milliseconds_per_fact": 1000 * fastest / facts,
        "facts_per_second": facts / fastest,
        "flops_per_fact": flops,
        "flops_per_second": flops * facts / fastest,
        "share_of_peak": flops * facts / fastest / peak,
        "peak_memory_bytes": max(peaks, default=None),
    }


def _ratio(slow: dict[str, Any], fast: dict[str, Any]) -> dict[str, float]:
    """How many times as fast the second is, by the fastest turns and by single ones."""
    single = [
        (one / slow["facts"]) / (two / fast["facts"])
        for one, two in zip(slow["seconds"], fast["seconds"], strict=True)
    ]
    return {
        "of_minima": slow["milliseconds_per_fact"] / fast["milliseconds_per_fact"],
        "lowest": min(single),
        "highest": max(single),
        "of_cpu_seconds": (min(slow["cpu_seconds"]) / slow["facts"])
        / (min(fast["cpu_seconds"]) / fast["facts"]),
    }


def _ladder(steps: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    base = steps[PLAIN]["milliseconds_per_fact"]
    return [
        {
            "step": name,
            "milliseconds_per_fact": figures["milliseconds_per_fact"],
            "cumulative_ratio": base / figures["milliseconds_per_fact"],
            "seconds": figures["seconds"],
            "flops_per_fact": figures["flops_per_fact"],
        }
        for name, figures in steps.items()
    ]


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
        "vocabulary": len(model.input_embeddings),
    }


def _command(options: argparse.Namespace) -> str:
    """The command, with only the name of a model's folder."""
    words = [
        Path(word).name if options.model is not None and Path(word) == options.model else word
        for word in options.arguments
    ]
    return " ".join(["python -m benchmarks.bank", *words])


# Option -> default and help.
_COUNTS = {
    "relations": (41, "that the bank trains together"),
    "plain_relations": (3, "of those, that the plain loop trains one by one"),
    "facts": (16, "of a relation, to learn from"),
    "dev": (8, "further facts of a relation, scored before and after each epoch"),
    "batch": (8, "facts of a relation in a step"),
    "epochs": (1, "of each relation"),
    "words": (21018, "allowed words, at most; LAMA's common vocabulary has 21018"),
    "repeats": (2, "turns"),
    "seed": (34, "of all that is random"),
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
        help="of the bank, such as 1024,8192: each is tried; else what `auto` takes at most",
    )
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
