"""The write-ahead log against a store in memory; test_outage.py has real ones."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
import requests
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.errors import TrackingError
from pipeline.files import write_text
from pipeline.history import journal
from pipeline.history.events import Event, Kind, MlflowWriter, is_refusal, metric_points
from pipeline.history.journal import EventLog, LiveLog, send_all
from pipeline.history.store import store_identity

FIRST, SECOND = "a" * 32, "b" * 32
NAME = "train/lama/p-tuning"


class Store:
    """A writer that remembers its events, and may fail first."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.files: list[bytes] = []
        self.check: Callable[[Event], None] = lambda _: None

    def write(self, event: Event) -> None:
        self.check(event)
        self.events.append(event)
        if event.kind == "file":
            self.files.append(Path(event.values["path"]).read_bytes())

    @property
    def texts(self) -> list[str]:
        return [event.values["text"] for event in self.events if event.kind == "text"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of `ptune send`; the current folder is the test's own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    store = Store()
    client = SimpleNamespace(search_experiments=lambda **_: None)
    monkeypatch.setattr(journal, "connect", lambda: client)
    monkeypatch.setattr(journal, "MlflowWriter", lambda *_, **__: store)
    return store


def gone(*_: object) -> None:
    raise ConnectionError("http://me:secret@host is gone")


def text(value: str, run: str = FIRST, time: int = 1) -> Event:
    return Event("text", run, {"text": value, "name": "note.txt"}, time)


def logged(*values: str, run: str = FIRST, time: int = 1, store: str = "mlflow.db") -> EventLog:
    """The log that a killed stage left."""
    log = EventLog(run, name=NAME)
    log.folder.parent.mkdir(parents=True, exist_ok=True)
    log.store = store
    for value in values:
        log.append(text(value, run, time))
    return log


def reloaded(log: EventLog) -> EventLog:
    again = EventLog(log.run_id)
    again.load()
    return again


def folders() -> list[str]:
    return sorted(path.name for path in Path(".work/unsent").glob("*") if path.is_dir())


def send(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["send", *arguments])


def live(log: EventLog, store: Store) -> LiveLog:
    writer: Any = store
    return LiveLog(log, writer)


def test_an_event_is_on_disk_before_mlflow_gets_it(store: Store) -> None:
    log = logged()
    seen = []
    store.check = lambda _: seen.append([event.values["text"] for event in reloaded(log).pending])
    stage = live(log, store)
    stage.record(text("one"))
    stage.record(text("two"))
    assert seen == [["one"], ["two"]]
    assert store.texts == ["one", "two"]
    assert not log.pending
    assert not reloaded(log).pending


@pytest.mark.parametrize("value", ["Ünïcode\n\u2028line", "\udcff of a file name", ""])
def test_any_text_survives_the_disk(store: Store, value: str) -> None:
    assert reloaded(logged(value)).pending[0] == text(value)


def test_events_wait_while_mlflow_is_away_and_go_in_order(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    log = logged()
    writer: Any = store
    stage = LiveLog(log, writer, clock=lambda: now)
    tries = []

    def away(event: Event) -> None:
        nonlocal now
        now += 10  # a timeout
        tries.append(event)
        gone()

    store.check = away
    for number in range(3):
        stage.record(text(str(number)))
    assert len(tries) == 1
    now += 199
    stage.record(text("3"))
    assert len(tries) == 1
    store.check = lambda _: None
    now += 1
    stage.record(text("4"))
    assert store.texts == ["0", "1", "2", "3", "4"]
    warnings = capsys.readouterr().err
    assert warnings.count("warning: MLflow cannot be reached") == 1
    assert "the stage continues" in warnings
    assert "secret" not in warnings


def test_metrics_of_a_short_time_are_sent_together_and_are_on_disk_before(store: Store) -> None:
    now = 100.0
    log = logged()
    writer: Any = store
    stage = LiveLog(log, writer, clock=lambda: now)

    def record(run: str, step: int) -> list[tuple[str, list[int]]]:
        """What MLflow gets."""
        store.events.clear()
        stage.record(Event("metrics", run, {"points": [("dev/loss", 0.5, step, 7)]}))
        return [(e.run, [point[2] for point in e.values["points"]]) for e in store.events]

    assert record(FIRST, 0) == [(FIRST, [0])]  # soon visible
    assert record(FIRST, 1) == []
    assert record(SECOND, 0) == [(FIRST, [1]), (SECOND, [0])]
    for step in (2, 3):
        assert record(FIRST, step) == []
        assert record(SECOND, step - 1) == []
    assert len(reloaded(log).pending) == 4
    now += 10
    assert record(SECOND, 3) == [(FIRST, [2, 3]), (SECOND, [1, 2, 3])]
    assert record(FIRST, 4) == [(FIRST, [4])]
    assert record(FIRST, 5) == []
    stage.record(text("the end"))
    assert [event.kind for event in store.events] == ["metrics", "text"]
    assert not log.pending
    assert not reloaded(log).pending


def test_an_event_that_a_signal_interrupts_is_sent_again(store: Store) -> None:
    log = logged()
    stage = live(log, store)

    def interrupt(_: Event) -> None:
        raise KeyboardInterrupt

    store.check = interrupt
    with pytest.raises(KeyboardInterrupt):
        stage.record(text("one"))
    store.check = lambda _: None
    stage.record(text("two"))
    assert store.texts == ["one", "two"]


def test_a_file_is_sent_as_it_was_when_it_was_logged(store: Store) -> None:
    path = Path("table.csv")
    log = logged()
    for content in ("a", "b"):
        path.write_text(content)
        log.append(Event("file", FIRST, {"path": str(path), "folder": None}))
    path.unlink()
    assert [report.num_sent for report in send_all()] == [2]
    assert store.files == [b"a", b"b"]
    assert folders() == []


def test_what_mlflow_refuses_blocks_nothing(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(event: Event) -> None:
        if event.kind != "text" or event.values["text"] == "bad":
            raise answer(413)

    store.check = check
    log = logged()
    stage = live(log, store)
    stage.record(text("bad"))
    stage.record(Event("file", FIRST, {"path": "none.csv", "folder": None}))
    stage.record(text("good"))
    assert store.texts == ["good"]
    warnings = capsys.readouterr().err
    assert warnings.count("warning: MLflow refuses a log event (") == 1
    assert "secret" not in warnings

    logged("bad", "good", "bad", run=SECOND)
    (report,) = send_all()
    assert (report.num_sent, report.num_pending) == (1, 0)
    assert report.refused == ("text: 413 of http://***@host",) * 2
    assert folders() == []


def test_a_full_disk_costs_events_and_no_result(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    log = logged()
    stage = live(log, store)
    with monkeypatch.context() as small:
        small.setattr(os, "fsync", full)
        stage.record(text("sent without the log"))
    assert store.texts == ["sent without the log"]
    assert capsys.readouterr().err == ""
    store.check = gone
    stage.record(text("kept"))
    with monkeypatch.context() as small:
        small.setattr(os, "fsync", full)
        stage.record(text("lost"))
    stage.record(text("kept too"))
    assert "neither sent nor kept ([Errno 28] No space left" in capsys.readouterr().err
    store.check = lambda _: None
    assert [report.trouble for report in send_all()] == [""]
    assert store.texts[1:] == ["kept", "kept too"]


def test_a_line_that_a_kill_cut_is_dropped(store: Store) -> None:
    path = logged("one", "two").folder / "entries.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    log = reloaded(logged(run=FIRST))
    assert [event.values["text"] for event in log.pending] == ["one"]
    log.append(text("three"))
    assert [event.values["text"] for event in reloaded(log).pending] == ["one", "three"]
    path.write_bytes(whole[:10])
    assert list(send_all()) == []
    assert folders() == []


def test_a_log_of_an_earlier_version_is_sent(store: Store) -> None:
    folder = Path(".work/unsent") / FIRST
    folder.mkdir(parents=True)
    lines = [
        {"store": "mlflow.db", "name": "train/lama/p-tuning"},
        {"kind": "metrics", "run": FIRST, "values": {"step": 0, "metrics": {"a": 1}}, "time": 5},
        {"kind": "text", "run": FIRST, "values": {"text": "ü", "name": "n"}, "time": 6},
        {"kind": "step", "run": FIRST, "values": {"name": "lineage"}, "time": 7},
    ]
    dump = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    (folder / "entries.jsonl").write_text(dump, encoding="utf-8")
    (report,) = send_all()
    assert (report.name, report.num_sent, report.num_pending) == ("train/lama/p-tuning", 3, 0)
    kinds: list[Kind] = [event.kind for event in store.events]
    assert kinds == ["metrics", "text", "derived"]
    assert store.events[0].values == {"points": [("a", 1, 0, 5)]}


def test_what_was_logged_first_is_sent_first_also_after_a_try(store: Store) -> None:
    logged("second", run=FIRST, time=9)
    early = logged("first", run=SECOND, time=4)
    write_text(early.folder / "sent.txt", "0")
    assert [report.run_id for report in send_all()] == [SECOND, FIRST]
    assert store.texts == ["first", "second"]


def test_a_log_that_cannot_be_sent_blocks_those_behind_it(store: Store) -> None:
    logged("one", "bad", run=FIRST)
    logged("two", "three", run=SECOND, time=2)

    def check(event: Event) -> None:
        if event.values["text"] == "bad":
            gone()

    store.check = check
    first, second = send_all()
    assert (first.num_sent, first.num_pending) == (1, 1)
    assert first.trouble == "http://***@host is gone"
    assert (second.num_sent, second.num_pending) == (0, 2)
    assert second.trouble == f"blocked by events of train/lama/p-tuning {FIRST[:10]}"
    store.check = lambda _: None
    assert [report.num_pending for report in send_all()] == [0, 0]
    assert store.texts == ["one", "bad", "two", "three"]
    assert folders() == []


def test_a_log_that_is_never_accepted_can_be_dropped_for_the_rest(store: Store) -> None:
    logged("one", run=FIRST)
    logged("two", "three", run=SECOND, time=2)

    def check(event: Event) -> None:
        if event.run == FIRST:
            raise answer(500)

    store.check = check
    result = send()
    assert result.exit_code == 1
    assert f"`ptune send --drop {FIRST[:10]}` deletes them and sends the rest" in result.stderr
    assert "secret" not in result.output
    done = send("--drop", FIRST[:8])
    assert done.exit_code == 0, done.output
    assert f"dropped the unsent events of run {FIRST}" in done.stdout
    assert f"{SECOND[:10]}: 2 events sent" in done.stdout
    assert folders() == []


def test_one_log_is_dropped_at_a_time_and_none_of_a_running_stage(store: Store) -> None:
    nothing = send("--drop", "x")
    assert "events: none, MLflow is up to date" in nothing.stderr
    log = logged("one", run=FIRST)
    logged("two", run=SECOND)
    unknown, several = send("--drop", "x"), send("--drop", "")
    both = f"{FIRST}, {SECOND}"
    assert f"--drop x: matches 0 of the runs with unsent events: {both}\n" in unknown.stderr
    assert f"--drop : matches 2 of the runs with unsent events: {both}\n" in several.stderr
    with log.lock():
        running = send("--drop", FIRST)
    assert "its stage still runs; stop it first" in running.stderr
    assert {done.exit_code for done in (nothing, unknown, several, running)} == {1}
    assert folders() == [FIRST, SECOND]


@pytest.mark.parametrize("damaged", ["{half of", '{"kind": "tags", "run": [], "values": {}}'])
def test_a_log_that_cannot_be_parsed_is_named_and_can_be_dropped(
    store: Store, damaged: str
) -> None:
    path = logged("one", run=FIRST).folder / "entries.jsonl"
    header, line = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, f"{damaged}\n", line]))
    logged("two", run=SECOND)
    done = send()
    assert done.exit_code == 1
    assert f"entries.jsonl: cannot be parsed at {damaged!r}; fix the file, or drop" in done.stderr
    assert f"`ptune send --drop {FIRST[:10]}`" in done.stderr
    assert send("--drop", FIRST).exit_code == 0
    assert store.texts == ["two"]


def test_a_running_stage_sends_its_own_events(store: Store) -> None:
    log = logged("one")
    with log.lock():
        (report,) = send_all()
        assert (report.num_sent, report.num_pending, report.trouble) == (0, 1, "")
        assert "its stage still runs" in send().stdout
    assert [report.num_sent for report in send_all()] == [1]


def test_a_log_that_mlflow_has_is_deleted_in_silence(store: Store) -> None:
    log = logged("one")
    live(log, store).record(text("two"))  # the stage is then killed
    assert folders() == [FIRST]
    assert "nothing to send: MLflow is up to date" in send().stdout
    assert folders() == []


def test_events_of_another_store_stay(store: Store) -> None:
    log = logged("one", store="other.db")
    before = [path.read_bytes() for path in sorted(log.folder.iterdir())]
    logged("two", run=SECOND)
    result = send()
    assert result.exit_code == 1
    assert "they belong to other.db; set MLFLOW_TRACKING_URI to it" in result.stderr
    assert store.texts == ["two"]
    assert [path.read_bytes() for path in sorted(log.folder.iterdir())] == before


def test_nothing_is_sent_to_a_server_that_is_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged("one")
    monkeypatch.setattr(journal, "connect", lambda: SimpleNamespace(search_experiments=gone))
    with pytest.raises(TrackingError, match="Nothing is lost") as error:
        list(send_all())
    assert "secret" not in str(error.value)
    assert folders() == [FIRST]


def answer(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} of http://me:secret@host", response=response)


@pytest.mark.parametrize(
    ("status", "refused"),
    [
        (400, True), (413, True), (415, True), (401, False), (403, False), (404, False),
        (408, False), (429, False), (500, False), (502, False),
    ],
)  # fmt: skip
def test_an_answer_to_a_file_is_a_refusal_or_an_outage(status: int, refused: bool) -> None:
    assert is_refusal(answer(status)) == refused


class Client:
    """An MLflow client that stores whatever it gets, as often as it gets it."""

    def __init__(self) -> None:
        self.points: list[tuple[str, float, int]] = []
        self.sizes: list[int] = []
        self.fails = False

    def MlflowClient(self) -> "Client":
        return self

    def log_batch(self, _: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        self.points += [(metric.key, metric.value, metric.step) for metric in metrics]
        self.sizes.append(len([*metrics, *params, *tags]))
        if self.fails:
            raise TimeoutError("no answer")

    def get_metric_history(self, _: str, key: str) -> list[mlflow.entities.Metric]:
        return [mlflow.entities.Metric(k, v, 0, step) for k, v, step in self.points if k == key]


def test_a_metric_has_one_value_for_a_step_whatever_becomes_of_its_calls() -> None:
    client: Any = Client()
    writer = MlflowWriter(client, {})
    first, second = (
        Event("metrics", FIRST, {"points": metric_points({"dev/loss": 1.0 - step}, step)})
        for step in (0, 1)
    )
    writer.write(first)
    writer.write(first)
    client.fails = True
    with pytest.raises(TimeoutError):
        writer.write(second)
    client.fails = False
    writer.write(second)
    MlflowWriter(client, {}, check_existing=True).write(second)
    assert client.points == [("dev/loss", 1.0, 0), ("dev/loss", 0.0, 1)]


def test_many_values_go_in_requests_that_mlflow_accepts() -> None:
    client: Any = Client()
    many = {f"a/{number}": float(number) for number in range(250)}
    writer = MlflowWriter(client, {})
    writer.write(Event("params", FIRST, {key: str(value) for key, value in many.items()}))
    writer.write(Event("tags", FIRST, {key: str(value) for key, value in many.items()}))
    writer.write(Event("metrics", FIRST, {"points": 9 * metric_points(many, 0)}))
    assert client.sizes == [100, 100, 50] * 2 + [1000, 1000, 250]


@pytest.mark.parametrize(
    ("address", "identity"),
    [
        ("http://me:p@ss@host:5000/x?token=1", "http://host:5000/x"),
        ("postgresql://u:p@db/mlflow", "postgresql://db/mlflow"),
    ],
)
def test_the_name_of_a_store_holds_no_secret(
    monkeypatch: pytest.MonkeyPatch, address: str, identity: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert store_identity() == identity
