import pytest
import torch

from pipeline.errors import ModelError, memory_errors_named

SAID = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"


def test_a_full_gpu_is_an_error_that_names_the_settings() -> None:
    with pytest.raises(ModelError) as caught, memory_errors_named():
        raise torch.OutOfMemoryError(SAID)
    (line,) = str(caught.value).splitlines()
    assert line == (
        "the GPU has too little memory (CUDA out of memory); lower "
        "runtime.max_tokens_per_forward, or, where a method tunes the model, raise its "
        "model.gradient_accumulation_steps"
    )


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors_named():
        raise RuntimeError("shapes differ")
