"""Words for what a run may be asked beside the kinds of task."""

BASE_TO_NOVEL = "base-to-novel"
"""Not a kind of task, but another split of exclusive classes: learnt on one half, tested on the other."""
