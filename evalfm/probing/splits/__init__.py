"""Kinds of splits, a module each: which images of a cohort are trained on, chosen on and tested."""

from evalfm.probing.splits.make import draw_splits, limited, make_splits, unlearnable
from evalfm.probing.splits.split import Split, SplitInput, SplitKind

__all__ = ["Split", "SplitInput", "SplitKind", "draw_splits", "limited", "make_splits", "unlearnable"]
