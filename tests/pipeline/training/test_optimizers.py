from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.schema import OptimizerConfig
from pipeline.training import optimizers
from pipeline.training.optimizers import ScheduledOptimizer, lr_lambda
from pipeline.training.prompt_encoders import EncoderBank, PromptEncoder
from tests.jobs import changed
from tests.operations import Operations
from tests.worked import torch_vectors

SETTINGS = OptimizerConfig(
    optimizer="adam",
    learning_rate=0.1,
    weight_decay=0.0,
    schedule="constant",
    warmup_ratio=0.0,
    decay_per_epoch=1.0,
    max_grad_norm=None,
)


def factors(epochs: int, steps_per_epoch: int, **changes: object) -> list[float]:
    settings = changed(SETTINGS, **changes)
    return [
        lr_lambda(settings, step, epochs=epochs, steps_per_epoch=steps_per_epoch)
        for step in range(epochs * steps_per_epoch)
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1, 1, 1]),
        ({"schedule": "linear"}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ({"schedule": "exponential", "decay_per_epoch": 0.5}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        # A third of six steps: two steps on the way up from 0, at a third and two thirds.
        ({"schedule": "constant", "warmup_ratio": 1 / 3}, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ({"schedule": "linear", "warmup_ratio": 1 / 3}, [1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4]),
        (
            {"schedule": "exponential", "decay_per_epoch": 0.5, "warmup_ratio": 1 / 3},
            [1 / 3, 2 / 3, 0.5, 0.5, 0.25, 0.25],
        ),
        # 0.4 of a step is a step.
        ({"schedule": "linear", "warmup_ratio": 0.07}, [1 / 2, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]),
        ({"schedule": "constant", "warmup_ratio": 1.0}, [i / 7 for i in range(1, 7)]),
    ],
)
def test_the_learning_rate_follows_its_schedule(
    changes: dict[str, object], expected: list[float]
) -> None:
    assert factors(3, 2, **changes) == pytest.approx(expected)


def test_an_unknown_schedule_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown schedule 'cosine'"):
        factors(1, 1, schedule="cosine")


def start() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 2), (4,))]


def gradients(parameters: list[nn.Parameter], step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) * (step + 1) for p in parameters]


def optimizer_of(
    parameters: list[nn.Parameter], settings: OptimizerConfig, *, epochs: int, steps_per_epoch: int
) -> ScheduledOptimizer:
    """The optimizer of one member, such as a tuned model."""
    return ScheduledOptimizer(
        [(parameter, parameter.ndim > 1) for parameter in parameters],
        settings,
        epochs=epochs,
        steps_per_epoch=[steps_per_epoch],
        stacked=False,
    )


def run(settings: OptimizerConfig, *, epochs: int = 3, steps_per_epoch: int = 2) -> list[Tensor]:
    parameters = start()
    optimizer = optimizer_of(parameters, settings, epochs=epochs, steps_per_epoch=steps_per_epoch)
    for step in range(epochs * steps_per_epoch):
        for parameter, gradient in zip(parameters, gradients(parameters, step), strict=True):
            parameter.grad = gradient
        optimizer.step([0])
    return [parameter.detach() for parameter in parameters]


def slow_run(settings: OptimizerConfig, rates: list[float]) -> list[Tensor]:
    """Adam as in its paper, and AdamW as in its own, written out."""
    parameters = [p.detach().double() for p in start()]
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    for step, rate in enumerate(rates):
        grads = [g.double() for g in gradients(start(), step)]
        if settings.max_grad_norm is not None:
            norm = sum(float((g**2).sum()) for g in grads) ** 0.5
            grads = [g * min(1.0, settings.max_grad_norm / norm) for g in grads]
        for i, gradient in enumerate(grads):
            decay = settings.weight_decay if parameters[i].ndim > 1 else 0.0
            if settings.optimizer == "adam":
                gradient = gradient + decay * parameters[i]
            else:
                parameters[i] = parameters[i] * (1 - rate * decay)
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            mean = first[i] / (1 - 0.9 ** (step + 1))
            square = second[i] / (1 - 0.999 ** (step + 1))
            parameters[i] = parameters[i] - rate * mean / (square.sqrt() + 1e-8)
    return [p.float() for p in parameters]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("max_grad_norm", [None, 1.5])
