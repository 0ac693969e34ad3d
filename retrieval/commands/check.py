"""`retrieval check`: whether an index is whole, and its repair."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval.commands.options import IndexOption
from retrieval.output.terminal import print_message, print_result, progress_line

if TYPE_CHECKING:
    from retrieval import CheckReport


def check(
    index: IndexOption = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Mend what can be mended. What is dropped, the next `retrieval index` encodes or "
            "reads again.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check everything in an index; exit code 1 if something is wrong. Photos are not read."""
    import retrieval

    report = retrieval.check(index, repair, progress_line())
    if repair and report.repaired and report.is_whole:
        print_message("The index was repaired.")
    print_result(_as_json(report) if as_json else _as_text(report))
    if not report.is_whole:
        raise typer.Exit(1)


def _as_text(report: "CheckReport") -> str:
    lines = [f"Index {report.folder}, format {report.format}"]
    lines += [f"repaired  {text}" for text in report.repaired]
    lines += [f"checked   {text}" for text in report.checked]
    lines += [f"note      {text}" for text in report.notes]
    for problem in report.problems:
        lines += [f"WRONG     {problem.what}", f"          Run `{problem.remedy}`."]
    if report.is_whole:
        lines.append("Nothing is wrong.")
    return "\n".join(lines)


def _as_json(report: "CheckReport") -> str:
    problems = [{"what": p.what, "remedy": p.remedy} for p in report.problems]
    fields = {
        "whole": report.is_whole,
        "folder": str(report.folder),
        "format": report.format,
        "checked": report.checked,
        "problems": problems,
        "notes": report.notes,
        "repaired": report.repaired,
    }
    return json.dumps(fields, indent=2)
