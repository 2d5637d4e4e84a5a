from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalfm.data import splits, work_folders
from evalfm.data.config import TableMapping
from evalfm.data.importing import import_data
from evalfm.data.manifest import Manifest, read_data
from evalfm.data.phantom import make_phantom
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
    return import_data("table", root, out, **{"mapping": MAPPING, **options})


def test_the_folder_is_whole_and_images_stay_where_they_are(root: Path, tmp_path: Path) -> None:
    data = run(root, tmp_path / "deep/out", seed=4)
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["out"]
    assert sorted(path.name for path in data.folder.iterdir()) == ["dataset.yaml", "manifest.parquet"]
    assert data.root == root
    again = read_data(data.folder)
    assert again.table.equals(data.table)
    assert again.splits.tolist() == splits.assign(again.patients, seed=4).tolist()
    assert again.info.split is not None
    assert (again.info.split.rule, again.info.split.seed) == ("hash", 4)
    assert "report" not in again.table
    assert "secret" not in (data.folder / "manifest.parquet").read_bytes().decode("latin-1")


def test_copies_are_those_that_the_table_names(root: Path, tmp_path: Path) -> None:
    data = run(root, tmp_path / "out", copy_images=True)
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
    assert run(root, tmp_path / "out", force=True, salt="pepper").info.salt == "pepper"


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
    copied = run(root, tmp_path / "out", copy_images=True)
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
        if self.name.startswith(work_folders.WRITING) and target == tmp_path / "out":
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)  # A system that exchanges no folders.
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(EvalfmError, match=r"out cannot be written \(disk full\)"):
        run(root, tmp_path / "out", force=True)
    monkeypatch.undo()
    assert read_data(tmp_path / "out").info == first.info
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "root"]


KILLED = """
import ctypes, os, shutil, signal, sys
from pathlib import Path
from evalfm.data.importing import import_data
from tests.data.test_importing import MAPPING

root, out, exchanged = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "True"
point = seen = 0

def tapped(step, allowed=True):
    def call(*arguments, **options):
        global seen
        if seen == point:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
        return step(*arguments, **options) if allowed else None
    return call

Path.rename = tapped(Path.rename)
ctypes.CDLL = tapped(ctypes.CDLL, exchanged)  # Asked for the call that exchanges two folders.
shutil.rmtree = tapped(shutil.rmtree)
# Each import is a fork, so that the libraries are loaded once.
for line in sys.stdin:
    point, process = int(line), os.fork()
    if process == 0:
        import_data("table", root, out, mapping=MAPPING, force=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="kills by a signal of Linux")
@pytest.mark.parametrize("exchanged", [True, False])
def test_a_kill_at_any_step_leaves_an_import_and_its_salt(root: Path, tmp_path: Path, exchanged: bool) -> None:
    out = tmp_path / "place/out"
    first = run(root, out)
    codes = []
    command = [sys.executable, "-c", KILLED, str(root), str(out), str(exchanged)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as importing:
        assert importing.stdin is not None
        assert importing.stdout is not None
        for point in range(12):
            print(point, file=importing.stdin, flush=True)
            codes.append(int(importing.stdout.readline()))
            # Reading brings back what was on its way.
            assert read_data(out).info.salt == first.info.salt
            assert read_data(out).splits.tolist() == first.splits.tolist()
            again = run(root, out, force=True)
            assert again.table["id"].tolist() == first.table["id"].tolist()
            assert [path.name for path in (tmp_path / "place").iterdir()] == ["out"]
            if not codes[-1]:
                break
        importing.stdin.close()
    assert set(codes[:-1]) == {-9}
    assert len(codes) >= (4 if exchanged else 6)
    assert codes[-1] == 0


@pytest.mark.skipif(os.name != "posix", reason="there is no umask")
@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_what_is_written_has_the_modes_that_the_umask_leaves(root: Path, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        run(root, tmp_path / "place/out", copy_images=True)
        make_phantom(tmp_path / "place/phantom", n=2, size=64)
    finally:
        os.umask(before)
    for path in [tmp_path / "place", *(tmp_path / "place").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path


def test_official_and_stratified_splits(root: Path, tmp_path: Path) -> None:
    for split, numbers in (("train", range(6)), ("val", range(6, 8)), ("test", range(8, 12))):
        (tmp_path / f"{split}.txt").write_text("".join(f"a/{number}.png\n" for number in numbers))
    (tmp_path / "lists").mkdir()
    data = run(
        root,
        tmp_path / "out",
        official=[tmp_path / f"{split}.txt" for split in ("train", "val", "test")],
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
    ("flag", "option"),
    [("--blank", {"blank": "unknown"}), ("--uncertain", {"uncertain": "zero"}), ("--subset", {"subset": "x"}),
     ("--labels", {"label_table": Path("x.csv")}), ("--join-on", {"join_on": "x"}),
     ("--burned-in-checked", {"burned_in_checked": True})],
)  # fmt: skip
def test_an_option_that_a_source_would_not_honour_is_refused(
    root: Path, tmp_path: Path, flag: str, option: dict[str, object]
) -> None:
    with pytest.raises(EvalfmError, match=f"'wingspan-ctr' knows no option {flag}, ") as caught:
        import_data("wingspan-ctr", root, tmp_path / "out", **option)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