@pytest.mark.parametrize("schedule", ["constant", "linear", "exponential"])
def test_steps_equal_those_written_out(
    optimizer: str, weight_decay: float, max_grad_norm: float | None, schedule: str
) -> None:
    settings = changed(
        SETTINGS,
        optimizer=optimizer,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        schedule=schedule,
        warmup_ratio=0.3,
        decay_per_epoch=0.7,
    )
    # Two of six steps warm up; behind them, linear falls by a quarter, exponential each epoch.
    shares = {
        "constant": [1 / 3, 2 / 3, 1, 1, 1, 1],
        "linear": [1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4],
        "exponential": [1 / 3, 2 / 3, 0.7, 0.7, 0.49, 0.49],
    }[schedule]

    found = run(settings)

    for ours, slow in zip(found, slow_run(settings, [0.1 * s for s in shares]), strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "reference"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_steps_equal_those_of_torch(optimizer: str, reference: type[torch.optim.Optimizer]) -> None:
    parameters = start()
    theirs = reference(
        [
            {"params": parameters[:1], "weight_decay": 0.3},
            {"params": parameters[1:], "weight_decay": 0.0},
        ],
        lr=0.1,
    )
    for step in range(6):
        for parameter, gradient in zip(parameters, gradients(parameters, step), strict=True):
            parameter.grad = gradient
        theirs.step()

    found = run(changed(SETTINGS, optimizer=optimizer, weight_decay=0.3))

    for ours, other in zip(found, parameters, strict=True):
        torch.testing.assert_close(ours, other.detach())


def test_l2_and_decoupled_decay_differ_and_spare_vectors() -> None:
    plain = run(SETTINGS)
    l2 = run(changed(SETTINGS, weight_decay=0.3))
    decoupled = run(changed(SETTINGS, weight_decay=0.3, optimizer="adamw"))
    assert not torch.allclose(l2[0], plain[0], atol=1e-4)
    assert not torch.allclose(l2[0], decoupled[0], atol=1e-4)
    assert torch.equal(l2[1], plain[1])
    assert torch.equal(decoupled[1], plain[1])


def test_a_step_clears_the_gradients() -> None:
    parameters = start()
    optimizer = optimizer_of(parameters, SETTINGS, epochs=1, steps_per_epoch=1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step([0])
    assert all(parameter.grad is None for parameter in parameters)


def test_a_small_gradient_is_not_clipped() -> None:
    assert torch.equal(run(SETTINGS)[0], run(changed(SETTINGS, max_grad_norm=1e4))[0])


def test_parameters_of_matrices_alone_need_no_vectors() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = optimizer_of([parameter], SETTINGS, epochs=1, steps_per_epoch=1)
    parameter.grad = torch.ones(2, 2)
    optimizer.step([0])
    torch.testing.assert_close(parameter.detach(), torch.full((2, 2), 0.9))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "exponential"])
