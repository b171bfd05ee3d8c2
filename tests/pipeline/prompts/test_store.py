import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import DataError
from pipeline.files import read_json, sha256, write_json
from pipeline.prompts.store import StoredPrompt, load_prompts, save_prompts, weights_file

P17 = StoredPrompt("[P*2] {subject} is in {mask}", torch.rand(2, 4), 3, 0.1 + 0.2)
FOUND = StoredPrompt("{subject} [P*2] {mask}", torch.rand(2, 4), 5, 0.25, words=["Ġin", "##é"])
RTE = StoredPrompt("{premise}? {mask}", None, 0, 0.5, {"entailment": "yes"}, 64)


def _same(one: StoredPrompt, other: StoredPrompt) -> bool:
    vectors = (one.vectors, other.vectors)
    if None not in vectors:
        return torch.equal(*vectors) and _same(
            StoredPrompt(**{**vars(one), "vectors": None}),
            StoredPrompt(**{**vars(other), "vectors": None}),
        )
    return one == other


def _tune(folder: Path, name: str, content: bytes = b"tuned") -> Path:
    path = weights_file(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_prompts_come_back_bit_for_bit(tmp_path):
    first = StoredPrompt("{mask}", torch.rand(1, 4), 1, 1.0)
    prompts = {"P30/2": first, "P17": P17, "rte": RTE, "P47": FOUND}
    save_prompts(tmp_path, "p-tuning", prompts)
    again = load_prompts(tmp_path)
    assert list(again) == ["P30/2", "P17", "rte", "P47"]
    assert all(_same(again[name], prompts[name]) for name in prompts)


def test_the_description_can_be_read_by_people(tmp_path):
    weights = _tune(tmp_path, "P17")
    save_prompts(tmp_path, "p-tuning", {"P17": P17})
    assert json.loads((tmp_path / "prompts.json").read_text()) == {
        "method": "p-tuning",
        "vectors": {
            "file": "prompts.safetensors",
            "sha256": sha256(tmp_path / "prompts.safetensors"),
        },
        "prompts": {
            "P17": {
                "template": "[P*2] {subject} is in {mask}",
                "prompt_tokens": 2,
                "best_epoch": 3,
                "dev_score": 0.30000000000000004,
                "verbalizer": None,
                "max_length": None,
                "words": None,
                "weights": {"file": "weights/P17.safetensors", "sha256": sha256(weights)},
            }
        },
    }


def test_the_words_of_a_discrete_prompt_can_be_read_by_people(tmp_path):
    save_prompts(tmp_path, "discrete", {"P47": FOUND})
    text = (tmp_path / "prompts.json").read_text(encoding="utf-8")
    assert '"Ġin"' in text
    assert json.loads(text)["prompts"]["P47"]["words"] == ["Ġin", "##é"]


def test_each_prompt_has_its_own_weights_file(tmp_path):
    assert weights_file(tmp_path, "P17") == tmp_path / "weights/P17.safetensors"
    assert weights_file(tmp_path, "P17/2") == tmp_path / "weights/P17-2.safetensors"


def test_without_prompt_tokens_there_is_no_file_of_vectors(tmp_path):
    save_prompts(tmp_path, "manual", {"rte": RTE})
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.json"]
    assert load_prompts(tmp_path)["rte"] == RTE


def test_the_same_prompts_give_the_same_bytes(tmp_path):
    other = StoredPrompt("{mask}", torch.rand(3, 4), 1, 1.0)
    for folder in ("one", "other"):
        save_prompts(tmp_path / folder, "p-tuning", {"P30": other, "P17": P17})
    for name in ("prompts.json", "prompts.safetensors"):
        one, other = ((tmp_path / folder / name).read_bytes() for folder in ("one", "other"))
        assert one == other


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_vectors_are_kept_in_single_precision(tmp_path, dtype):
    vectors = torch.rand(8, 4).to(dtype).t()[:2]  # with gaps in memory
    prompt = StoredPrompt("{mask}", vectors.requires_grad_(), 1, 1.0)
    save_prompts(tmp_path, "p-tuning", {"P17": prompt})
    again = load_prompts(tmp_path)["P17"].vectors
    assert again.dtype == torch.float32
    assert torch.equal(again, vectors.float())


def test_a_folder_without_prompts_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_prompts(tmp_path)


def _lose(folder):
    (folder / "prompts.safetensors").unlink()


def _of_another_training(folder):
    save_prompts(folder / "other", "p-tuning", {"P17": RTE, "P30": P17})
    (folder / "other" / "prompts.safetensors").replace(folder / "prompts.safetensors")


def _of_another_length(folder):
    longer = StoredPrompt("{mask}", torch.rand(3, 4), 1, 1.0)
    save_prompts(folder / "other", "p-tuning", {"P17": longer})
    (folder / "other" / "prompts.safetensors").replace(folder / "prompts.safetensors")


def _of_another_seed(folder):
    same_shape = StoredPrompt("{mask}", torch.rand(2, 4), 1, 1.0)
    save_prompts(folder / "other", "p-tuning", {"P17": same_shape})
    (folder / "other" / "prompts.safetensors").replace(folder / "prompts.safetensors")


def _cut(folder):
    path = folder / "prompts.safetensors"
    path.write_bytes(path.read_bytes()[:60])


RESTORE = "restore it with `dvc checkout` or `dvc pull`, or train again with `dvc repro`"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_lose, "missing; the prompts were trained with it"),
        (_of_another_training, "replaced or altered: its SHA-256 is "),
        (_of_another_length, "replaced or altered: its SHA-256 is "),
        (_of_another_seed, "replaced or altered: its SHA-256 is "),
        (_cut, "replaced or altered: its SHA-256 is "),
    ],
)
def test_vectors_that_do_not_belong_to_the_prompts_are_refused(tmp_path, damage, said):
    save_prompts(tmp_path, "p-tuning", {"P17": P17})
    recorded = sha256(tmp_path / "prompts.safetensors")
    damage(tmp_path)
    with pytest.raises(DataError) as caught:
        load_prompts(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'prompts.safetensors'}: {said}")
    assert message.endswith(RESTORE)
    assert ("replaced" in said) == (f"prompts.json records {recorded};" in message)


