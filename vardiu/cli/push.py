r"""`vardiu push`: a student to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import models
from ..errors import ConfigError, amount, known, require, shown
from ..export import EXPORTS, hub
from ..problems.kept import KeptTeacher
from ..storage.run_folder import RunFolder
from .console import console
from .folders import existing_run
from .parser import Parser


def push(arguments: list[str]) -> None:
    r"""Uploads one export of a run, or prints what would go."""
    parser = Parser(prog="push")
    parser.add_argument("run")
    parser.add_argument("repository", metavar="user/name")
    parser.add_argument(
        "--form",
        help=f"the export to push: {', '.join(EXPORTS)}, or one of other calls, as onnx-calls2",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what goes, and no more")
    parser.add_argument(
        "--licence",
        metavar="NAME",
        help="the student's licence, where the teacher's is not stated or not known",
    )
    parser.add_argument("--private", action="store_true", help="make the repository private")
    chosen = parser.parse_args(arguments)
    folder = existing_run(chosen.run)
    place = folder.file("student")
    teacher = KeptTeacher.read(models.about_of(place), str(place / "model.json"))
    parcel = hub.pack(
        export_of(folder, chosen.form),
        chosen.repository,
        source=teacher.source,
        stated=teacher.licence,
        licence=chosen.licence,
    )
    _tell(parcel)
    if chosen.dry_run:
        console.print("nothing was uploaded (--dry-run)", highlight=False)
        return
    address = hub.push(parcel, api_of_hub(), private=chosen.private)
    console.print(f"uploaded: {address}", highlight=False, markup=False, soft_wrap=True)


def api_of_hub() -> Any:  # noqa: ANN401 (an optional library's)
    r"""Returns the client of the hub. It takes its token from where the hub's login put it."""
    return require("huggingface_hub", "hub").HfApi()


def export_of(folder: RunFolder, form: str | None) -> Path:
    r"""Returns the folder of a run's export.

    Arguments:
        folder: The run.
        form: Its form; none for the only one that there is.

    Raises:
        ConfigError: There is none, or there are several and none is named.
    """
    found = (path.name.removeprefix("export-") for path in folder.path.glob("export-*/"))
    # Of other calls or another scale, the form's name has them: onnx-calls2.
    there = sorted(name for name in found if name.split("-")[0] in EXPORTS)
    run = shown(str(folder.path))
    if form is not None:
        if form not in there:
            form = known(form, EXPORTS, "form")
            raise ConfigError(f"{run} has no export of this form: vardiu export {run} --to {form}")
        return folder.file(f"export-{form}")
    if not there:
        raise ConfigError(f"{run} was not exported: vardiu export {run} --to safetensors")
    if len(there) > 1:
        raise ConfigError(f"{run} has the exports {', '.join(there)}: name one with --form")
    return folder.file(f"export-{there[0]}")


def _tell(parcel: hub.Parcel) -> None:
    rows = parcel.rows()
    console.print(f"to {parcel.repository}, licence {parcel.licence}:", highlight=False)
    for name, size in rows:
        console.print(f"{size:>14,} bytes  {name}", highlight=False, markup=False, soft_wrap=True)
    total = sum(size for _, size in rows)
    console.print(f"{total:>14,} bytes in {amount(len(rows), 'file')}", highlight=False)
    console.print("\nREADME.md:\n", highlight=False)
    console.print(parcel.card, highlight=False, markup=False, soft_wrap=True)


COMMANDS = {"push": push}
