"""Grids of probes as YAML: planned before anything runs, resumable, every result in one tidy table."""

from __future__ import annotations

from evalfm.study.cell import Cell, Machine
from evalfm.study.config import Study, configs, load_study
from evalfm.study.executor import Executor, Outcome, SerialExecutor
from evalfm.study.plan import Assumed, Plan, make_plan
from evalfm.study.running import StudyRuns, run_study

__all__ = [
    "Assumed",
    "Cell",
    "Executor",
    "Machine",
    "Outcome",
    "Plan",
    "SerialExecutor",
    "Study",
    "StudyRuns",
    "configs",
    "load_study",
    "make_plan",
    "run_study",
]
