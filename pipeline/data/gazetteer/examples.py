"""The made examples of every task: one line here and one small file a task."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.data.gazetteer.boolq import gazetteer_boolq
from pipeline.data.gazetteer.cb import gazetteer_cb
from pipeline.data.gazetteer.copa import gazetteer_copa
from pipeline.data.gazetteer.multirc import gazetteer_multirc
from pipeline.data.gazetteer.places import Places
from pipeline.data.gazetteer.rte import gazetteer_rte
from pipeline.data.gazetteer.wic import gazetteer_wic
from pipeline.data.gazetteer.wsc import gazetteer_wsc

# Name of the task, as in `params.yaml` -> its examples in the official schema.
GAZETTEER_EXAMPLES: dict[str, Callable[[Places, random.Random], Iterator[dict[str, Any]]]] = {
    "boolq": gazetteer_boolq,
    "cb": gazetteer_cb,
    "copa": gazetteer_copa,
    "multirc": gazetteer_multirc,
    "rte": gazetteer_rte,
    "wic": gazetteer_wic,
    "wsc": gazetteer_wsc,
}
