"""`evalfm fetch`: weights into the cache where there is a network, their sizes and terms shown first."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalfm.cli.console import Bars, emit_json, in_letters, print_rows
from evalfm.cli.options import listed
from evalfm.cli.study_tables import size
from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from evalfm.study.needs import Needs

SOME_FAILED = 1
"""Exit status where an encoder could not be had; the others are in the cache."""


def fetch(
    names: Annotated[list[str], typer.Argument(help="Studies, encoders or tasks; commas between are allowed.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Fetch without a question.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show sizes and terms, and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; without --yes nothing is fetched.")] = False,
) -> None:
    """Bring the weights that studies and encoders need into the cache, so that they run where there is no network.

    First a table: where each encoder's weights come from, how large they are, under which licence, behind a form or
    not, and whether they are in the cache already. Then, after a yes, they are fetched, tokenizers and text towers with
    them; after a break the same command fetches what is not whole yet. An encoder that cannot be had is said, stops no
    other, and makes the exit status 1. Images are never fetched: what a study or a task needs of data is said.

    Examples:

        evalfm fetch rad-dino biomedclip --dry-run

        evalfm fetch feature-quality --yes     (then, where there is no network: evalfm study feature-quality --offline)

        HF_HOME=/shared/hub evalfm fetch my-study.yaml --json
    """
    from evalfm.encoders import hub
    from evalfm.study.needs import check_space, fetch_all, needs_of

    needs = needs_of(listed(names, "The names"))
    asked = hub.reachable()
    facts = [need.to_json(ask=asked) for need in needs.encoders]
    if not json or yes:
        _print_needs(needs, facts, asked=asked, on_stderr=json)
    missing = [need for need in needs.encoders if need.hindrance is not None or need.missing]
    if dry_run or (json and not yes):
        if json:
            _emit(needs, facts)
        return
    if missing and not yes:
        if not sys.stdin.isatty():
            raise EvalfmError(
                "Nothing was fetched: without a terminal to ask on, add --yes once the terms are accepted."
            )
        if not typer.confirm("Fetch what is not in the cache, under these terms?", err=json):
            typer.echo("Nothing was fetched.")
            return
    check_space(sum(each["bytes"] or each["bytes_by_parameters"] or 0 for each in facts if not each["cached"]))

    done = fetch_all(needs.encoders, Bars())
    failed = [each for each in done if each.failure is not None]
    if json:
        later = [each.need.to_json(ask=False) | {"failure": each.failure} for each in done]
        _emit(needs, later)
    else:
        for each in failed:
            typer.echo(f"{each.need.name}: {each.failure}")
        here = sum(each.failure is None and bool(each.need.files) for each in done)
        typer.echo(f"{here} encoder(s) in the cache, {len(failed)} could not be had.")
    if failed:
        raise typer.Exit(SOME_FAILED)


def _emit(needs: Needs, facts: list[dict[str, Any]]) -> None:

    emit_json({"encoders": facts, "data": [{"name": each.name, "here": each.here} for each in needs.data]})


def _print_needs(needs: Needs, facts: list[dict[str, Any]], *, asked: bool, on_stderr: bool) -> None:
    """Print the table, then what must be accepted or done by hand, and which data are not here."""

    header = ["encoder", "from", "size", "licence", "commercial use", "gated", "in the cache"]
    rows = []
    for each in facts:
        gated = {None: "–", True: "yes", False: "no"}[each["gated"]]
        cached = "–" if not each["files"] else "yes" if each["cached"] else "no"
        words = [each["source"], _size(each), each["licence"] or "–", each["commercial_use"] or "–"]
        rows.append([each["encoder"], *words, gated, cached])
    if rows:
        print_rows("Weights", header, rows, on_stderr=on_stderr)
    lines = [] if asked else ["The hub cannot be reached, or HF_HUB_OFFLINE is set."]
    if any(each["files"] and each["bytes"] is None for each in facts):
        lines.append("Sizes with ~ follow from the parameters, without those of a text tower.")
    for need, each in zip(needs.encoders, facts, strict=True):
        if need.hindrance is not None:
            lines.append(f"{need.name}: {need.hindrance}")
        elif each["gated"] and not each["cached"]:
            lines.append(
                f"{need.name} is gated: accept its terms at {need.page} and log in with `hf auth login` first."
            )
    here = [data.name for data in needs.data if data.here]
    absent = [data.name for data in needs.data if not data.here]
    lines += [f"Data that are here: {', '.join(here)}."] if here else []
    if absent:
        remedy = "images are not fetched; see `evalfm data import` and `evalfm data register`"
        lines.append(f"Data that are not here: {', '.join(absent)} ({remedy}).")
    for line in lines:
        typer.echo(in_letters(line), err=on_stderr)


def _size(facts: dict[str, Any]) -> str:

    if facts["bytes"] is not None:
        return size(facts["bytes"])
    return "–" if facts["bytes_by_parameters"] is None else f"~{size(facts['bytes_by_parameters'])}"
