import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import evalfm
from evalfm.workers import software as module
from evalfm.workers.software import differences, software


def test_what_makes_a_figure_is_named() -> None:
    facts = software()
    assert facts["evalfm"] == evalfm.__version__
    assert facts["torch"] == version("torch")
    assert facts["python"] == ".".join(map(str, sys.version_info[:2]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"evalfm": "0.2.0"}, ["evalfm 0.2.0 instead of 0.1.0"]),
        ({"torch": "2.8.0+cpu"}, ["torch 2.8.0+cpu instead of 2.8.0"]),
        ({"python": "3.12", "torch": "1.0"}, ["torch 1.0 instead of 2.8.0", "python 3.12 instead of 3.11"]),
        ({"code": "b"}, ["other code under the same version of evalfm"]),
        # Another version has other code; that is said once.
        ({"evalfm": "0.2.0", "code": "b"}, ["evalfm 0.2.0 instead of 0.1.0"]),
    ],
)
def test_every_difference_is_told(change: dict[str, str], said: list[str]) -> None:
    here = {"evalfm": "0.1.0", "torch": "2.8.0", "python": "3.11", "code": "a"}
    assert differences(here, here | change) == said


def test_what_the_other_does_not_tell_is_a_difference() -> None:
    assert differences({"torch": "2.8.0"}, {}) == ["torch none instead of 2.8.0"]


def test_code_and_cards_count_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest() -> str:
        module.code_digest.cache_clear()
        return software()["code"]

    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    (tmp_path / "cards").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "cards" / "b.yaml").write_text("name: b\n")
    first = digest()
    # An installed package has the studies in it, and what Python has compiled.
    (tmp_path / "_configs").mkdir()
    (tmp_path / "_configs" / "study.yaml").write_text("name: s\n")
    (tmp_path / "a.pyc").write_bytes(b"1")
    assert digest() == first
    (tmp_path / "cards" / "b.yaml").write_text("name: c\n")
    second = digest()
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    assert len({first, second, digest()}) == 3
    module.code_digest.cache_clear()