def test_weights_are_those_that_were_saved(tmp_path):
    path = _tune(tmp_path, "P17/2")
    save_prompts(tmp_path, "p-tuning", {"P17/2": P17, "rte": RTE})
    prompts = load_prompts(tmp_path)
    assert prompts["P17/2"].weights_path == path
    _tune(tmp_path, "rte")  # not recorded: the model of rte was frozen
    assert load_prompts(tmp_path)["rte"].weights_path is None


def test_replaced_weights_are_found_when_they_are_read(tmp_path):
    path = _tune(tmp_path, "P17")
    save_prompts(tmp_path, "p-tuning", {"P17": P17})
    _tune(tmp_path, "P17", b"other")
    prompt = load_prompts(tmp_path)["P17"]
    with pytest.raises(DataError) as caught:
        _ = prompt.weights_path
    assert str(caught.value).startswith(f"{path}: replaced or altered: its SHA-256 is d9298a10d1b0")
    assert str(caught.value).endswith(RESTORE)


def test_missing_weights_are_found_at_once(tmp_path):
    path = _tune(tmp_path, "P17")
    save_prompts(tmp_path, "p-tuning", {"P17": P17})
    path.unlink()
    with pytest.raises(DataError, match="missing; the prompts were trained") as caught:
        load_prompts(tmp_path)
    assert str(path) in str(caught.value)


def _without_digests(folder):
    """Rewrite `prompts.json` as earlier versions wrote it."""
    record = read_json(folder / "prompts.json")
    del record["vectors"]
    for entry in record["prompts"].values():
        del entry["weights"]
    write_json(folder / "prompts.json", record)


