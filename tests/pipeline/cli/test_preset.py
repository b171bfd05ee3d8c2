import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.config.schema import load_params
from tests.project import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: the repository's parameters and two of its presets."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    (tmp_path / "presets").mkdir()
    for name in ("lama-smollm2.yaml", "lama-34k-bert-base.yaml"):
        shutil.copyfile(ROOT / "presets" / name, tmp_path / "presets" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["preset", *arguments])


def test_list_prints_names_and_what_they_are(project: Path) -> None:
    result = invoke("list")
    assert result.exit_code == 0
    assert result.stdout.split("\n") == [
        "lama-34k-bert-base  Table 3, left: LAMA-34k, bert-base-cased; manual, discrete, P-tuning.",
        "lama-smollm2        LAMA-34k, SmolLM2-135M-Instruct, all 41 relations; manual, P-tuning.",
        "",
    ]


def test_show_prints_the_preset_and_what_it_would_change(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    result = invoke("show", "lama-smollm2")
    assert result.exit_code == 0
    assert result.stdout.startswith((project / "presets/lama-smollm2.yaml").read_text())
    assert "Would change params.yaml:\n" in result.stdout
    assert "\n  lama.source: geonames -> lama\n" in result.stdout
    assert "  seed:" not in result.stdout.split("Would change")[1]
    assert (project / "params.yaml").read_bytes() == before


def test_apply_writes_what_show_announced(project: Path) -> None:
    announced = invoke("show", "lama-smollm2").stdout.split("Would change params.yaml:\n")[1]
    result = invoke("apply", "lama-smollm2")
    assert result.exit_code == 0
    assert result.stdout == (
        f"Changed in params.yaml:\n{announced}Run it: dvc repro   Undo: git checkout params.yaml\n"
    )
    assert load_params(project / "params.yaml").lama.source == "lama"
    for again in (invoke("apply", "lama-smollm2"), invoke("show", "lama-smollm2")):
        assert "params.yaml already has these values.\n" in again.stdout


def test_apply_sets_more_values_over_the_presets(project: Path) -> None:
    mirror = project / "mirror"
    mirror.mkdir()
    result = invoke(
        "apply", "lama-smollm2", "--set", f"data.mirror={mirror}", "--set", "lama.methods=[manual]"
    )
    assert result.exit_code == 0
    params = load_params(project / "params.yaml")
    assert params.data.mirror == str(mirror)
    assert params.lama.methods == ["manual"]
    assert params.lama.relations == "all"


def test_other_files_can_be_named(project: Path) -> None:
    (project / "presets").rename(project / "mine")
    (project / "params.yaml").rename(project / "other.yaml")
    options = ["--params", "other.yaml", "--presets", "mine"]
    result = invoke("apply", "lama-smollm2", *options)
    assert result.exit_code == 0
    assert "Changed in other.yaml:" in result.stdout
    assert load_params(project / "other.yaml").lama.source == "lama"
    assert "other.yaml already has" in invoke("show", "lama-smollm2", *options).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lama-smolm2"], "presets has no preset 'lama-smolm2'; did you mean lama-smollm2?"),
        (
            ["lama-smollm2", "--set", "sede=1"],
            "--set sede=1: sede: unknown key; did you mean 'seed'",
        ),
        (["lama-smollm2", "--set", "seed=x"], "params.yaml: seed: "),
        (["lama-smollm2", "--set", "lama.relations=[P1]"], "'P1' is not a relation of lama"),
        (["lama-smollm2", "--params", "none.yaml"], "none.yaml: no such file"),
        (["lama-smollm2", "--presets", "none"], "none: no such folder"),
    ],
)
def test_what_is_wrong_ends_in_its_message(project: Path, arguments: list[str], said: str) -> None:
    before = (project / "params.yaml").read_bytes()
    result = invoke("apply", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stdout == ""
    assert (project / "params.yaml").read_bytes() == before


def test_a_misspelled_key_in_a_preset_is_named(project: Path) -> None:
    (project / "presets/mine.yaml").write_text("# Mine.\nlama:\n  relation: all\n")
    for command in ("show", "apply"):
        result = invoke(command, "mine")
        assert result.exit_code == 1
        assert "presets/mine.yaml: lama.relation: unknown key; did you mean 'relations'?" in (
            result.stderr
        )


def test_a_file_that_cannot_be_written_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (project / "params.yaml").read_bytes()
    rename = Path.replace

    def refused(source: Path, target: Path) -> Path:
        if target == project / "params.yaml":
            raise PermissionError(13, "Permission denied", str(target))
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", refused)
    result = invoke("apply", "lama-smollm2")
    assert result.exit_code == 1
    assert f"Permission denied: '{project / 'params.yaml'}'" in result.stderr
    assert (project / "params.yaml").read_bytes() == before
    assert not list(project.glob(".*"))
