"""Plug-ins of every group alike: found, listed, used by name; each way to be broken is one sentence for who asks."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evalfm.cli.app import app
from evalfm.data.config import ImportOptions
from evalfm.data.sources import check_options, list_sources, load_source, source_plugins
from evalfm.encoders import EncoderRef
from evalfm.encoders.reference import ALIASES, PREFIXES
from evalfm.encoders.registry import RESERVED, card_names, encoder_plugins
from evalfm.errors import EvalfmError
from evalfm.heads.registry import find_head, head_names, head_plugins, list_heads, load_head
from evalfm.metrics.registry import metric_names, metric_of, metric_plugins
from evalfm.plugins import find_plugins, installed_points, package_of
from evalfm.probing.names import check_names
from evalfm.study.config import Study
from evalfm.study.grid import expand
from evalfm.tasks.task import list_tasks, load_task, task_names, task_plugins

ROOT = Path(__file__).parents[1]
GROUPS = {
    "encoder": (encoder_plugins, card_names, lambda name: EncoderRef.parse(name).check(), "hog"),
    "head": (head_plugins, head_names, lambda name: load_head(name, "binary"), "linear"),
    "source": (source_plugins, list_sources, load_source, "table"),
    "task": (task_plugins, task_names, load_task, "ptx-cls"),
    "metric": (metric_plugins, metric_names, metric_of, "auroc"),
}
LISTED = {"encoder": "encoders", "head": "heads", "source": "data", "task": "tasks", "metric": "metrics"}
GOOD = """
from pathlib import Path
from evalfm.heads import HeadEntry
from evalfm.heads.registry import FOLDER
task = Path(__file__).with_name("mine.yaml")
task.write_text("base: ptx-cls\\nname: mine\\n")
head = HeadEntry("mine", ("binary",), ("pooled",), "theirs", "good_things:Mine")
number = 3
OPTIONS = frozenset({"uncertain"})

def encoder():
    raise AssertionError("built")

def import_source(root, options):
    return options.uncertain

