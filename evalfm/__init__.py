"""evalfm: how good the features of a radiology foundation model are, and which encoder to take.

The public names are imported when they are first used, so that `import evalfm` is quick:
`probe`, `ProbeConfig`, `benchmark`, `predict`, `embed`, `load_encoder`, `from_module`, `load_task`, `load_data`,
`load_study`, `run_study`, `find_runs`, `import_predictions`, `Run`, `Study`, `EvalfmError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from evalfm.config import ProbeConfig as ProbeConfig
    from evalfm.data.manifest import Manifest as Manifest
    from evalfm.data.manifest import read_data
    from evalfm.encoders import from_module as from_module
    from evalfm.encoders import load_encoder as load_encoder
    from evalfm.errors import EvalfmError as EvalfmError
    from evalfm.probing.embedding import embed as embed
    from evalfm.probing.import_predictions import import_predictions as import_predictions
    from evalfm.probing.predict import predict as predict
    from evalfm.probing.probe import probe as probe
    from evalfm.run import Run as Run
    from evalfm.run import find_runs as find_runs
    from evalfm.study import Study as Study
    from evalfm.study import load_study as load_study
    from evalfm.study import run_study as run_study
    from evalfm.study.benchmark import benchmark as benchmark
    from evalfm.tasks.task import load_task as load_task

    load_data = read_data

_PUBLIC = {
    "EvalfmError": ("evalfm.errors", "EvalfmError"),
    "Manifest": ("evalfm.data.manifest", "Manifest"),
    "ProbeConfig": ("evalfm.config", "ProbeConfig"),
    "Run": ("evalfm.run", "Run"),
    "Study": ("evalfm.study", "Study"),
    "benchmark": ("evalfm.study.benchmark", "benchmark"),
    "embed": ("evalfm.probing.embedding", "embed"),
    "find_runs": ("evalfm.run", "find_runs"),
    "from_module": ("evalfm.encoders", "from_module"),
    "import_predictions": ("evalfm.probing.import_predictions", "import_predictions"),
    "load_data": ("evalfm.data.manifest", "read_data"),
    "load_encoder": ("evalfm.encoders", "load_encoder"),
    "load_study": ("evalfm.study", "load_study"),
    "load_task": ("evalfm.tasks.task", "load_task"),
    "predict": ("evalfm.probing.predict", "predict"),
    "probe": ("evalfm.probing.probe", "probe"),
    "run_study": ("evalfm.study", "run_study"),
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'evalfm' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
