"""A small `params.yaml`, written with one change or another."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REMOVED = object()


def _optimization(**more: Any) -> dict[str, Any]:
    return {
        "optimizer": "adamw",
        "learning_rate": 0.001,
        "weight_decay": 0.01,
        "schedule": "linear",
        "warmup_ratio": 0.1,
        "decay_per_epoch": 1.0,
        "max_grad_norm": 1.0,
        **more,
    }


def _prompt() -> dict[str, Any]:
    return _optimization(encoder="lstm", start="random", dropout=0.0)


def _model() -> dict[str, Any]:
    return _optimization(gradient_accumulation_steps=1)


def _nothing_tuned() -> dict[str, Any]:
    return {"tune": [], "epochs": 0, "batch_size": 1, "patience": 1}


_TUNED = {"epochs": 2, "batch_size": 8, "patience": 2}

_PARAMS: dict[str, Any] = {
    "seed": 1,
    "model": {
        "name": "smollm2-135m-instruct",
        "dtype": "auto",
        "start": "auto",
        "device_map": None,
        "quantization": None,
    },
    "data": {"mirror": None, "superglue_from": "archive"},
    "lama": {
        "source": "geonames",
        "facts": "facts",
        "subset": "34k",
        "relations": ["P17", "P47"],
        "objects": "one-token",
        "methods": ["manual", "p-tuning", "discrete"],
        "seeds": [34],
        "selection": "dev",
        "splits": {"train_facts": 10, "dev_facts": 5, "test_facts": 20},
        "templates": {},
        "prompts": {
            "manual": "manual",
            "fine-tuning": "{subject} {mask}",
            "manual-fine-tuning": "manual",
            "p-tuning": "paper-v2",
            "prompt-tuning": "[P*9] {subject} {mask}",
            "discrete": "{subject} [P*5] {mask} .",
        },
        "training": {
            "defaults": {"prompts_per_unit": None},
            "manual": _nothing_tuned(),
            "fine-tuning": {"tune": ["model"], **_TUNED, "model": _model()},
            "manual-fine-tuning": {"tune": ["model"], **_TUNED, "model": _model()},
            "p-tuning": {"tune": ["prompt"], **_TUNED, "prompt": _prompt()},
            "prompt-tuning": {
                "tune": ["prompt"],
                **_TUNED,
                "prompt": _prompt() | {"encoder": "embedding"},
            },
            "discrete": {
                **_nothing_tuned(),
                "search": {
                    "prompts": "gradient",
                    "iterations": 2,
                    "candidates": 3,
                    "batch_size": 4,
                },
            },
        },
        "grid": {"manual": {}, "p-tuning": {}, "discrete": {}},
        "overrides": {},
        "stability": {
            "methods": ["manual"],
            "relations": ["P17"],
            "templates": "table-1",
            "templates_per_relation": None,
        },
    },
    "superglue": {
        "source": "geonames",
        "protocol": "few-shot-32",
        "tasks": ["rte"],
        "methods": ["manual", "p-tuning"],
        "seeds": [34],
        "selection": "dev",
        "splits": {
            "train_examples": 4,
            "dev_examples": 4,
            "test_examples": 8,
            "held_out": 0.5,
            "count": 2,
            "train_share": 0.5,
            "per_class": 16,
            "seeds": [13, 21, 42, 87, 100],
        },
        "prompts": {
            "rte": {
                "max_length": 64,
                "verbalizer": {"entailment": "yes", "not_entailment": "no"},
                "templates": {
                    "manual": "{premise} Question: {hypothesis}? Answer: {mask}.",
                    "p-tuning": "{premise} Question: {hypothesis}? [P] Answer: {mask}.",
                },
            }
        },
        "training": {
            "defaults": {"prompts_per_unit": None},
            "manual": _nothing_tuned(),
            "p-tuning": {
                "tune": ["prompt", "model"],
                **_TUNED,
                "prompt": _prompt(),
                "model": _model(),
            },
        },
        "grid": {"manual": {}, "p-tuning": {}},
        "overrides": {"rte": {}},
    },
    "tasks": {},
    "report": {"title": "Small", "facts_shown": 4},
    "runtime": {
        "engine": "serial",
        "device": "cpu",
        "threads": 1,
        "max_tokens_per_forward": 8,
        "checkpoint_seconds": 30,
    },
}


def write_params(path: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write parameters with some dotted paths set to other values, or `REMOVED`.

    The text is JSON, which YAML 1.2 contains but for its spelling of NaN and infinity.
    """
    values = copy.deepcopy(_PARAMS)
    for dotted, value in (changes or {}).items():
        *sections, key = dotted.split(".")
        section = values
        for name in sections:
            section = section[name]
        if value is REMOVED:
            del section[key]
        else:
            section[key] = value
    text = json.dumps(values, indent=1).replace(": NaN", ": .nan").replace(": Infinity", ": .inf")
    path.write_text(text, encoding="utf-8")
    return path
