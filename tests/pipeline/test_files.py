import csv
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.files import (
    atomic_dir,
    link_or_copy,
    read_csv,
    read_json,
    read_jsonl,
    read_object,
    read_progress,
    sha256,
    write_csv,
    write_json,
    write_jsonl,
    write_text,
    written_durably,
)
from tests.hostile import NAMES

PROJECT = Path(__file__).parents[2]

# Letters, marks, numbers, punctuation and spaces of every script, and line breaks.
anything = st.text(st.characters(exclude_categories=["C"]) | st.sampled_from("\n\u2028\u0085"))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _run(code: str, *arguments: object) -> int:
    """Run Python code that uses `pipeline.files` in another process; return how it ended."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, timeout=600).returncode


def test_a_staged_folder_appears_when_the_work_is_done(tmp_path):
    target = tmp_path / "deep" / "target"
    with atomic_dir(target) as folder:
        assert _names(folder) == []
        (folder / "file").write_text("new")
        assert not target.exists()
    assert (target / "file").read_text() == "new"
    assert _names(target.parent) == ["target"]


def test_a_staged_folder_takes_the_place_of_the_old_one(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    with atomic_dir(target) as folder:
        (folder / "new").touch()
        assert _names(target) == ["old"]
    assert _names(target) == ["new"]
    assert _names(tmp_path) == ["target"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [False, True])
def test_a_failure_leaves_things_as_they_were(tmp_path, error, old):
    target = tmp_path / "target"
    if old:
        target.mkdir()
        (target / "file").write_text("old")

    def work() -> None:
        with atomic_dir(target) as folder:
            (folder / "file").write_text("half")
            raise error

    with pytest.raises(error):
        work()
    assert _names(tmp_path) == (["target"] if old else [])
    if old:
        assert (target / "file").read_text() == "old"


_KILLED_AT_WORK = """
import os, sys
from pathlib import Path
from pipeline.files import atomic_dir
with atomic_dir(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    os._exit(9)
"""


@pytest.mark.parametrize("old", [False, True])
def test_a_kill_leaves_the_target_as_it_was_and_the_next_attempt_starts_afresh(tmp_path, old):
    target = tmp_path / "target"
    if old:
        target.mkdir()
        (target / "old").touch()
    assert _run(_KILLED_AT_WORK, target) == 9
    assert len(_names(tmp_path)) == 1 + old  # the leftover is there
    assert not target.exists() or _names(target) == ["old"]
    with atomic_dir(target) as folder:
        assert _names(folder) == []
    assert _names(tmp_path) == ["target"]


_KILLED_AT_REMOVING = """
import os, shutil, sys
from pathlib import Path
from pipeline import files
real = shutil.rmtree
def rmtree(path, *args, **kwargs):
    found = sorted(Path(path).glob("old*"))
    if not found:
        return real(path, *args, **kwargs)
    found[0].unlink()
    os._exit(9)
files.shutil.rmtree = rmtree
with files.atomic_dir(Path(sys.argv[1])) as folder:
    (folder / "new1").touch()
    (folder / "new2").touch()
"""


def test_a_kill_while_the_old_folder_goes_leaves_the_target_absent_or_whole(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old1").touch()
    (target / "old2").touch()
    assert _run(_KILLED_AT_REMOVING, target) == 9
    assert not target.exists() or _names(target) in (["old1", "old2"], ["new1", "new2"])


def test_a_large_file_gets_a_second_name_without_a_copy(tmp_path):
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(b"weights")
    link_or_copy(source, target)
    assert target.samefile(source)
    source.unlink()
    assert target.read_bytes() == b"weights"


def test_where_names_cannot_be_shared_a_large_file_is_copied(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(b"weights")
    link_or_copy(source, target)
    assert target.read_bytes() == b"weights"
    assert not target.samefile(source)


def test_text_is_written_byte_for_byte(tmp_path):
    write_text(tmp_path / "deep" / "file", "a\nü\n\r\n")
    assert (tmp_path / "deep" / "file").read_bytes() == "a\nü\n\r\n".encode()


def _one_then_error():
    yield {"a": 1}
    raise RuntimeError


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda path: write_text(path, "good\n\udc80"), UnicodeEncodeError),
        (lambda path: write_json(path, {"a": [1, object()]}), TypeError),
        (lambda path: write_jsonl(path, _one_then_error()), RuntimeError),
        (lambda path: write_csv(path, ["a"], _one_then_error()), RuntimeError),
        (lambda path: write_csv(path, ["a"], [{"a": 1}, {"b": 2}]), ValueError),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, write, error, old):
    path = tmp_path / "file"
    if old:
        path.write_text("old")
    with pytest.raises(error):
        write(path)
    assert _names(tmp_path) == (["file"] if old else [])
    assert not old or path.read_text() == "old"


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "new"),
        lambda path: write_json(path, [1, 2]),
        lambda path: write_jsonl(path, [{"a": 1}]),
        lambda path: write_csv(path, ["a"], [{"a": 1}]),
    ],
)
def test_a_kill_before_the_renaming_leaves_the_old_file(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    path.write_text("old")
    seen = []
    rename = Path.replace

    def replace(partial: Path, target: Path) -> None:
        seen.append((target.read_text(), partial.stat().st_size > 0, partial.parent))
        rename(partial, target)

    monkeypatch.setattr(Path, "replace", replace)
    write(path)
    assert seen == [("old", True, tmp_path)]
    assert path.read_text() != "old"
    assert _names(tmp_path) == ["file"]


def test_json_keeps_the_order_of_keys_and_every_letter(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"b": "Zürich", "a": [1, None]})
    assert path.read_text() == '{\n  "b": "Zürich",\n  "a": [\n    1,\n    null\n  ]\n}\n'
    assert list(read_json(path)) == ["b", "a"]


@settings(deadline=None, max_examples=50)
@given(records=st.lists(st.dictionaries(anything, anything | st.integers() | st.none())))
def test_records_come_back_as_they_were_written(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("records") / "file.jsonl"
    write_jsonl(path, records)
    assert read_jsonl(path) == records
    assert path.read_bytes().count(b"\n") == len(records)


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.fixed_dictionaries({"a": anything, "b, c": anything})))
def test_tables_come_back_as_they_were_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("tables") / "file.csv"
    write_csv(path, ["a", "b, c"], rows)
    assert read_csv(path) == rows


def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    rows = [{"a": name, "@b": name} for name in NAMES]
    write_csv(tmp_path / "file.csv", ["a", "@b"], rows)
    with (tmp_path / "file.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert len(cells) == 2 * (1 + len(NAMES))
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r\n")]
    assert [row["a"] for row in read_csv(tmp_path / "file.csv")] == NAMES


def test_numbers_in_a_table_lose_no_digit(tmp_path):
    numbers = [0.1 + 0.2, 1 / 3, 1e-17, 12345.678901234567, -0.0]
    write_csv(tmp_path / "file.csv", ["n"], [{"n": number} for number in numbers])
    with (tmp_path / "file.csv").open(newline="") as file:
        assert [float(row[0]) for row in list(csv.reader(file))[1:]] == numbers


@pytest.mark.parametrize("read", [read_csv, read_json, read_jsonl])
def test_a_file_that_is_not_there_is_named_with_the_next_step(tmp_path, read):
    with pytest.raises(DataError, match="no such file; `dvc repro` creates it") as caught:
        read(tmp_path / "absent")
    assert str(tmp_path / "absent") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"{'a': 1}", b'{"a": 1} {"a": 2}', b"\xff"])
def test_what_is_not_json_is_named(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not JSON") as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"a": 1, "b"', "not JSON"),
        ("nothing", "not JSON"),
        ("[1]", "expected an object, found list"),
        ("7", "expected an object, found int"),
        ('{"b": 1}', "no a in this line"),
        ("{}", "no a, b in this line"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, said):
    path = tmp_path / "file.jsonl"
    path.write_text('{"a": 1, "b": 2}\n\n' + line + '\n{"a": 1, "b": 2}\n')
    with pytest.raises(DataError) as caught:
        read_jsonl(path, ["a", "b"])
    assert str(caught.value).startswith(f"{path}:3: {said}")


def test_a_cut_file_is_recognized_by_its_last_line(tmp_path):
    path = tmp_path / "file.jsonl"
    write_jsonl(path, [{"a": number} for number in range(5)])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"file\.jsonl:5: not JSON"):
        read_jsonl(path)


def test_records_in_another_encoding_are_refused(tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_bytes(json.dumps({"a": "ü"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8") as caught:
        read_jsonl(path)
    assert str(path) in str(caught.value)


def test_empty_lines_and_a_missing_last_line_break_do_no_harm(tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_text('\n{"a": 1}\n  \n{"a": 2}')
    assert read_jsonl(path, ["a"]) == [{"a": 1}, {"a": 2}]


def test_the_digest_is_that_of_the_standard(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "file") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    large = b"0123456789" * 300_000
    (tmp_path / "large").write_bytes(large)
    assert sha256(tmp_path / "large") == hashlib.sha256(large).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_not_written(tmp_path, value):
    path = tmp_path / "file.json"
    with pytest.raises(DataError, match=rf"{path}: not written, as a\.1\.b is {value}, "):
        write_json(path, {"a": [0.5, {"b": value}]})
    with pytest.raises(DataError, match=rf"{path}: not written, as loss is {value}, "):
        write_jsonl(path, [{"loss": 1.0}, {"loss": value}])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_not_finite_are_not_read(tmp_path, value):
    path = tmp_path / "file.json"
    path.write_text(f'{{"a": [1, {value}]}}')
    with pytest.raises(DataError, match=f"{path}: has {value} in place of a number; delete it"):
        read_json(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "9" * 5_000 + "}"])
@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_json_that_python_cannot_hold_is_named(tmp_path, text, read):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match="not JSON"):
        read(path)


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(DataError, match="Is a directory; check it"):
        read_json(tmp_path)


@pytest.mark.parametrize("text", ["[1]", "5", "null", '"a"'])
def test_what_is_no_object_is_named(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"{path}: not a JSON object; delete it"):
        read_object(path)


@pytest.mark.parametrize("content", [b"a,b\n\xff\xfe,1\n", b"a\n" + b"x" * 200_000 + b"\n"])
def test_a_damaged_table_is_named(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: not CSV "):
        read_csv(path)


def test_a_table_with_ragged_rows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for content in ("a,b\n1\n", "a,b\n1,2,3\n"):
        path.write_text(content)
        with pytest.raises(DataError, match=f"{path}: a row has another number of cells"):
            read_csv(path)


def _write_file(folder: Path) -> Path:
    write_text(folder / "file", "text")
    return folder / "file"


def _write_folder(folder: Path) -> Path:
    with atomic_dir(folder / "target") as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "file").write_text("text")
    return folder / "target"


@pytest.mark.parametrize("write", [_write_file, _write_folder])
def test_all_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path]
) -> None:
    synced: list[int] = []
    before: list[set[int]] = []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    def noting_replace(path: Path, target: Path) -> Path:
        before.append(set(synced))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    written = write(tmp_path)
    (renamed,) = before
    assert {path.stat().st_ino for path in (written, *written.rglob("*"))} <= renamed
    assert synced[-1] == tmp_path.stat().st_ino


def test_a_file_system_without_sync_for_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    assert _write_file(tmp_path).read_text() == "text"


def test_a_disk_that_fills_up_at_the_sync_leaves_the_old_file_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write_file(tmp_path)

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=r"No space left on device: .*file") as raised:
        write_text(path, "other")
    assert raised.value.filename == str(path)
    assert _names(tmp_path) == ["file"]
    assert path.read_text() == "text"


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (RuntimeError("Error while serializing: I/O error: full (os error 28)"), "No space left"),
    ],
)
def test_what_a_library_makes_of_a_full_disk_is_an_error_of_the_file(tmp_path, error, named):
    def write() -> None:
        with written_durably(tmp_path / "file") as partial:
            partial.write_text("half")
            try:
                raise error
            finally:
                raise RuntimeError("unexpected position")

    with pytest.raises(OSError, match=f"{named}.*: '{tmp_path}/file'"):
        write()
    assert _names(tmp_path) == []


def _raise(error: Exception) -> Callable[[Path], str]:
    def parse(_: Path) -> str:
        raise error

    return parse


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
    ids=repr,
)
def test_progress_that_cannot_be_read_is_not_taken_for_damaged(tmp_path, error):
    path = _write_file(tmp_path)
    with pytest.raises(DataError, match=f"^{path}: .*check the file, its permissions and the disk"):
        read_progress(path, _raise(error))
    assert _names(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("closed", ["file", "folder"])
def test_progress_of_another_user_is_left_as_it_is(tmp_path, closed):
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    path = tmp_path / "folder" / "file"
    write_text(path, "text")
    (path if closed == "file" else path.parent).chmod(0o600)
    code = (
        "import os, sys; from pathlib import Path; from pipeline.errors import DataError\n"
        "from pipeline.files import read_progress\n"
        "os.setuid(65534)\n"
        "try: read_progress(Path(sys.argv[1]), Path.read_text)\n"
        "except DataError as error: sys.exit(3 if 'Permission denied' in str(error) else 4)"
    )
    assert _run(code, path) == 3
    assert _names(path.parent) == ["file"]
