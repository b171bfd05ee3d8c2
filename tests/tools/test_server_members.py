"""Requests to MLflow for a member's account; real accounts: tests/test_server.py."""

from collections.abc import Mapping

import pytest
import requests

from tools.server.__main__ import _add_member
from tools.server.folder import Folder, from_lines
from tools.server.history import History


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Name -> password, as MLflow has them."""
    passwords: dict[str, str] = {}

    def answer(
        _: History, method: str, path: str, values: Mapping[str, str] | None = None
    ) -> requests.Response:
        response = requests.Response()
        response.status_code = 200
        if method != "GET":
            assert values is not None
            passwords[values["username"]] = values["password"]
        elif path.removeprefix("users/get?username=") not in passwords:
            response.status_code = 404
        return response

    monkeypatch.setattr(History, "_request", answer)
    return passwords


def stored_password(folder: Folder) -> str:
    """The password that is in Ada's file."""
    return from_lines(folder.member_file("ada").read_text())["MLFLOW_TRACKING_PASSWORD"]


def test_a_member_who_is_named_again_keeps_the_password(
    folder: Folder, accounts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _add_member(folder, "ada")
    first = stored_password(folder)
    assert accounts == {"ada": first}
    assert first in capsys.readouterr().out
    accounts["ada"] = "a password of her own"
    _add_member(folder, "ada")
    assert accounts == {"ada": "a password of her own"}
    assert stored_password(folder) == first
    assert first not in capsys.readouterr().out


def test_an_account_that_is_gone_is_made_again_as_it_was_reported(
    folder: Folder, accounts: dict[str, str]
) -> None:
    _add_member(folder, "ada")
    first = accounts.pop("ada")
    _add_member(folder, "ada")
    assert accounts == {"ada": first}


def test_without_the_file_a_member_gets_a_new_password(
    folder: Folder, accounts: dict[str, str]
) -> None:
    _add_member(folder, "ada")
    first = stored_password(folder)
    folder.member_file("ada").unlink()
    _add_member(folder, "ada")
    assert accounts == {"ada": stored_password(folder)}
    assert stored_password(folder) != first
