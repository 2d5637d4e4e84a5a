"""From the name of a data set to a question that can be asked: read, checked and posed before any computing."""

from __future__ import annotations

from pathlib import Path

import evalfm
from evalfm.data.manifest import Manifest, read_data
from evalfm.data.phantom import make_phantom
from evalfm.data.registered import cache_folder, registered
from evalfm.errors import EvalfmError
from evalfm.probing.settings import Settings
from evalfm.probing.splits import limited
from evalfm.progress import Progress
from evalfm.tasks.cohort import Cohort, resolve_task, select_cohort
from evalfm.tasks.truth import masks_of

PHANTOM = "phantom"
PHANTOM_IMAGES = 400
PHANTOM_SIZE = 256


def default_phantom(progress: Progress) -> Manifest:
    """The phantom that stands in where no data set is named: made once, then read from the cache."""
    # Another version may draw or deal it otherwise.
    folder = cache_folder() / f"phantom-{PHANTOM_IMAGES}-{PHANTOM_SIZE}-{evalfm.__version__}"
    if not (folder / "dataset.yaml").is_file():
        make_phantom(folder, n=PHANTOM_IMAGES, size=PHANTOM_SIZE, progress=progress)
    return Manifest.read(folder)


def load_manifest(data: str | Path | Manifest | None, task: str, progress: Progress) -> Manifest:
    """The manifest of a folder, a registered name, or the task's registered set; else the phantom.

    Raises:
        EvalfmError: there is no such data set, or it has faults.
    """
    if isinstance(data, Manifest):
        return data
    name = str(data) if data is not None else (task if task in registered() else PHANTOM)
    if name == PHANTOM and PHANTOM not in registered():
        return default_phantom(progress)
    return read_data(name)


def load_question(settings: Settings, data: str | Path | Manifest | None, progress: Progress) -> Cohort:
    """Pose the task of ``settings`` to ``data``, after every fault of the data has been looked for.

    Raises:
        EvalfmError: the data have faults, or nothing is left to ask.
    """
    manifest = load_manifest(data, settings.task, progress)
    if not len(manifest):
        raise EvalfmError(f"Data set {manifest.info.name} has no rows; import it again or check the file.")
    task = resolve_task(settings.task, manifest)
    manifest.validate(deep=True, findings=masks_of(task, manifest), progress=progress)
    return limited(select_cohort(task, manifest, settings.where), settings.limit)