def __getattr__(name):
    if name == "metric":
        from evalfm.metrics import Metric, mean_among
        return Metric("mine", ("binary",), lambda rows: mean_among(rows, rows.score, undefined="no image"))
    if name != "Mine":
        raise AttributeError(name)
    from evalfm.heads.knn import NeighbourHead
    return type("Mine", (NeighbourHead,), {"name": "mine", "kinds": frozenset({"binary"})})
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put the package ``good-things`` on the path, with the entry points given."""
    (tmp_path / "good_things.py").write_text(GOOD)
    (tmp_path / "bad_things.py").write_text("import no_such_library\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "speaking.py").write_text("raise ValueError('One line\\nand another')\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def installed(*points: tuple[str, str, str], package: str = "good-things") -> None:
        place = tmp_path / f"{package.replace('-', '_')}-1.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        lines = [line for what, name, value in points for line in (f"[evalfm.{what}s]", f"{name} = {value}")]
        (place / "entry_points.txt").write_text("\n".join(lines) + "\n")

    yield installed
    for name in ("good_things", "bad_things", "leaving", "speaking"):
        sys.modules.pop(name, None)


def value_of(what: str) -> str:
    return "good_things" if what == "source" else f"good_things:{what}"


@pytest.mark.parametrize("what", GROUPS)
def test_a_plugin_is_found_by_name_listed_and_loaded(what: str, install: Callable[..., None]) -> None:
    plugins, names, load, _ = GROUPS[what]
    before = set(names())
    install((what, "mine", value_of(what)))
    assert set(names()) == before | {"mine"}
    assert plugins()["mine"].origin == f"good-things ({value_of(what)})"
    assert "good_things" not in sys.modules, "names are had without an import"
    load("mine")
    listed = CliRunner().invoke(app, ["ls", LISTED[what]])
    assert listed.exit_code == 0
    assert f"Plugged in: mine, by good-things ({value_of(what)})." in listed.stdout


@pytest.mark.parametrize("what", GROUPS)
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("broken", "bad_things:anything", r"of bad-things \(bad_things:anything\) cannot be loaded \(No module named"),
        ("broken", "good_things:absent", r"cannot be loaded \(absent\)"),
        ("broken", "leaving:anything", r"cannot be loaded \(3\)"),
        ("broken", "speaking:anything", r"cannot be loaded \(One line\); fix or uninstall it\.$"),
        ("broken!", "good_things:number", r"of bad-things .* has a name with other signs than letters, digits"),
        ("broken", "good_things:number", r"of bad-things \(good_things:number\) cannot be used \(it is int, not a"),
        ("built-in", "good_things", r"of bad-things \(good_things\) has the name of one of evalfm's own"),
    ],
)
def test_what_is_broken_is_told_to_who_asks_and_listed(
    what: str, name: str, value: str, reason: str, install: Callable[..., None]
) -> None:
    plugins, names, load, built_in = GROUPS[what]
    name = built_in if name == "built-in" else name
    others = [each for each in ("hog", "linear", "table", "ptx-cls", "auroc") if each in names() and each != name]
    install((what, name, value), package="bad-things")
    if (what, name) == ("metric", built_in):
        # Every run has evalfm's own: it stays, and only the other is refused.
        assert load(name).words == "AUROC"
    with pytest.raises(EvalfmError, match=reason) as caught:
        plugins()[name].load() if (what, name) == ("metric", built_in) else load(name)
    assert str(caught.value).startswith(f"The {what} {name!r} of bad-things")
    assert "\n" not in str(caught.value)
    for other in others:
        load(other)
    listed = CliRunner().invoke(app, ["ls", LISTED[what]])
    assert listed.exit_code == 0, listed.output
    assert f"Broken: {caught.value}" in listed.stdout
    assert f"Plugged in: {name}" not in listed.stdout
    as_json = CliRunner().invoke(app, ["ls", LISTED[what], "--json"])
    assert "bad-things" not in as_json.stdout


@pytest.mark.parametrize("what", GROUPS)
def test_of_two_plugins_of_one_name_neither_is_taken(what: str, install: Callable[..., None]) -> None:
    install((what, "mine", value_of(what)))
    install((what, "mine", "other_things:thing"), package="other-things")
    with pytest.raises(EvalfmError, match=r"'mine' of .*-things .* has the name of one of .*-things"):
        GROUPS[what][2]("mine")


def test_a_card_or_entry_bears_the_name_it_is_offered_by(install: Callable[..., None]) -> None:
    install(*((what, "yours", f"good_things:{what}") for what in ("head", "task", "metric")))
    with pytest.raises(EvalfmError, match="its Metric is called 'mine'"):
        metric_of("yours")
    with pytest.raises(EvalfmError, match="its HeadEntry is called 'mine'"):
        find_head("yours")
    with pytest.raises(EvalfmError, match="its card is called 'mine'"):
        load_task("yours")


def test_a_head_that_is_not_what_its_entry_says_is_refused(install: Callable[..., None], tmp_path: Path) -> None:
    for maker, reason in (
        ("evalfm.heads.ridge:RidgeHead", "the name, kinds or needs of .*RidgeHead differ"),
        ("builtins:dict", "builtins:dict gives dict, not a PooledHead"),
        ("no_such_module:Head", r"cannot be loaded \(No module named"),
    ):
        text = f'from evalfm.heads import HeadEntry\nE = HeadEntry("odd", ("binary",), ("pooled",), "odd", "{maker}")\n'
        name = f"odd_{len(maker)}"
        (tmp_path / f"{name}.py").write_text(text.replace('"odd", (', f'"{name}", ('))
        install(("head", name, f"{name}:E"), package=name)
        with pytest.raises(EvalfmError, match=f"The head '{name}' of .*{reason}"):
            load_head(name, "binary")


def test_a_source_that_gives_something_else_is_refused(install: Callable[..., None], tmp_path: Path) -> None:
    install(("source", "mine", "good_things"), ("source", "broken", "bad_things"))
    with pytest.raises(EvalfmError, match=r"The source 'mine' of good-things \(good_things\) gives .*, not Imported"):
        load_source("mine")(tmp_path, ImportOptions())
    # It honours one option, which others do not, and a broken one beside it does not hinder saying so.
    with pytest.raises(EvalfmError, match=r"'jsrt' knows no option --uncertain, which belongs to .*'mine'"):
        check_options("jsrt", ImportOptions(uncertain="zero"))
    with pytest.raises(EvalfmError, match=r"'mine' knows no option .*'mermed'"):
        check_options("mine", ImportOptions(subset="cxr"))


def test_names_of_plugins_are_checked_like_any(install: Callable[..., None]) -> None:
    install(("head", "mine", "good_things:head"), ("task", "mine", "good_things:task"), ("head", "bad", "bad_things:x"))
    check_names(["hog"], ["mine"], ["mine"], ["phantom"])
    with pytest.raises(EvalfmError, match="The head 'mine' does not serve regression tasks; take 'attentive' or"):
        check_names(["hog"], ["ctr"], ["mine"], ["phantom"])
    with pytest.raises(EvalfmError, match=r"The head 'bad' of good-things \(bad_things:x\) cannot be loaded"):
        check_names(["hog"], ["ptx-cls"], ["bad"], ["phantom"])
    assert "mine" in list_tasks()
    assert [entry.location for entry in list_heads() if entry.name == "mine"] == ["good_things:Mine"]


def test_a_study_refuses_a_broken_head_and_does_not_leave_it_out(install: Callable[..., None]) -> None:
    install(("head", "bad", "bad_things:x"))
    study = Study(name="small", title="Small", data="phantom", encoders=["hog"], tasks=["ptx-cls"], heads=["bad"])
    assert any("The head 'bad' of good-things" in fault for fault in expand(study, {}).faults)


def test_lists_and_checks_of_plugins_import_no_torch(install: Callable[..., None], tmp_path: Path) -> None:
    install(
        ("head", "mine", "good_things:head"), ("task", "mine", "good_things:task"), ("source", "mine", "good_things")
    )
    code = """
