"""The memory plan, against what two processes have of a small model of the same kind."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from benchmarks import memory_plan
from benchmarks.memory_plan import BEGIN, END, FOLDER, plan, table
from pipeline.models.loading import load_model
from pipeline.models.sharding import local
from pipeline.training.optimizers import ScheduledOptimizer
from pipeline.training.ranks import Ranks, Report, run_ranks
from tests.jobs import ADAM


def measured(folder: Path, tuned: bool, _: Report, ranks: Ranks) -> dict[str, int]:
    """Bytes that the first process has after the backward pass of a step."""
    dtype = "float32" if tuned else "bfloat16"
    model = load_model(folder, device="cpu", dtype=dtype, threads=1, tuned=tuned)
    if ranks.count > 1:
        model.shard(model.device, tuned=tuned)
    parameters = list(model.network.parameters())
    state = []
    if tuned:
        optimizer = ScheduledOptimizer(
            [(parameter, True) for parameter in parameters],
            ADAM,
            epochs=1,
            steps_per_epoch=[1],
            stacked=False,
            ranks=ranks,
        )
        model.call(lambda: model.network(torch.tensor([[1, 2, 3]])).logits.sum()).backward()
        state = [*optimizer._state["means"], *optimizer._state["squares"]]
    tensors = {
        "weights": parameters,
        "gradients": [each.grad for each in parameters if each.grad is not None],
        "optimizer": state,
    }
    return {name: sum(local(one).nbytes for one in own) for name, own in tensors.items()}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("tuned", [False, True])
def test_what_stays_on_a_gpu_is_counted_exactly(
    tiny_folders: dict[str, Path], tuned: bool, count: int
) -> None:
    folder = tiny_folders["llama"]
    planned = plan(AutoConfig.from_pretrained(folder), count, tuned=tuned)
    found = run_ranks(count, partial(measured, folder, tuned), print, device="cpu")
    assert found == {name: planned[name] for name in found}


def test_what_a_pass_keeps_is_at_most_what_is_planned(tiny_folders: dict[str, Path]) -> None:
    """And at least a quarter of it."""
    model = load_model(tiny_folders["llama"], device="cpu", tuned=True)
    kept: dict[int, int] = {}
    weights = {weight.untyped_storage().data_ptr() for weight in model.network.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.ones(1, 100, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        states = model.network.base_model(tokens)[0]
    config = model.network.config
    planned = 100 * memory_plan.activation_bytes(config, 4, words=0)
    assert states.requires_grad
    assert planned / 4 <= sum(kept.values()) <= planned


def test_the_table_is_that_of_the_file() -> None:
    plans = json.loads((FOLDER / "results" / "memory_plan.json").read_text())["bytes_per_gpu"]
    readme = (FOLDER / "README.md").read_text()
    assert table(plans) in readme.partition(BEGIN)[2].partition(END)[0]
    for kind, by_count in plans.items():
        config = memory_plan.LlamaConfig(**memory_plan.SHAPE)
        for count, parts in by_count.items():
            assert parts == plan(config, int(count), tuned=kind == "tuned")
