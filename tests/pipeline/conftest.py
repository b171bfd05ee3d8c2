"""One thread for tiny tensors: with more, threads wait for each other for longer than they work."""

from collections.abc import Iterator

import pytest
import torch

from tests.pipeline.geonames import places, places_folder

__all__ = ["places", "places_folder"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
