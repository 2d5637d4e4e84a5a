"""The baselines that every table carries, run once per question as ordinary runs."""

from __future__ import annotations

from evalfm.heads import load_head
from evalfm.probing.cells import Cell
from evalfm.probing.opened import Opened, metadata_columns, open_encoder
from evalfm.probing.settings import EncoderSettings, Settings
from evalfm.probing.texts import reads_text
from evalfm.progress import Progress
from evalfm.tasks.question import Question

MASK_FLOORS = ("all-empty", "mean-mask")


def floor_cells(
    settings: Settings,
    encoder_settings: EncoderSettings,
    question: Question,
    test: Question | None,
    opened: Opened,
    progress: Progress,
) -> list[Cell]:
    """The floors of ``question``: what knows nothing, what sees no image, and pixels; for masks two fixed masks.

    With ``floors="all"`` the encoder's own architecture with random weights comes too.
    """
    if settings.floors == "none":
        return []
    manifest, test_manifest = question.manifest, None if test is None else test.manifest
    hidden = frozenset(question.task.target)

    def opening(name: str, weights: str = "hub") -> Opened:
        plain = encoder_settings.model_copy(update={"name": name, "weights": weights})
        if weights == "hub":
            plain = plain.model_copy(update={"input_size": None, "resize": None})
        return open_encoder(name, plain, manifest, test_manifest, progress, hidden)

    cells: list[Cell] = []
    if question.task.kind == "segmentation":
        cells.append(Cell(opening("constant"), MASK_FLOORS, floor=True))
    else:
        names = ["constant", *(["metadata"] if metadata_columns(manifest, hidden) else []), "pixels"]
        simplest = question.task.heads[:1]
        cells += [Cell(opening(name), simplest, floor=True) for name in names if name != opened.name]
    learnt = opened.card.get("weights", {}).get("source", "none") != "none" and not opened.random_weights
    named = settings.heads or question.task.heads
    # Random sentences place images by chance: this floor is for heads that learn on the features.
    heads = tuple(name for name in named if not reads_text(load_head(name, question.task.kind)))
    if settings.floors == "all" and learnt and heads:
        cells.append(Cell(opening(encoder_settings.name, weights="random"), heads, floor=True))
    return cells
