from pathlib import Path

import pytest

from evalfm.errors import EvalfmError
from evalfm.workers import shared_folders
from evalfm.workers.shared_folders import SharedFolders, answer, folder_digest, offered, unanswered


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folders, "PATIENCE_SECONDS", 0.2)


def elsewhere(folders: SharedFolders, folder: Path) -> SharedFolders:
    """What another machine makes of ``folders``, where every path leads to ``folder``."""
    return SharedFolders(dict.fromkeys(folders.paths, str(folder)), folders.tokens, folders.digests)


def test_who_sees_the_same_folders_answers_and_nothing_stays(tmp_path: Path) -> None:
    out, data = tmp_path / "new" / "out", tmp_path / "data"
    data.mkdir()
    with offered({"--out": out}, {"data": data}) as folders:
        assert answer(folders, "0") == {}
        assert unanswered(folders, "0") == []
        assert unanswered(folders, "1") == ["--out"]
        assert len(list(out.iterdir())) == 2
    assert list(out.iterdir()) == []
    assert list(data.iterdir()) == []


def test_words_go_when_the_check_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), offered({"--out": tmp_path}, {}):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_another_folder_under_the_same_path_is_told(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    with offered({"--out": here}, {"data": here}) as folders:
        assert answer(elsewhere(folders, there), "0") == {"--out": "is not there", "data": "is not there"}
        there.mkdir()
        # An empty folder is as the data's is, but the word is not in it.
        assert answer(elsewhere(folders, there), "0") == {"--out": "is another folder"}
        assert list(there.iterdir()) == []
        (there / "manifest.csv").touch()
        assert answer(elsewhere(folders, there), "0")["data"] == "has other contents"


def test_a_word_that_is_another_is_no_answer(tmp_path: Path) -> None:
    with offered({"--out": tmp_path}, {}) as folders:
        (word,) = tmp_path.iterdir()
        word.write_text("something else")
        assert answer(folders, "0") == {"--out": "is another folder"}


def test_a_folder_that_takes_no_answer_is_told(tmp_path: Path) -> None:
    with offered({"--out": tmp_path}, {}) as folders:
        (word,) = tmp_path.iterdir()
        # Nobody writes there, be it root.
        taken = word.with_name(f"{word.name}-0")
        taken.mkdir()
        assert answer(folders, "0")["--out"].startswith("cannot be written to (")
        taken.rmdir()


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with (
        pytest.raises(EvalfmError, match=r"folder of --out, .*out', cannot be written to .*choose another"),
        offered({"--out": tmp_path / "out"}, {}),
    ):
        pass
    with (
        pytest.raises(EvalfmError, match=r"folder of data, .*absent', cannot be read .*check the path"),
        offered({"--out": tmp_path / "made"}, {"data": tmp_path / "absent"}),
    ):
        pass
    assert list((tmp_path / "made").iterdir()) == []


def test_the_table_is_the_contents_of_a_data_set_and_images_beside_it_are_not_looked_at(tmp_path: Path) -> None:
    def changed(name: str, content: str) -> bool:
        before = folder_digest(tmp_path)
        (tmp_path / name).write_text(content)
        return folder_digest(tmp_path) != before

    # Without a table names and sizes count; what a file system or evalfm keeps for itself is no content.
    assert changed("image.png", "12")
    assert changed("image.png", "123")
    assert not changed("image.png", "321")
    assert not changed(".digests", "x")
    assert changed("manifest.csv", "id\n1\n")
    assert changed("manifest.csv", "id\n2\n")
    assert changed("dataset.yaml", "name: a\n")
    assert changed("dataset.yaml", "name: b\n")
    assert not changed("image.png", "1234")
    of_file = folder_digest(tmp_path / "manifest.csv")
    assert changed("manifest.csv", "id\n3\n")
    assert folder_digest(tmp_path / "manifest.csv") != of_file
