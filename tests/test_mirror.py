"""The tests mirror the package: whoever changes a module finds its tests without a search."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "evalfm"

ACROSS = {
    "analysis/test_sentences.py": "words of every page against the figures beside them",
    "cli/test_cli.py": "every verb as a user types it",
    "cli/test_interrupt.py": "Ctrl-C in every verb that works long",
    "cli/test_paths.py": "every path of every verb",
    "cli/test_zeroshot.py": "sentences, from a study's YAML to the report",
    "data/sources/test_documentation.py": "the page of data sets against the sources",
    "data/sources/test_sources.py": "what every source must do",
    "data/sources/test_tuberculosis.py": "two sets of one archive",
    "data/test_hostile_images.py": "every reader of images",
    "encoders/test_conformance.py": "every card",
    "encoders/test_library_transforms.py": "preparation of every card against the libraries' own",
    "encoders/test_published_facts.py": "every card against what its authors publish",
    "heads/segmentation/test_conformance.py": "every dense head",
    "heads/test_ties.py": "every head",
    "probing/test_adapted.py": "fine-tuned encoders through a whole probe",
    "probing/test_learned_texts.py": "learned sentences through a whole probe",
    "probing/test_multilabel.py": "several findings through a whole probe",
    "probing/test_run_key.py": "what makes another run, wherever it is read",
    "statistics/test_drawn_studies.py": "sizes, power and coverage on drawn studies",
    "tasks/kinds/test_conformance.py": "every kind of task",
    "study/test_published.py": "the studies that ship, rehearsed",
}
"""What stands over several modules, and what it stands for."""

WHOLE = ("fuzz", "realdata")
"""Folders of tests of the whole package, as are the files that lie beside the folders."""


def mirrors(test: Path) -> bool:
    """Whether ``tests/A/test_B_C.py`` has a module or package ``B_C`` or ``B`` in ``evalfm/A``."""
    words = test.stem.removeprefix("test_").split("_")
    names = ["_".join(words[: count + 1]) for count in range(len(words))]
    place = PACKAGE / test.parent.relative_to(TESTS)
    spelt = [spelling for name in names for spelling in (f"{name}.py", f"_{name}.py", name)]
    return any((place / spelling).exists() for spelling in spelt)


def test_every_test_lies_where_its_module_lies_or_says_what_it_stands_over() -> None:
    tests = [path for path in TESTS.rglob("test_*.py") if path.relative_to(TESTS).parts[0] not in WHOLE]
    below = [path for path in tests if path.parent != TESTS]
    assert len(below) > 150
    apart = {path.relative_to(TESTS).as_posix() for path in below if not mirrors(path)}
    assert apart == set(ACROSS), "move a test to its module's place, or say here what it stands over"