def test_records_of_earlier_versions_are_read(tmp_path):
    path = _tune(tmp_path, "P17")
    save_prompts(tmp_path, "p-tuning", {"P17": P17, "rte": RTE})
    _without_digests(tmp_path)
    prompts = load_prompts(tmp_path)
    assert prompts["rte"] == RTE
    assert torch.equal(prompts["P17"].vectors, P17.vectors)
    assert prompts["P17"].weights_path == path
    with pytest.raises(DataError, match=r"weights/rte\.safetensors: missing"):
        load_prompts(tmp_path, tuned=True)


@pytest.mark.parametrize("damage", [_lose, _of_another_training, _of_another_length])
def test_vectors_of_another_shape_are_found_without_digests(tmp_path, damage):
    save_prompts(tmp_path, "p-tuning", {"P17": P17})
    _without_digests(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match="no 2 vectors for P17; restore it") as caught:
        load_prompts(tmp_path)
    assert str(tmp_path / "prompts.safetensors") in str(caught.value)


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_a_cut_file_of_vectors_is_found_without_digests(tmp_path, kept):
    save_prompts(tmp_path, "p-tuning", {"P17": P17})
    _without_digests(tmp_path)
    path = tmp_path / "prompts.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError) as caught:
        load_prompts(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_vectors_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path, value):
    vectors = torch.rand(2, 4)
    vectors[1, 2] = value
    message = "the prompt vectors of P17 contain NaN or infinity; train again"
    with pytest.raises(DataError, match=f"{tmp_path}: {message}"):
        save_prompts(tmp_path, "p-tuning", {"P30": P17, "P17": replace(P17, vectors=vectors)})
    assert not list(tmp_path.iterdir())
    save_prompts(tmp_path, "p-tuning", {"P17": P17})
    _without_digests(tmp_path)
    save_file({"P17": vectors}, tmp_path / "prompts.safetensors")
    with pytest.raises(DataError, match=f"{tmp_path}: {message}"):
        load_prompts(tmp_path)


def test_a_dev_score_that_is_not_finite_is_neither_saved_nor_loaded(tmp_path):
    with pytest.raises(DataError, match=r"prompts\.P17\.dev_score is nan"):
        save_prompts(tmp_path, "p-tuning", {"P17": replace(P17, dev_score=float("nan"))})
    save_prompts(tmp_path, "p-tuning", {"P17": P17})
    file = tmp_path / "prompts.json"
    file.write_text(file.read_text().replace("0.30000000000000004", "NaN"))
    with pytest.raises(DataError, match=f"{file}: has NaN in place of a number"):
        load_prompts(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["[]", "5", "null", "{}", '{"prompts": []}',
     '{"prompts": {"P17": []}}', '{"prompts": {"P17": {}}}',
     '{"vectors": 5, "prompts": {}}', "[" * 100_000, '{"a": ' + "9" * 5_000 + "}"],
)  # fmt: skip
def test_a_record_of_another_shape_is_named(tmp_path, content):
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "prompts.json"))):
        load_prompts(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"nothing": 1}, {"dev_score": "high"}, {"dev_score": None}, {"template": 5},
     {"prompt_tokens": "9"}, {"max_length": "8"}, {"verbalizer": [1]}, {"weights": 3},
     {"weights": {"file": "../x", "sha256": ""}}, {"weights": {"file": "/x", "sha256": ""}}],
)  # fmt: skip
def test_an_entry_of_another_shape_is_named(tmp_path, change):
    prompt = StoredPrompt("{subject} {mask}", None, 1, 0.5)
    save_prompts(tmp_path, "manual", {"P17": prompt})
    file = tmp_path / "prompts.json"
    record = json.loads(file.read_text())
    record["prompts"]["P17"] |= change
    file.write_text(json.dumps(record))
    with pytest.raises(DataError, match="prompts"):
        load_prompts(tmp_path)
