"""Base-to-novel: text heads learn on the first half of the classes, and are tried on that and on the other half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evalfm.cautions import Caution
from evalfm.errors import EvalfmError
from evalfm.heads.head import Context, Examples, Head, Text
from evalfm.heads.text.classifier import TextHead
from evalfm.metrics.classes import HALVES
from evalfm.probing.operating import Operating
from evalfm.probing.recording import HeadResult
from evalfm.probing.scoring import Scores, pooled_columns
from evalfm.probing.splits import Split
from evalfm.statistics.classification import FEWEST_TO_HALVE, base_classes
from evalfm.tasks.cohort import Cohort
from evalfm.tasks.kinds import BASE_TO_NOVEL, kind_of


def base_and_novel(class_names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first ceil(C / 2) classes, and the rest.

    Raises:
        EvalfmError: two classes are called the same, or a half would be one class.

    >>> base_and_novel(["edema", "mass", "nodule", "effusion"])
    (('edema', 'mass'), ('nodule', 'effusion'))
    """
    names = tuple(class_names)
    if len({name.casefold() for name in names}) < len(names):
        raise EvalfmError(f"Two of the classes {', '.join(names)} are called the same; give each a name of its own.")
    if len(names) < FEWEST_TO_HALVE:
        raise EvalfmError(
            f"Base-to-novel needs {FEWEST_TO_HALVE} classes or more, and there are {len(names)} ({', '.join(names)}): "
            "in a half of one class every answer is right; take a task of more classes."
        )
    half = base_classes(len(names))
    return names[:half], names[half:]


def as_base_to_novel(cohort: Cohort, heads: Sequence[Head]) -> Cohort:
    """The cohort under a name of its own, with the metrics of this protocol.

    Raises:
        EvalfmError: it has no exclusive classes, or a head could not name a class that it has not learned.
    """
    if not cohort.kind.exclusive:
        raise EvalfmError(f"--base-to-novel needs several classes; {cohort.task.name} is {cohort.task.kind}.")
    base_and_novel(cohort.class_names)
    deaf = [head.name for head in heads if not isinstance(head, TextHead)]
    if deaf:
        raise EvalfmError(
            f"--base-to-novel has classes that were never seen, which {', '.join(deaf)} cannot name; "
            "take --head zeroshot, coop, biomedcoop or biomed-dpt."
        )
    name = f"{cohort.task.name}-{BASE_TO_NOVEL}"
    return replace(
        cohort,
        task=cohort.task.model_copy(update={"name": name, "metrics": tuple(metric.name for metric, _ in HALVES)}),
    )


def fit_halves(
    head: TextHead, split: Split, train: Examples, val: Examples, test: Examples, context: Context
) -> HeadResult:
    """Fit ``head`` on base classes, and score test images of either half among the classes of their half."""
    assert context.text is not None
    base, novel = base_and_novel(context.class_names)
    texts = [Text(context.text.prompts.of(names), context.text.tower) for names in (base, novel)]
    fit = head.fit(train, val, replace(context, class_names=base, text=texts[0]))
    heads = head, head.for_classes(texts[1])
    on_val, on_test = (
        pooled_columns(_scores(heads, part_of, len(base)), part_of.target, kind_of(context.kind), context.class_names)
        for part_of in (val, test)
    )
    note = Caution(
        "base-to-novel",
        f"Base-to-novel: learnt on {', '.join(base)}; tested on these among themselves and on {', '.join(novel)} among "
        "themselves; harmonic mean 2bn / (b + n) of the two accuracies.",
    )
    with_note = replace(fit, cautions=(note, *fit.cautions))
    return HeadResult(split, with_note, Scores(on_val, on_test, Operating()), head.tensors())


def _scores(heads: tuple[TextHead, TextHead], examples: Examples, base: int) -> NDArray[np.float64]:
    """[N, C]: probabilities over the classes of the image's own half, NaN over the other."""
    of_base, of_novel = (head.predict(examples) for head in heads)
    scores = np.concatenate([of_base, of_novel], axis=1)
    own = (np.arange(scores.shape[1]) < base) == (examples.target < base)[:, None]
    return np.where(own, scores, np.nan)