import contextlib, io, sys
from evalfm.cli.app import app
for what in ("heads", "tasks", "data", "heads --json"):
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            app(["ls", *what.split()])
    except SystemExit as end:
        assert not end.code
    assert "good-things" in said.getvalue(), said.getvalue()
from evalfm.probing.names import check_names
check_names(["hog"], ["mine"], ["mine"], ["phantom"])
# The metrics of a card from outside are checked, for which numpy and scipy are imported.
print([name for name in ("torch", "timm", "sklearn") if name in sys.modules])
"""
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "EVALFM_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr[-2000:]


def test_words_that_stand_in_place_of_a_card_are_reserved(install: Callable[..., None]) -> None:
    assert set(RESERVED) == {*PREFIXES, *ALIASES}
    taken = (*RESERVED, "medclip")
    install(*(("encoder", name, "good_things:encoder") for name in taken))
    assert {encoder_plugins()[name].fault for name in taken} == {"has the name of one of evalfm's own"}


def test_a_package_installed_meanwhile_is_seen(install: Callable[..., None]) -> None:
    assert installed_points("evalfm.nothings") == ()
    install(("nothing", "mine", "good_things:number"))
    assert [point.name for point in installed_points("evalfm.nothings")] == ["mine"]


def test_plugins_are_in_the_order_of_their_names(install: Callable[..., None]) -> None:
    install(*(("nothing", name, "good_things:number") for name in ("second", "first", "third")))
    found = find_plugins("nothing", (), lambda name, loaded: (name, loaded))
    assert list(found) == ["first", "second", "third"]
    assert found["third"].load() == ("third", 3)
    assert (found["third"].version, package_of(found["third"].point)) == ("good-things 1", "good-things")
    code = found["third"].code
    assert code == hashlib.sha256(GOOD.encode()).hexdigest()
