r"""Students on the hub: which files of an export may go, under which licence, and with which card.

Nothing goes before all of it was looked at. Weights of the teacher never go.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import ConfigError, ExportError, require, shown

__all__ = ["Parcel", "pack", "push", "refuse_licence"]


# Identifiers of the hub of licences that allow derived works to be passed on, some of them under
# conditions that the card's reader has to keep.
ALLOWED = frozenset(
    """afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigscience-bloom-rail-1.0 bigscience-openrail-m bsd
    bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0
    cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0
    creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 gpl gpl-2.0 gpl-3.0 isc lgpl
    lgpl-2.1 lgpl-3.0 mit mpl-2.0 ms-pl ncsa odbl openrail openrail++ osl-3.0 pddl postgresql
    unlicense wtfpl zlib""".split()
)


# What a name of a licence has in it that forbids derived works, or passing anything on.
FORBIDDEN = re.compile(
    r"(^|-)nd(-|$)|no-?deriv|proprietary|all-rights-reserved|research-only|no-?redistribution"
)


# Files of an export that may go; of weights, those of the student's own network alone.
SETTINGS = (".json", ".md", ".png", ".txt", ".model", ".yaml")
WEIGHTS = (".safetensors", ".onnx", ".data")


# Folders of a pipeline in which the student's network lies, and not a part of its teacher.
OWN = ("", "unet", "transformer")


class Parcel(NamedTuple):
    r"""What goes to the hub.

    Arguments:
        repository: `user/name`.
        files: Files by their names there; the card is not among them.
        card: The text of `README.md`.
        licence: The licence that the card states.
    """

    repository: str
    files: Mapping[str, Path]
    card: str
    licence: str

    def rows(self) -> list[tuple[str, int]]:
        r"""Returns the names and sizes in bytes of all that goes, the card first."""
        rows = [("README.md", len(self.card.encode()))]
        return rows + [(name, path.stat().st_size) for name, path in self.files.items()]


def pack(
    folder: str | Path,
    repository: str,
    *,
    source: str = "",
    stated: str | None = None,
    licence: str | None = None,
) -> Parcel:
    r"""Returns what of an export goes to the hub, after it was looked at.

    Arguments:
        folder: What `vardiu.export.export` wrote.
        repository: `user/name`.
        source: Where the teacher is from, for the messages and to compare its files.
        stated: The licence in the teacher's record; none if it states none.
        licence: The licence that the user names.

    Raises:
        ConfigError: The name is no `user/name`; the licence forbids it or is not known; a file is
            of the teacher, or of a kind that no export has; or the card cannot be read.
    """
    folder = Path(folder)
    if re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repository) is None or ".." in repository:
        raise ConfigError(f"{shown(repository)} is no name on a hub: give user/name")
    chosen = refuse_licence(stated, licence, source)
    card = folder / "README.md"
    if not card.is_file():
        raise ConfigError(f"{shown(folder)} has no README.md: export the run again")
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != card
    }
    for name, path in files.items():
        _refuse_file(name, path, source)
    _refuse_weights_of_teacher(files, source)
    return Parcel(repository, files, licensed(card.read_text(encoding="utf-8"), chosen), chosen)


def refuse_licence(stated: str | None, named: str | None, source: str = "") -> str:
    r"""Returns the licence under which a student of a teacher may be passed on.

    Arguments:
        stated: The licence in the teacher's record; none if it states none.
        named: The licence that the user names.
        source: Where the teacher is from, for the message.

    Raises:
        ConfigError: It forbids derived works, is not known, or the user names another one.
    """
    of, known = f"the teacher {shown(source)}" if source else "the teacher", _spelled(stated)
    mine = _spelled(named)
    for licence, who in ((known, of), (mine, "what --licence names")):
        if licence is not None and FORBIDDEN.search(licence):
            raise ConfigError(
                f"{who} has the licence {shown(licence)}, which forbids derived works to be "
                "passed on: a student is one. Ask its owner, or distil another teacher"
            )
    if known in ALLOWED:
        if mine not in (None, known):
            raise ConfigError(
                f"{of} has the licence {known}, and --licence names {shown(str(mine))}: leave "
                "--licence out"
            )
        return str(known)
    if mine is None:
        what = "states no licence" if known is None else f"has the licence {shown(known)}"
        raise ConfigError(
            f"{of} {what}{'' if known is None else ', which is not known here'}: look at what it "
            "allows, and name the student's licence with --licence, for instance --licence mit"
        )
    return mine


def _spelled(licence: str | None) -> str | None:
    if licence is None or licence.strip().lower() in ("", "other", "unknown"):
        return None
    return re.sub(r"[\s_]+", "-", licence.strip().strip("\"'").lower())


def _refuse_file(name: str, path: Path, source: str) -> None:
    place, suffix = name.rpartition("/")[0], path.suffix.lower()
    if path.is_symlink():
        raise ConfigError(f"{shown(name)} is a link: only files go to the hub")
    if suffix in WEIGHTS:
        if place not in OWN:
            raise ConfigError(
                f"{shown(name)} holds weights of the teacher {shown(source)}, which are never "
                "uploaded: push another form, for instance --form safetensors"
            )
    elif suffix not in SETTINGS:
        raise ConfigError(f"{shown(name)} is of no kind that an export has: move it away")


def _refuse_weights_of_teacher(files: Mapping[str, Path], source: str) -> None:
    r"""Raises a `ConfigError` if a file is one of the teacher's, where the teacher lies here."""
    there = Path(source) if source else None
    if there is None or not there.exists():
        return
    known = [there] if there.is_file() else [p for p in there.rglob("*") if p.is_file()]
    theirs = {p.stat().st_size: p for p in known if p.suffix in (*WEIGHTS, ".pkl", ".bin")}
    for name, path in files.items():
        other = theirs.get(path.stat().st_size) if path.suffix in WEIGHTS else None
        if other is not None and _digest(path) == _digest(other):
            raise ConfigError(
                f"{shown(name)} is the teacher's own {shown(other.name)}: weights of a teacher "
                "are never uploaded"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def licensed(text: str, licence: str) -> str:
    r"""Returns a card that states a licence, as the hub's own reader reads it.

    Raises:
        ConfigError: It is no card.
    """
    hub = require("huggingface_hub", "hub")
    parts = text.split("---\n", 2)
    try:
        front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    except yaml.YAMLError:
        front = None
    if not isinstance(front, dict):
        raise ConfigError("README.md has no metadata in front: export the run again")
    front.pop("license_name", None)
    front["license"] = licence if licence in ALLOWED else "other"
    if licence not in ALLOWED:
        front["license_name"] = licence
    written = f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{parts[2]}"
    try:
        card = hub.ModelCard(written)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"the hub's reader refuses README.md ({shown(str(error))})") from error
    if card.data.license != front["license"]:
        raise ConfigError("the hub's reader reads another licence in README.md than is stated")
    return written


def push(parcel: Parcel, api: Any, *, private: bool = False) -> str:  # noqa: ANN401
    r"""Uploads a parcel in one commit, and returns its address.

    Arguments:
        parcel: What goes.
        api: A `huggingface_hub.HfApi`.
        private: Whether a repository that is made is seen by its owner alone.

    Raises:
        ExportError: The hub cannot be reached, or refuses.
    """
    hub = require("huggingface_hub", "hub")
    add = hub.CommitOperationAdd
    operations = [add("README.md", io.BytesIO(parcel.card.encode()))]
    operations += [add(name, str(path)) for name, path in parcel.files.items()]
    try:
        api.create_repo(parcel.repository, private=private, exist_ok=True)
        done = api.create_commit(
            parcel.repository, operations, commit_message="Upload a student of vardiu"
        )
    # Of its client's own errors: that a host is not reached is one beside this.
    except (OSError, ValueError, *hub.errors.HfHubHTTPError.__bases__) as error:
        why = shown(" ".join(str(error).split())).rstrip(".") or type(error).__name__
        raise ExportError(
            f"the hub did not take {parcel.repository}: {why}. Is it reached from here, is there "
            "a token (hf auth login), and may it write there?"
        ) from error
    return str(done.commit_url)
