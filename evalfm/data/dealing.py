"""Give a manifest its split, and say in dataset.yaml how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evalfm.data import splits
from evalfm.data.dataset_info import SplitRule
from evalfm.data.manifest import Manifest
from evalfm.errors import EvalfmError


def deal(
    manifest: Manifest,
    *,
    seed: int = 0,
    fractions: splits.Fractions = splits.DEFAULT_FRACTIONS,
    stratify: str | None = None,
    official: Sequence[Path] = (),
    where: str | None = None,
) -> Manifest:
    """The manifest with a new split by patient: by hash, or as one of the options says.

    Args:
        manifest: with or without a split, which is replaced.
        seed: of the hash.
        fractions: of train, val and test, where those are dealt.
        stratify: a label whose share is kept equal in all splits.
        official: lists of ids named ``train…``, ``val…``, ``test…``; without a list of val it is drawn from
            train.
        where: an expression; its patients are test, all others train and val.

    Raises:
        EvalfmError: more than one option is given, or the option does not fit the data.
    """
    chosen = [word for word, value in (("stratify", stratify), ("official", official), ("where", where)) if value]
    if len(chosen) > 1:
        raise EvalfmError(f"A split follows one rule, not {' and '.join(chosen)}; choose one of them.")
    patients, name = manifest.patients, manifest.info.name
    if official:
        split = splits.import_ids(manifest.table["id"].to_numpy(dtype=object), official)
        rule = SplitRule(rule="official")
        if not np.any(split == "val"):
            split = splits.val_from_train(split, patients, name=name, seed=seed)
            rule = SplitRule(rule="official", seed=seed, note="val is drawn by patient from the list of train")
    elif where:
        split = splits.test_where(patients, manifest.where(where), name=name, seed=seed)
        rule = SplitRule(rule="test-where", seed=seed, where=where)
    elif stratify:
        labels = manifest.label(stratify)
        split = splits.stratified(patients, labels, name=name, seed=seed, fractions=fractions)
        rule = SplitRule(rule="stratified", seed=seed, fractions=fractions, stratify=stratify)
    else:
        split = splits.assign(patients, name=name, seed=seed, fractions=fractions)
        rule = SplitRule(rule="hash", seed=seed, fractions=fractions)
    return manifest.with_split(split, manifest.info.model_copy(update={"split": rule}))
