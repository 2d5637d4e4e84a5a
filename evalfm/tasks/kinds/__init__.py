"""The kinds of task, a module each: their names are compared here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from evalfm.tasks.kinds.base_to_novel import BASE_TO_NOVEL as BASE_TO_NOVEL
from evalfm.tasks.kinds.binary import BINARY as BINARY
from evalfm.tasks.kinds.kind import Kind as Kind
from evalfm.tasks.kinds.multiclass import MULTICLASS as MULTICLASS
from evalfm.tasks.kinds.multilabel import MULTILABEL
from evalfm.tasks.kinds.ordinal import ORDINAL as ORDINAL
from evalfm.tasks.kinds.regression import REGRESSION as REGRESSION
from evalfm.tasks.kinds.segmentation import SEGMENTATION

KINDS = {each.name: each for each in (BINARY, MULTILABEL, MULTICLASS, ORDINAL, SEGMENTATION, REGRESSION)}
"""What a task card may name."""
EPISODES = Kind(name="episodes", most=0)
"""Of runs of few-shot episodes, which have no predictions."""
ANSWERED = {each.name: each for each in (BASE_TO_NOVEL, EPISODES, *KINDS.values())}
"""What a run may answer. A table of predictions is of the first that knows it."""
if TYPE_CHECKING:
    KindName = str
else:
    KindName = Literal[tuple(KINDS)]


def kind_of(name: str) -> Kind:
    """The kind called ``name``, of a task or of what a run answers.

    >>> kind_of("binary").yes_or_no, kind_of("ordinal").ordered
    (True, True)
    """
    return ANSWERED[name]
