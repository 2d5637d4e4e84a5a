"""The trained encoders of a finished run, from its own files."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import Tensor

from evalfm.data.manifest import Manifest
from evalfm.encoders.adaptation.lora import load_lora
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore
from evalfm.probing.session import EncoderSession
from evalfm.run import ENCODER, Run


def by_fold(run: Run, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """``tensors`` of a run, one mapping per fold where there are folds."""
    folds = run.record.data.folds
    if not folds:
        return [tensors]
    groups: list[dict[str, Tensor]] = [{} for _ in range(folds)]
    for name, value in tensors.items():
        fold, _, rest = name.partition(".")
        number = fold.removeprefix("fold")
        if not number.isdecimal() or int(number) >= folds:
            raise EvalfmError(f"{run.folder} holds {name!r}, which is of none of its {folds} folds; copy it again.")
        groups[int(number)][rest] = value
    return groups


def trained_sources(run: Run, session: EncoderSession, manifest: Manifest, folder: Path) -> list[EncodedSource]:
    """A feature source per fold of the encoder as the run trained it; none where it was frozen.

    ``session`` holds the encoder that training started from; ``folder`` takes the features while they are needed. The
    caller closes the sources.

    Raises:
        EvalfmError: the run lacks its encoder, or its tensors do not fit the card.
    """
    if run.adaptation == "frozen":
        return []
    tensors = run.encoder_tensors()
    if not tensors or not isinstance(session.source, EncodedSource):
        raise EvalfmError(f"{run.folder} has no {ENCODER}, which holds its trained encoder; run it again with --force.")
    store = FeatureStore(folder)
    return [
        EncodedSource(_restored(session.source.encoder, run, group), manifest, store, maps="stream")
        for group in by_fold(run, tensors)
    ]


def _restored(encoder: Encoder, run: Run, tensors: dict[str, Tensor]) -> Encoder:
    trained = copy.deepcopy(encoder)
    if run.adaptation == "lora":
        load_lora(trained, tensors)
    else:
        try:
            trained.load_state_dict(tensors)
        except RuntimeError as error:
            raise EvalfmError(
                f"{run.folder / ENCODER} does not fit {run.encoder} ({str(error).splitlines()[-1].strip()}); "
                "install the library versions that run.json names."
            ) from None
    trained.eval()
    trained.seal()
    return trained
