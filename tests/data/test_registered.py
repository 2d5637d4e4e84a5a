from __future__ import annotations

from pathlib import Path

import pytest

from evalfm.data.registered import cache_folder, home_folder, register, registered, registered_folder
from evalfm.errors import EvalfmError, UnknownNameError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset.yaml").write_text("schema: 1\nname: x\n")
    return tmp_path / "data"


def test_the_home_is_chosen_by_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home_folder() == home
    assert cache_folder() == home / "cache"
    monkeypatch.delenv("EVALFM_HOME")
    assert home_folder() == Path.home() / ".evalfm"


def test_names_are_remembered_and_replaced(home: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registered() == {}
    monkeypatch.chdir(data.parent)
    register("siim-acr", Path("data"))
    register("a", data)
    assert registered() == {"a": data, "siim-acr": data}
    assert registered_folder("siim-acr") == data
    assert [path.name for path in home.iterdir()] == ["data.json"]


def test_wrong_names_and_folders_are_refused(home: Path, data: Path, tmp_path: Path) -> None:
    for name in ("", "a/b", ".hidden", " x", "..", "a\\b"):
        with pytest.raises(EvalfmError, match="cannot name a data set"):
            register(name, data)
    with pytest.raises(EvalfmError, match=r"holds no dataset\.yaml"):
        register("x", tmp_path)
    assert not home.exists()


def test_unknown_gone_and_damaged_are_distinguished(home: Path, data: Path) -> None:
    with pytest.raises(UnknownNameError, match="None is known"):
        registered_folder("siim")
    register("siim-acr", data)
    with pytest.raises(UnknownNameError, match="Did you mean 'siim-acr'"):
        registered_folder("siim-arc")
    (data / "dataset.yaml").unlink()
    data.rmdir()
    with pytest.raises(EvalfmError, match="which is gone"):
        registered_folder("siim-acr")
    (home / "data.json").write_text("{")
    with pytest.raises(EvalfmError, match="remove it and register again"):
        registered()
    (home / "data.json").write_text('{"a": 1}')
    with pytest.raises(EvalfmError, match="must map names to folders"):
        registered()
