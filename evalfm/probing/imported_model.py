"""What stands for encoder and head of imported predictions, of which nothing is here."""

from __future__ import annotations

from torch import Tensor

from evalfm.data.manifest import Manifest
from evalfm.features.tables import ConstantSource
from evalfm.heads.head import Context, Examples, Fit, Head
from evalfm.probing.import_config import ImportPredictionsConfig
from evalfm.probing.session import EncoderSession
from evalfm.record import IMPORTED

UNKNOWN = "unknown"


class ImportedHead(Head):
    """What stands for the head of imported predictions: no part of a model is here."""

    name = IMPORTED
    kinds = frozenset[str]()
    needs = frozenset[str]()
    deterministic = True

    @property
    def grid(self) -> dict[str, object]:
        """Nothing that is known."""
        return {}

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Nothing learns here."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Nothing predicts here."""
        raise NotImplementedError


class _NoFeatures(ConstantSource):
    """In place of features, which predictions from elsewhere have none of; the key is that of what was imported."""

    def __init__(self, manifest: Manifest, digest: str) -> None:
        super().__init__(manifest)
        self._digest = digest

    @property
    def key(self) -> str:
        """Changes whenever a prediction does."""
        return self._digest


def imported_session(config: ImportPredictionsConfig, manifest: Manifest, digest: str) -> EncoderSession:
    """What a run records of the model in place of an encoder: its name, and the data that it is said to have seen."""
    seen = [{"name": each, "what": "images or labels"} for each in config.pretraining_data]
    card = {"name": config.name, "family": IMPORTED, "paradigm": UNKNOWN, "pretraining_data": seen}
    source = _NoFeatures(manifest, digest)
    return EncoderSession(config.name, source, None, card, devices=(UNKNOWN,), precision=UNKNOWN)
