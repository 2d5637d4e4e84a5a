"""Grids of probes as YAML: planned before anything runs, resumable, every result in one tidy table."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalfm.study.config import Assumed as Assumed
    from evalfm.study.config import Study as Study
    from evalfm.study.config import configs as configs
    from evalfm.study.config import load_study as load_study
    from evalfm.study.plan import Plan as Plan
    from evalfm.study.plan import make_plan as make_plan
    from evalfm.study.running import StudyRuns as StudyRuns
    from evalfm.study.running import run_study as run_study

_HOME = {
    "Assumed": "config",
    "Plan": "plan",
    "Study": "config",
    "StudyRuns": "running",
    "configs": "config",
    "load_study": "config",
    "make_plan": "plan",
    "run_study": "running",
}

__all__ = [
    "Assumed",
    "Plan",
    "Study",
    "StudyRuns",
    "configs",
    "load_study",
    "make_plan",
    "run_study",
]


def __getattr__(name: str) -> Any:
    # A study's names are checked without torch; only its running imports it.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
