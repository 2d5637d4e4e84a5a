"""Runs as one file that a journal can keep: records, predictions, heads, tables, and the digest of each."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from evalfm import __version__
from evalfm.data.atomic import new_file
from evalfm.errors import EvalfmError
from evalfm.predictions import EPISODES, LESIONS, PREDICTIONS
from evalfm.refits import REFITS
from evalfm.run import HEAD, RECORD, Run

KEPT = (RECORD, PREDICTIONS, REFITS, LESIONS, EPISODES, HEAD)
"""Files of a run that are kept; weights of encoders are not, run.json holds their digest."""
DIGESTS = "SHA256SUMS"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Of every file within, so that the same runs are the same archive, byte by byte."""
READ_ME = f"""Results of evalfm {__version__}.

Each folder under runs/ is a run: run.json (configuration, cards, versions, figures with intervals), predictions.parquet
(one row per val and test image), and the head's weights. `evalfm compare runs`, `evalfm report runs` and `evalfm bias
runs` read them; `sha256sum --check {DIGESTS}` says whether every file is what it was. Ids are hashed unless they are
published. Images and encoders' weights are not here: run.json names the data set, its version and licence, and the
SHA-256 of the weights.
"""


def check_archive(path: Path) -> None:
    """Ask, before anything is computed, whether an archive can be written to ``path``.

    Raises:
        EvalfmError: the name ends otherwise, or it is there.
    """
    if path.suffix != ".zip":
        raise EvalfmError(f"An archive is a .zip file; call it {path.name}.zip.")
    if path.exists():
        raise EvalfmError(f"{path} is there already; name another file.")


def write_archive(runs: Sequence[Run], path: Path, beside: Mapping[str, bytes]) -> int:
    """Write ``runs``, and the files ``beside`` by name, into one .zip with their digests; how many files it holds.

    The same runs give the same bytes.

    Raises:
        EvalfmError: the name ends otherwise, it is there, or a file of a run cannot be read.

    >>> import evalfm, tempfile
    >>> runs = evalfm.probe("pixels", "ptx-cls", heads=["linear"], baselines="none", out=tempfile.mkdtemp())
    >>> write_archive(runs, Path(tempfile.mkdtemp()) / "runs.zip", {})
    6
    """
    check_archive(path)
    sums: dict[str, str] = {}
    with new_file(path) as place, zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (*_files(runs), *sorted(beside.items()), ("README.txt", READ_ME.encode())):
            sums[name] = hashlib.sha256(content).hexdigest()
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
        lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
        archive.writestr(zipfile.ZipInfo(DIGESTS, EPOCH), lines, zipfile.ZIP_DEFLATED)
    return len(sums) + 1


def _files(runs: Sequence[Run]) -> Iterator[tuple[str, bytes]]:
    for run in sorted(runs, key=lambda run: (run.folder.parts[-3:], run.record.key)):
        folder = PurePosixPath("runs", run.record.key[:16], *run.folder.parts[-3:])
        for name in KEPT:
            file = run.folder / name
            try:
                if file.is_file():
                    yield str(folder / name), file.read_bytes()
            except OSError as error:
                raise EvalfmError(f"{file} cannot be read ({error.strerror}); the archive was not written.") from error
