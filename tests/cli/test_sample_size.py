import json

import pytest
from typer.testing import CliRunner

from evalfm.cli.app import app
from evalfm.errors import EvalfmError

CASE = ["--auroc", ".85", "--difference", ".03", "--prevalence", ".1", "--images-per-patient", "2"]


def said(*words: str) -> str:
    result = CliRunner().invoke(app, ["sample-size", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def needed(*words: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(said(*words, "--json"))["needed"]
    return found


def test_both_figures_are_said_with_patients_and_positives() -> None:
    lines = said(*CASE).splitlines()
    assert lines[0] == "With the test sample's variance alone: 5,981 images, 599 positive, of 2,991 patients."
    assert lines[1] == "With the training sample's counted (1 ×): 11,962 images, 1,197 positive, of 5,981 patients."
    assert lines[2] == "Test of a difference of 0.03 with 80% power."
    assert "ICC 0.5, scores of two encoders correlated 0.5" in lines[3]


@pytest.mark.parametrize(
    ("option", "value", "more"),
    [
        ("--encoders", "5", True),
        ("--training-ratio", "2", True),
        ("--icc", ".8", True),
        ("--correlation", ".8", False),
        ("--power", ".9", True),
        ("--alpha", ".1", False),
        ("--prevalence", ".4", False),
        ("--images-per-patient", "3", True),
    ],
)
def test_every_option_moves_the_answer_in_its_direction(option: str, value: str, more: bool) -> None:
    given = dict(zip(CASE[::2], CASE[1::2], strict=True)) | {option: value}
    before, after = (
        each[1]["images"] for each in (needed(*CASE), needed(*(word for pair in given.items() for word in pair)))
    )
    assert (after > before) is more  # type: ignore[operator]
    assert after != before


def test_a_width_needs_one_encoder_and_no_training() -> None:
    assert said("--auroc", ".85", "--width", ".05", "--prevalence", ".1") == (
        "2,404 images, 241 positive, of 2,404 patients.\n"
    )


def test_what_there_is_gives_width_and_difference() -> None:
    found = json.loads(said("--auroc", ".85", "--images", "2000", "--prevalence", ".1", "--encoders", "5", "--json"))
    assert (found["width"], found["detectable"]) == pytest.approx((0.0548, 0.0866), abs=1e-3)
    assert "alpha divided by 10 pairs" in said("--auroc", ".85", "--images", "2000", "--encoders", "5")
    assert "none up to 0.400" in said("--auroc", ".85", "--images", "20", "--encoders", "30")


def test_a_mean_has_no_positives() -> None:
    assert said("--sd", ".25", "--difference", ".02").splitlines()[0] == (
        "With the test sample's variance alone: 1,227 images, of 1,227 patients."
    )


def test_too_few_patients_for_an_interval_are_said() -> None:
    assert "Fewer than 10 patients of one class" in said("--auroc", ".9", "--width", ".3", "--prevalence", ".1")
    assert "Fewer than 10" not in said("--auroc", ".9", "--width", ".1", "--prevalence", ".1")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "Say what is measured: --auroc with the value expected, or --sd"),
        ("--auroc .8 --sd .2 --width .1", "Say what is measured"),
        ("--auroc .8", "Say what is asked: one of --difference, --width or --images"),
        ("--auroc .8 --width .1 --images 100", "Say what is asked"),
        ("--auroc 1.2 --width .1", "--auroc 1.2 is no figure between 0 and 1"),
        ("--auroc .8 --width .1 --prevalence 0", "--prevalence 0 is no figure"),
        ("--auroc .8 --difference .8", "leaves no AUROC above 0"),
        ("--auroc .8 --difference -.1", "--difference -0.1 is not above 0"),
        ("--auroc .8 --width 2", "no width of an AUROC's interval"),
        ("--auroc .8 --difference .1 --power .04", "--power 0.04 is not above --alpha 0.05"),
        ("--sd nan --difference .1", "--sd nan is not above 0"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(words: str, sentence: str) -> None:
    with pytest.raises(EvalfmError, match=sentence):
        CliRunner().invoke(app, ["sample-size", *words.split()], catch_exceptions=False)
