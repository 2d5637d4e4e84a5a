from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalfm.data import splits
from evalfm.data.importing import import_data
from evalfm.data.manifest import Manifest, read_data
from evalfm.data.sources import TableMapping
from evalfm.errors import EvalfmError

MAPPING = TableMapping(name="mine", patient="who", labels={"ptx": "ptx"}, masks={"ptx": "mask"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "a").mkdir(parents=True)
    lines = ["file_name,who,ptx,mask,report"]
    for number in range(12):
        Image.fromarray(np.full((4, 5), number, np.uint8)).save(folder / f"a/{number}.png")
        lines.append(f"a/{number}.png,{number // 2:03d},{number % 2},{'m.png' if number == 0 else '-1'},secret words")
    Image.fromarray(np.full((4, 5), 255, np.uint8)).save(folder / "m.png")
    (folder / "unused.png").touch()
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(root: Path, out: Path, **options: object) -> Manifest:
    return import_data("table", root, out, **{"mapping": MAPPING, **options})  # type: ignore[arg-type]


def test_the_folder_is_whole_and_images_stay_where_they_are(root: Path, tmp_path: Path) -> None:
    data = run(root, tmp_path / "deep/out", seed=4)
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["out"]
    assert sorted(path.name for path in data.folder.iterdir()) == ["dataset.yaml", "manifest.parquet"]
    assert data.root == root
    again = read_data(data.folder)
    assert again.table.equals(data.table)
    assert again.splits.tolist() == splits.assign(again.patients, name="mine", seed=4).tolist()
    assert again.info.split is not None
    assert (again.info.split.rule, again.info.split.seed) == ("hash", 4)
    assert "report" not in again.table
    assert "secret" not in (data.folder / "manifest.parquet").read_bytes().decode("latin-1")


def test_copies_are_those_that_the_table_names(root: Path, tmp_path: Path) -> None:
    data = run(root, tmp_path / "out", copy=True)
    files = sorted(str(path.relative_to(data.root)) for path in data.root.rglob("*.png"))
    assert files == sorted([*(f"a/{number}.png" for number in range(12)), "m.png"])
    assert data.info.root == "files"
    (tmp_path / "out").rename(tmp_path / "moved")
    for path in root.rglob("*.png"):
        path.unlink()
    read_data(tmp_path / "moved").validate()


def test_nothing_is_written_where_anything_is_wrong(root: Path, tmp_path: Path) -> None:
    (root / "a/3.png").unlink()
    with pytest.raises(EvalfmError, match=r"row 4: image 'a/3\.png' is not there"):
        run(root, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


def test_importing_again_needs_force_and_keeps_the_salt(root: Path, tmp_path: Path) -> None:
    first = run(root, tmp_path / "out")
    assert first.info.salt is not None
    assert len(first.info.salt) == 32
    with pytest.raises(EvalfmError, match="--force"):
        run(root, tmp_path / "out")
    second = run(root, tmp_path / "out", force=True, seed=9)
    assert second.info.salt == first.info.salt
    assert second.info.split != first.info.split
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "root"]
    assert run(root, tmp_path / "other").info.salt != first.info.salt


def test_a_folder_that_is_no_import_is_never_touched(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run(root, tmp_path / "empty")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    with pytest.raises(EvalfmError, match=r"something other than an import \(thesis\.tex\)"):
        run(root, precious, force=True)
    (precious / "dataset.yaml").write_text("name: x\n")
    with pytest.raises(EvalfmError, match=r"something other than an import \(thesis\.tex\)"):
        run(root, precious, force=True)
    assert (precious / "thesis.tex").read_text() == "years of work"
    with pytest.raises(EvalfmError, match="is a file"):
        run(root, precious / "thesis.tex")


def test_a_pipe_is_never_replaced_and_a_link_stays(root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for force in (False, True):
        with pytest.raises(EvalfmError, match="file or device"):
            run(root, tmp_path / "pipe", force=force)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("made")
    salt = run(root, tmp_path / "link").info.salt
    assert run(root, tmp_path / "link", force=True).info.salt == salt
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "made" / "manifest.parquet").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "made", "pipe", "root"]


def test_the_root_is_never_replaced(root: Path, tmp_path: Path) -> None:
    copied = run(root, tmp_path / "out", copy=True)
    (copied.root / "metadata.csv").write_text((root / "metadata.csv").read_text())
    with pytest.raises(EvalfmError, match="images lie in"):
        run(copied.root, tmp_path / "out", force=True)
    with pytest.raises(EvalfmError, match="something other than an import"):
        run(root, root, force=True)


def test_a_failure_while_publishing_leaves_the_earlier_import(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(root, tmp_path / "out")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.startswith(".out.") and target == tmp_path / "out":
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="disk full"):
        run(root, tmp_path / "out", force=True)
    monkeypatch.undo()
    assert read_data(tmp_path / "out").info == first.info
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "root"]


def test_official_and_stratified_splits(root: Path, tmp_path: Path) -> None:
    for part, numbers in (("train", range(6)), ("val", range(6, 8)), ("test", range(8, 12))):
        (tmp_path / f"{part}.txt").write_text("".join(f"a/{number}.png\n" for number in numbers))
    (tmp_path / "lists").mkdir()
    data = run(
        root,
        tmp_path / "out",
        official=[tmp_path / f"{part}.txt" for part in ("train", "val", "test")],
        mapping=MAPPING.model_copy(update={"id": "file_name"}),
    )
    assert data.splits.tolist() == ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    stratified = run(root, tmp_path / "stratified", stratify="ptx")
    assert stratified.info.split is not None
    assert stratified.info.split.stratify == "ptx"


def test_wrong_calls_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalfmError, match="There is no folder"):
        run(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(EvalfmError, match="Did you mean 'table'"):
        import_data("tabel", root, tmp_path / "out")
    with pytest.raises(
        EvalfmError, match=r"'nih-cxr14' knows no option a mapping of columns, .*'table'.*leave it out\.$"
    ):
        import_data("nih-cxr14", root, tmp_path / "out", mapping=MAPPING)


@pytest.mark.parametrize(
    "option",
    [{"blank": "unknown"}, {"uncertain": "zero"}, {"part": "x"}, {"labels": Path("x.csv")}, {"on": "x"},
     {"burned_in_checked": True}],
)  # fmt: skip
def test_an_option_that_a_source_would_not_honour_is_refused(
    root: Path, tmp_path: Path, option: dict[str, object]
) -> None:
    (name,) = option
    with pytest.raises(EvalfmError, match=f"'wingspan-ctr' knows no option --{name.replace('_', '-')}, ") as caught:
        import_data("wingspan-ctr", root, tmp_path / "out", **option)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
