"""The page over the whole history, read back as a browser would."""

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

from pipeline.errors import printable
from pipeline.history.results import Result
from pipeline.results.history import history_page
from tests.hostile import NAMES, text_of
from tests.pipeline.history.chain import DOWNLOAD, EVALUATE, SPLIT, TRAIN, run
from tests.pipeline.results.test_compare import DAY, make

RUNS = [run(of, f"{number:032x}", number) for number, of in enumerate((DOWNLOAD, SPLIT, TRAIN))]
RUNS.append(run(EVALUATE, "e" * 32, 9, metrics={"seconds": 90.0}, dirty=True))
RUNS.reverse()


class Page(HTMLParser):
    """Tables as rows of texts, targets of links, ids, and names of tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.tags: list[str] = []
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [values["href"] or ""] if "href" in values else []
        self.ids |= {values["id"] or ""} if "id" in values else set()
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[-1][-1][-1] += data.strip("\n")


def results(**changes: object) -> list[Result]:
    tags = {"hardware": "2 cores of X", "mlflow.source.git.commit": "abc1234567"}
    common = {"tags": tags, "seconds": {"train": 60.0, "evaluate": 30.0}, **changes}
    newer = make("p-tuning", 0.5, params={"lama.subset": "29k", "a.rate": "2"}, current=True)
    older = make("p-tuning", 0.25, params={"lama.subset": "29k", "a.rate": "1"})
    return [
        Result(**{**vars(newer), **common, "run_id": "e" * 32}),
        Result(**{**vars(older), **common, "ended": DAY - timedelta(days=1)}),
    ]


def test_a_row_relates_settings_to_scores_times_and_commit() -> None:
    page = Page(history_page(results(), RUNS, DAY))
    table, _ = page.tables
    head, first, second = table
    assert dict(zip(head, first, strict=True)) == {
        "date": "2026-11-25 12:00", "": "*", "task": "lama", "method": "p-tuning",
        "settings": "rate=2", "test": "50.0", "dev": "50.0", "minutes": "1.5",
        "machine": "2 cores of X", "commit": "abc12345", "run": "eeeeeeee",
    }  # fmt: skip
    assert (second[0], second[4], second[5]) == ("2026-11-24 12:00", "rate=1", "25.0")


def test_links_lead_from_a_score_to_its_run_and_to_what_it_was_made_from() -> None:
    page = Page(history_page(results()[:1], RUNS, DAY))
    rows = {row[1]: row for row in page.tables[1][1:]}
    assert rows["evaluate@p"][3:6] == ["1.5", "abc123", "yes"]
    assert rows["evaluate@p"][6].split() == ["train@p", "00000000,", "split", "00000000"]
    assert rows["download"][6] == ""
    assert {link.removeprefix("#") for link in page.links} <= page.ids
    assert page.ids == {run.run_id for run in RUNS}


def test_names_cannot_bring_markup_into_the_page() -> None:
    attack = f'">{" ".join(NAMES)}'
    plain = Page(history_page(results(), RUNS, DAY))
    spoiled = results(
        model=attack, source=attack, task=attack, tags={"hardware": attack}, benchmark="superglue",
        params={"superglue.protocol": attack, attack: attack},
    )  # fmt: skip
    spoiled = [
        Result(**{**vars(of), "method": attack, "run_id": attack + str(number)})
        for number, of in enumerate(spoiled)
    ]
    runs = [run(TRAIN, attack, 1, name=attack, commit=attack)]
    html = history_page(spoiled, runs, datetime(2026, 1, 1, tzinfo=UTC))
    text_of(html)
    page = Page(html)
    assert page.tags.count("script") == plain.tags.count("script") == 1
    assert "img" not in page.tags
    assert printable(attack) in page.tables[0][1]
