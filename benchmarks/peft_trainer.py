"""P-tuning with Hugging Face's peft and transformers' Trainer: one relation after the other.

peft places its virtual tokens in front of the row and nowhere else. Its encoder is of the bank's
size: two LSTM layers and a perceptron. Rows are encoded before training and padded by the batch.
What the Trainer does by default is left as it is: its optimizer, and that the language model is in
training mode. A causal model gets rows with their answer, as transformers shifts the labels.
"""

import importlib.util
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from benchmarks.facts import Relation
from benchmarks.machine import DEV, SETUP, STEP, TEST, Meter
from pipeline.config.schema import MethodParams
from pipeline.models.dataset import PromptDataset
from pipeline.models.encoding import NO_SLOT, Row
from pipeline.models.language_model import PromptedModel

INSTALL = "pip install --no-deps peft"

_NO_LABEL = -100


def installed() -> bool:
    """Whether peft and accelerate can be imported."""
    return all(importlib.util.find_spec(name) for name in ("peft", "accelerate"))


def train_relation(
    model: PromptedModel, relation: Relation, config: MethodParams, meter: Meter
) -> float:
    """Train the prompt of a relation whose template has its prompt tokens in front.

    Returns:
        The mean loss of all steps, in nats.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        meter.watched(Trainer, evaluate=DEV),
        warnings.catch_warnings(),
    ):
        # peft reads a deprecated attribute of transformers.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        try:
            with meter.phase(SETUP):
                trainer = _trainer(model, relation, config, folder)
                trainer.add_callback(_Steps(meter))
            trainer.evaluate()
            with meter.phase(SETUP):  # what is before and behind the steps
                loss: float = trainer.train().training_loss
            with meter.phase(TEST):
                trainer.predict(_rows(relation.test, model))
        finally:
            model.network.eval()
    return loss


class _Steps(TrainerCallback):
    """Tells the meter when the Trainer's loop over the steps begins and ends."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._phase = self._meter.phase(STEP)
        self._phase.__enter__()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._phase.__exit__(None, None, None)


def _trainer(
    model: PromptedModel, relation: Relation, config: MethodParams, folder: str
) -> Trainer:
    import peft

    assert config.prompt is not None
    count = relation.job.prompt_tokens
    # peft has no type for masked models; this one adds the virtual tokens and nothing else.
    kind = "FEATURE_EXTRACTION" if model.masked else "CAUSAL_LM"
    prompt = peft.PromptEncoderConfig(
        task_type=kind,
        num_virtual_tokens=count,
        encoder_reparameterization_type="LSTM",
        encoder_num_layers=2,
        encoder_hidden_size=model.embedding_size // 2,
        encoder_dropout=config.prompt.dropout,
    )
    on_cpu = model.device.type == "cpu"
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        learning_rate=config.prompt.learning_rate,
        weight_decay=config.prompt.weight_decay,
        max_grad_norm=config.prompt.max_grad_norm or 0.0,
        eval_strategy="epoch",
        prediction_loss_only=True,
        label_names=["labels"],
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
    )

    def collate(rows: Sequence[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
        def padded(values: Sequence[Sequence[int]], filling: int) -> Tensor:
            tensors = [torch.tensor(value) for value in values]
            return pad_sequence(tensors, batch_first=True, padding_value=filling)

        labels = padded([row[1] for row in rows], _NO_LABEL)
        if model.masked:  # for a causal model, peft does it
            labels = torch.nn.functional.pad(labels, (count, 0), value=_NO_LABEL)
        return {
            "input_ids": padded([row[0] for row in rows], model.codec.pad_id),
            "attention_mask": padded([[1] * len(row[0]) for row in rows], 0),
            "labels": labels,
        }

    trainer = Trainer(
        model=peft.get_peft_model(model.network, prompt),
        args=arguments,
        data_collator=collate,
        train_dataset=_rows(relation.job.train, model),
        eval_dataset=_rows(relation.job.dev, model),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _rows(data: PromptDataset, model: PromptedModel) -> Any:
    """The token ids of each row, without prompt tokens, and its labels: the answer alone."""

    def encode(row: Row, answer: int) -> tuple[list[int], list[int]]:
        pairs = list(zip(row.token_ids, row.slots, strict=True))
        token_ids = [token for token, slot in pairs if slot == NO_SLOT]
        labels = [_NO_LABEL] * len(token_ids)
        if not model.masked:
            return [*token_ids, answer], [*labels, answer]
        labels[sum(slot == NO_SLOT for _, slot in pairs[: row.answer_position])] = answer
        return token_ids, labels

    answers = data.word_ids[data.targets].tolist()
    return [encode(row.rows[0], answer) for row, answer in zip(data.rows, answers, strict=True)]