@pytest.mark.parametrize("done", [0, 1, 4])
def test_one_that_is_restored_continues_bit_for_bit(
    tmp_path: Path, optimizer: str, schedule: str, done: int
) -> None:
    settings = changed(
        SETTINGS, optimizer=optimizer, schedule=schedule, weight_decay=0.3, warmup_ratio=0.3,
        decay_per_epoch=0.5, max_grad_norm=1.0,
    )  # fmt: skip

    def go(parameters: list[nn.Parameter], optimizer: ScheduledOptimizer, steps: range) -> None:
        for step in steps:
            for parameter, gradient in zip(parameters, gradients(parameters, step), strict=True):
                parameter.grad = gradient
            optimizer.step([0])

    whole = start()
    go(whole, optimizer_of(whole, settings, epochs=3, steps_per_epoch=2), range(6))

    first = start()
    stopped = optimizer_of(first, settings, epochs=3, steps_per_epoch=2)
    go(first, stopped, range(done))
    torch.save(stopped.state_dict(), tmp_path / "state.pt")
    second = [nn.Parameter(parameter.detach().clone()) for parameter in first]
    restored = optimizer_of(second, settings, epochs=3, steps_per_epoch=2)
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    go(second, restored, range(done, 6))

    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))


# Several members


def stacked(members: int) -> list[Tensor]:
    """A matrix and a vector of each member, as stacked leaf tensors."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((members, 3, 2), (members, 4))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def bank_of(
    parameters: list[Tensor], settings: OptimizerConfig, steps_per_epoch: list[int]
) -> ScheduledOptimizer:
    return ScheduledOptimizer(
        [(parameters[0], True), (parameters[1], False)],
        settings,
        epochs=4,
        steps_per_epoch=steps_per_epoch,
        stacked=True,
    )


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "exponential"])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_each_member_is_stepped_as_by_its_own_optimizer(
    optimizer: str, schedule: str, max_grad_norm: float | None
) -> None:
    """Members pause where they have fewer steps; the second leaves after two epochs."""
    settings = changed(
        SETTINGS, optimizer=optimizer, schedule=schedule, weight_decay=0.3, warmup_ratio=0.3,
        decay_per_epoch=0.5, max_grad_norm=max_grad_norm,
    )  # fmt: skip
    steps_per_epoch = [3, 2, 3, 1]
    together = stacked(4)
    bank = bank_of(together, settings, steps_per_epoch)
    alone = [[nn.Parameter(p[m].detach().clone()) for p in together] for m in range(4)]
    single = [
        optimizer_of(own, settings, epochs=4, steps_per_epoch=steps)
        for own, steps in zip(alone, steps_per_epoch, strict=True)
    ]
    left = [0, 1, 2, 3]
    for epoch in range(4):
        if epoch == 2:
            left = [0, 2, 3]
            together = [p.detach()[left].requires_grad_() for p in together]
            bank.keep([(together[0], True), (together[1], False)], left)
        for step in range(3):
            active = [m for m in left if step < steps_per_epoch[m]]
            for p in together:
                p.grad = torch.zeros_like(p)
            for m in active:
                own = gradients(alone[m], 10 * epoch + step + m)
                for n, gradient in enumerate(own):
                    alone[m][n].grad = gradient.clone()
                    whole = together[n].grad
                    assert whole is not None
                    whole[left.index(m)] = gradient
                single[m].step([0])
            bank.step([left.index(m) for m in active])
            assert all(p.grad is None for p in together)
    for place, m in enumerate(left):
        for whole, own in zip(together, alone[m], strict=True):
            torch.testing.assert_close(whole[place], own, rtol=1e-5, atol=1e-6)


def test_members_with_the_same_learning_rate_share_one_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[float, int]] = []
    real = optimizers.adam

    def watched(parameters: list[Tensor], *rest: object, **options: Any) -> None:
        calls.append((options["lr"], len(parameters)))
        real(parameters, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(optimizers, "adam", watched)
    parameters = stacked(5)
    bank = bank_of(parameters, changed(SETTINGS, schedule="linear"), [2, 2, 2, 4, 2])
    for members in ([0, 1, 2, 3, 4], [0, 1, 2, 3]):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        bank.step(members)
    rates = sorted(set(calls))
    # Two calls for each rate, of matrices and of vectors; the fourth has the slower schedule.
    assert [rate for rate, _ in rates] == pytest.approx([0.1 * 7 / 8, 0.1 * 15 / 16, 0.1])
    assert [count for _, count in rates] == [3, 1, 5]


# The encoders of a bank, and their optimizer


def encoders_of(kind: str, counts: list[int], size: int) -> list[PromptEncoder]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return [PromptEncoder(kind, count, size).double() for count in counts]


@pytest.mark.parametrize("kind", ["lstm", "mlp", "embedding"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_twenty_steps_of_a_bank_equal_those_of_torchs_own_modules(
    kind: str, optimizer: str, max_grad_norm: float | None
) -> None:
    """In float64, with steps of unequal number, warm-up, and a prompt that stops after ten."""
    settings = changed(
        SETTINGS, optimizer=optimizer, schedule="exponential", learning_rate=1e-2,
        weight_decay=0.1, warmup_ratio=0.2, decay_per_epoch=0.9, max_grad_norm=max_grad_norm,
    )  # fmt: skip
    counts, steps_per_epoch = [3, 9, 5, 1], [5, 4, 5, 3]
    alone = encoders_of(kind, counts, 16)
    starts = [torch_vectors(encoder).detach().clone() for encoder in alone]
    bank = EncoderBank(alone, dropout=0.0, device=torch.device("cpu"))
    together = ScheduledOptimizer(
        bank.parameters(), settings, epochs=4, steps_per_epoch=steps_per_epoch, stacked=True
    )
    reference = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    optimizers_alone, schedules = [], []
    for encoder, steps in zip(alone, steps_per_epoch, strict=True):
        parameters = list(encoder.parameters())
        own = reference(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=1e-2,
        )
        factor = partial(lr_lambda, settings, epochs=4, steps_per_epoch=steps)
        optimizers_alone.append(own)
        schedules.append(torch.optim.lr_scheduler.LambdaLR(own, factor))
    wanted = torch.randn(9, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(vectors: Tensor, member: int) -> Tensor:
        apart = vectors - (member + 1) * wanted[: len(vectors)]
        return (3 + member) * apart.square().sum()

    left = [0, 1, 2, 3]
    for step in range(20):
        if step == 10:
            left = [0, 2, 3]
            bank.keep(left)
            together.keep(bank.parameters(), left)
        active = [m for m in left if step % 5 < steps_per_epoch[m]]
        for m in active:
            loss(torch_vectors(alone[m]), m).backward()
            if max_grad_norm is not None:
                nn.utils.clip_grad_norm_(alone[m].parameters(), max_grad_norm)
            optimizers_alone[m].step()
            optimizers_alone[m].zero_grad()
            schedules[m].step()
        vectors = bank()
        total = sum(loss(vectors[left.index(m), : counts[m]], m) for m in active)
        assert isinstance(total, Tensor)
        total.backward()
        together.step([left.index(m) for m in active])

    vectors = bank()
    for place, m in enumerate(left):
        expected = torch_vectors(alone[m]).detach()
        moved = (expected - starts[m]).norm()
        assert moved > 0.05
        assert (vectors[place, : counts[m]] - expected).norm() < 1e-12 * moved


@pytest.mark.parametrize(("max_grad_norm", "most"), [(None, 16), (1.0, 19)])
def test_a_step_moves_the_weights_few_times_through_memory(
    max_grad_norm: float | None, most: int
) -> None:
    """At the size of a model's embeddings; in units of the bytes of all encoders."""
    encoders = [PromptEncoder("lstm", 9, 512) for _ in range(2)]
    bank = EncoderBank(encoders, dropout=0.0, device=torch.device("cpu"))
    settings = changed(SETTINGS, max_grad_norm=max_grad_norm)
    optimizer = ScheduledOptimizer(
        bank.parameters(), settings, epochs=1, steps_per_epoch=[9, 9], stacked=True
    )
    weights = sum(weight.nbytes for weight in bank.weights.values())
    with Operations() as counted:
        bank().sum().backward()
        optimizer.step([0, 1])
    assert 10 < counted.bytes / weights < most
