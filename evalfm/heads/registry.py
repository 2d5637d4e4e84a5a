"""The heads by name: light to import, each class loaded when it is needed."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalfm.errors import EvalfmError, UnknownNameError

if TYPE_CHECKING:
    from evalfm.heads.head import Head


@dataclass(frozen=True)
class HeadEntry:
    """One head as it is listed.

    Attributes:
        name: the word on the command line.
        kinds: the task kinds it serves.
        needs: what it reads: ``pooled``, ``maps`` or ``text``.
        summary: what it is, in one line.
        location: ``module:Class``.
    """

    name: str
    kinds: tuple[str, ...]
    needs: tuple[str, ...]
    summary: str
    location: str


_ENTRIES = (
    HeadEntry(
        "linear",
        ("binary", "multilabel"),
        ("pooled",),
        "logistic regression on standardised pooled features, C chosen by val log-loss",
        "evalfm.heads.linear:LinearHead",
    ),
    HeadEntry(
        "linear",
        ("multiclass",),
        ("pooled",),
        "softmax regression on standardised pooled features, C chosen by val log-loss",
        "evalfm.heads.linear:SoftmaxHead",
    ),
    HeadEntry(
        "linear",
        ("ordinal",),
        ("pooled",),
        "proportional odds on standardised pooled features, C chosen by val log-loss",
        "evalfm.heads.ordinal:OrdinalHead",
    ),
    HeadEntry(
        "linear",
        ("segmentation",),
        ("maps",),
        "one 1×1 convolution on the deepest map",
        "evalfm.heads.segmentation.light:LinearDenseHead",
    ),
    HeadEntry(
        "knn",
        ("binary", "multiclass", "ordinal"),
        ("pooled",),
        "cosine nearest neighbours with similarity-weighted votes, k chosen by val log-loss",
        "evalfm.heads.knn:NeighbourHead",
    ),
    HeadEntry(
        "prototypes",
        ("binary", "multiclass", "ordinal"),
        ("pooled",),
        "cosine to the mean of each class, nothing chosen",
        "evalfm.heads.knn:PrototypeHead",
    ),
    HeadEntry(
        "ridge",
        ("regression",),
        ("pooled",),
        "ridge regression on standardised pooled features, penalty chosen by val squared error",
        "evalfm.heads.regression:RidgeHead",
    ),
    HeadEntry(
        "from-mask",
        ("regression",),
        ("maps",),
        "area or cardiothoracic ratio measured on masks that a multiscale head predicts",
        "evalfm.heads.from_mask:FromMaskHead",
    ),
    HeadEntry(
        "mlp",
        ("binary", "multilabel", "multiclass", "ordinal", "regression"),
        ("pooled",),
        "one hidden layer on standardised pooled features, rate and epoch chosen on val",
        "evalfm.heads.nonlinear:PerceptronHead",
    ),
    HeadEntry(
        "attentive",
        ("binary", "multilabel", "multiclass", "ordinal", "regression"),
        ("maps",),
        "a learnt query attends over the cells of the deepest map, rate and epoch chosen on val",
        "evalfm.heads.nonlinear:AttentiveHead",
    ),
    HeadEntry(
        "zeroshot",
        ("binary", "multilabel", "multiclass", "ordinal"),
        ("pooled", "text"),
        "nearest sentence of an image-text encoder, averaged over names and templates; nothing is learnt",
        "evalfm.heads.text.zeroshot:ZeroShotHead",
    ),
    HeadEntry(
        "coop",
        ("binary", "multiclass", "ordinal"),
        ("pooled", "text"),
        "a learnt context before the class's name, cross-entropy alone (CoOp)",
        "evalfm.heads.text.learned:CoOpHead",
    ),
    HeadEntry(
        "biomedcoop",
        ("binary", "multiclass", "ordinal"),
        ("pooled", "text"),
        "a learnt context held to an ensemble of sentences, of which each batch chooses (BiomedCoOp)",
        "evalfm.heads.text.learned:BiomedCoOpHead",
    ),
    HeadEntry(
        "biomed-dpt",
        ("binary", "multiclass", "ordinal"),
        ("pooled", "text"),
        "a learnt context in a clinical template, held to sentences; for biomedclip@zero-prompt (Biomed-DPT)",
        "evalfm.heads.text.learned:BiomedDPTHead",
    ),
    HeadEntry(
        "multiscale",
        ("segmentation",),
        ("maps",),
        "all maps projected, summed at a fine grid and read by a light convolutional decoder",
        "evalfm.heads.segmentation.light:MultiscaleHead",
    ),
    HeadEntry(
        "global-local",
        ("segmentation",),
        ("maps", "pooled"),
        "the multiscale decoder, its maps modulated and its mask gated by the pooled embedding",
        "evalfm.heads.segmentation.light:GlobalLocalHead",
    ),
    HeadEntry(
        "upernet",
        ("segmentation",),
        ("maps",),
        "UPerNet of segmentation-models-pytorch on all maps, with group norm",
        "evalfm.heads.segmentation.upernet:UPerNetHead",
    ),
    HeadEntry(
        "unet",
        ("segmentation",),
        ("maps",),
        "the U-Net decoder of segmentation-models-pytorch, for encoders whose maps fall in resolution",
        "evalfm.heads.segmentation.unet:UNetHead",
    ),
    HeadEntry(
        "all-empty",
        ("segmentation",),
        (),
        "baseline: an empty mask for every image",
        "evalfm.heads.segmentation.baselines:AllEmpty",
    ),
    HeadEntry(
        "mean-mask",
        ("segmentation",),
        (),
        "baseline: the mean of the training masks on every image",
        "evalfm.heads.segmentation.baselines:MeanMask",
    ),
)


def list_heads() -> tuple[HeadEntry, ...]:
    """Every head there is; a name may stand more than once, for different kinds of task.

    >>> sorted({entry.name for entry in list_heads()})[:4]
    ['all-empty', 'attentive', 'biomed-dpt', 'biomedcoop']
    """
    return _ENTRIES


def load_head(name: str, kind: str) -> Head:
    """A fresh head called ``name`` for tasks of ``kind``, with its default grid.

    Raises:
        UnknownNameError: there is no head of that name.
        EvalfmError: the head does not serve ``kind``.

    >>> load_head("ridge", "regression").needs
    frozenset({'pooled'})
    """
    module, _, attribute = find_head(name, kind).location.partition(":")
    head: Head = getattr(importlib.import_module(module), attribute)()
    return head


def find_head(name: str, kind: str | None = None) -> HeadEntry:
    """The entry of the head called ``name`` for tasks of ``kind`` (None: for any); nothing is imported.

    Raises:
        UnknownNameError: there is no head of that name.
        EvalfmError: the head does not serve ``kind``.

    >>> find_head("linear", "segmentation").summary
    'one 1×1 convolution on the deepest map'
    """
    named = [entry for entry in _ENTRIES if entry.name == name]
    if not named:
        raise UnknownNameError("head", name, {entry.name for entry in _ENTRIES})
    for entry in named:
        if kind is None or kind in entry.kinds:
            return entry
    served = sorted({other.name for other in _ENTRIES if kind in other.kinds})
    remedy = "take " + " or ".join(repr(other) for other in served) if served else "no head serves it"
    raise EvalfmError(f"The head {name!r} does not serve {kind} tasks; {remedy}.")
