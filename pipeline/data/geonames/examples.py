"""The made examples of every task: one line here and one small file a task."""

import random
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.data.geonames.boolq import geonames_boolq
from pipeline.data.geonames.cb import geonames_cb
from pipeline.data.geonames.copa import geonames_copa
from pipeline.data.geonames.multirc import geonames_multirc
from pipeline.data.geonames.places import Places
from pipeline.data.geonames.rte import geonames_rte
from pipeline.data.geonames.wic import geonames_wic
from pipeline.data.geonames.wsc import geonames_wsc

# Name of the task, as in `params.yaml` -> its examples in the official schema.
GEONAMES_EXAMPLES: dict[str, Callable[[Places, random.Random], Iterator[dict[str, Any]]]] = {
    "boolq": geonames_boolq,
    "cb": geonames_cb,
    "copa": geonames_copa,
    "multirc": geonames_multirc,
    "rte": geonames_rte,
    "wic": geonames_wic,
    "wsc": geonames_wsc,
}
