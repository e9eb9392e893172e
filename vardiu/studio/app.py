r"""The server of the studio: a small application of Starlette, on loopback.

Starlette and uvicorn are small, kept well, and serve what is asked for without a framework in the
page: charts and samples are the figures of `vardiu.reports`, which need no script, so that no
plotting library is loaded.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import secrets
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..errors import ConfigError, RunError, require, shown
from ..methods import METHODS
from ..problems.inverse import OPERATORS
from ..reports.colours import css_variables
from ..reports.estimates import bytes_of
from ..reports.html import STYLE
from ..runs.snapshots import snapshots_of
from ..storage.bounded import DAMAGED, read_json, read_text
from ..storage.limits import limit
from ..storage.run_folder import RunFolder
from . import views
from .commands import choices, split, words_of
from .guard import Guard
from .jobs import Jobs, command_line
from .library import PAGE, Library
from .series import compared
from .students import Loader, Students, teacher_of

__all__ = ["Studio", "application", "bound", "serve"]


STATIC = resources.files("vardiu.studio").joinpath("static")


KINDS: Mapping[str, str] = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


# Bytes of a picture that is dropped.
DROPPED = 2**26


# What may be wrong with what is asked for: one line, and the server stays up.
REFUSED = (ConfigError, RunError, OSError, ValueError, KeyError, TypeError, RuntimeError)


class Studio(NamedTuple):
    r"""What the routes share.

    Arguments:
        library: The runs.
        students: The students that are looked at.
        jobs: The commands that were started here.
        scratch: A folder for pictures that were dropped, and what commands print.
        teacher: The teacher that was named at the start; empty for none.
        trials: Blind comparisons that wait for an answer: which of the two is shown first.
        options: Words of the command line that name the code of students, which commands that
            are started here are given too.
    """

    library: Library
    students: Students
    jobs: Jobs
    scratch: Path
    teacher: str
    trials: dict[str, tuple[str, str]]
    options: Sequence[str] = ()


# ---------------------------------------------------------------- what is asked for


def runs(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401 (JSON)
    r"""Returns a page of the list of runs."""
    found, words = studio.library.scan(), str(asked.get("q", "")).lower().split()
    if words:
        found = [run for run in found if all(word in run.words() for word in words)]
    start = max(0, int(asked.get("start", 0)))
    shown_runs = [run.summary() for run in found[start : start + PAGE]]
    return {"total": len(found), "start": start, "page": PAGE, "runs": shown_runs}


def run(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    r"""Returns a run: what it is, its charts, its modes."""
    seen = studio.library.run(asked["id"])
    about = seen.summary()
    if about["state"] == "unreadable":
        raise RunError(about["why"])
    rows = seen.rows()
    charts = views.run_charts(seen, about, rows)
    told = seen.alarms(20) or [alarm for row in rows for alarm in row.get("alarms", ())][-20:]
    return {**about, "charts": "".join(charts), "modes": views.modes(rows), "warnings": told}


def samples(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    seen = studio.library.run(asked["id"])
    method = str(seen.summary().get("method"))
    return views.samples_at(seen, int(asked.get("index", -1)), method)


def beside(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    return studio.students.beside(studio.library.run(asked["id"]).folder)


def noise(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    share = float(asked.get("share", 0.5))
    return studio.students.noised(studio.library.run(asked["id"]).folder, share)


def mapped(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    latent = None
    if "z1" in asked:
        latent = (float(asked["z1"]), float(asked["z2"]))
    return studio.students.mapped(studio.library.run(asked["id"]).folder, latent)


def compare(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    chosen = [studio.library.run(key) for key in str(asked.get("ids", "")).split(",") if key]
    return compared(chosen, str(asked.get("cost", "seconds")))


def trial(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    r"""Returns samples of two runs in an order that is not told."""
    both = [studio.library.run(str(asked[name])) for name in ("one", "other")]
    kept = [snapshots_of(seen.folder) for seen in both]
    for seen, moments in zip(both, kept, strict=True):
        if not moments:
            raise RunError(f"{seen.name} has no samples yet (snapshots/)")
    order = random.sample((0, 1), 2)
    key = secrets.token_hex(8)
    if len(studio.trials) > 1_000:
        studio.trials.clear()
    studio.trials[key] = (both[order[0]].name, both[order[1]].name)
    return {"trial": key, "html": views.unnamed([kept[place][-1] for place in order])}


def verdict(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    r"""Returns whose samples were which, once one was chosen."""
    if asked.get("chosen") not in ("A", "B", "same"):
        raise ConfigError("choose A, B or same")
    found = studio.trials.pop(str(asked.get("trial")), None)
    if found is None:
        raise ConfigError("this trial is over: ask for another one")
    return {"A": found[0], "B": found[1]}


def start(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    more = {"operators": list(OPERATORS), "teacher": bool(studio.teacher), "bytes": DROPPED}
    return {**choices(), **more}


def command(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    r"""Returns the exact command of what is chosen, and starts it if that is asked for."""
    words = words_of(asked["chosen"], str(asked["action"]))
    if not asked.get("run"):
        return {"command": command_line(words)}
    return studio.jobs.start(words).state()


def job(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    return studio.jobs.job(int(asked["job"])).state()


def jobs(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    return studio.jobs.told()


def cancel(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    r"""Asks a command that was started here to stop."""
    found = studio.jobs.job(int(asked["job"]))
    found.stop()
    return found.state()


def stop(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    r"""Asks the process that writes to a run to save and stop."""
    seen = studio.library.run(asked["id"])
    writer = seen.folder.writer()
    if writer is None:
        raise RunError("no process of this machine writes to this run")
    os.kill(writer, signal.SIGTERM)
    return {"told": f"process {writer} finishes its step, saves and stops"}


def resume(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    r"""Goes on with a run that was stopped."""
    seen = studio.library.run(asked["id"])
    about, folder = seen.summary(), seen.folder
    if about["state"] not in ("stopped", "failed"):
        raise RunError(f"this run is {about['state']}: there is nothing to go on with")
    words = [str(about["command"]), f"--config={folder.file('config.yaml')}"]
    words += [f"--out={folder.path}", *resuming(folder, studio)]
    return studio.jobs.start(words).state()


def resuming(folder: RunFolder, studio: Studio) -> list[str]:
    r"""Returns the words by which a run that goes on is given what it keeps no copy of.

    A run keeps where its teacher is; code of one's own is named by whoever started the studio.
    """
    kept = folder.config().get("code")
    roles = {f"--{role}" for role in kept} if isinstance(kept, Mapping) else set()
    if not roles:
        return []
    named = [*studio.options, *([f"--teacher={studio.teacher}"] if studio.teacher else [])]
    roles.add("--accept-changed-code")
    return [word for word in named if word.partition("=")[0] in roles]


def ship(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    r"""Returns what of a run may be shipped: forms, what is written, how long a sample takes."""
    folder = studio.library.run(asked["id"]).folder
    forms, slow = studio.students.forms(folder), ""
    rows: list[dict[str, float]] = []
    try:
        rows = studio.students.latency(folder)
    except ValueError as error:  # the page says why, and shows the rest
        slow = str(error)
    about = {"adapter": adapter_of(folder), "forms": forms, "slow": slow}
    return {"latency": rows, **exports(studio, asked), **about}


def exports(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    r"""Returns what was exported of a run, and the card of the first of it."""
    folder = studio.library.run(asked["id"]).folder
    found = sorted(path for path in folder.path.glob("export-*") if path.is_dir())
    cards = [path / "README.md" for path in found if (path / "README.md").is_file()]
    card = read_text(cards[0], error=RunError)[:20_000] if cards else ""
    return {"exports": [path.name for path in found], "card": card}


def adapter_of(folder: RunFolder) -> dict[str, Any] | None:
    r"""Returns what a run's adapter is: rank, alpha, how many layers it is on, and bytes.

    Raises:
        RunError: It is damaged.
    """
    place = folder.file("adapter")
    if not place.is_dir():
        return None
    about = read_json(place / "adapter_config.json", error=RunError)
    return {
        "name": place.name,
        "rank": about.get("r"),
        "alpha": about.get("lora_alpha"),
        "layers": len(about.get("target_modules") or ()),
        "bytes": bytes_of((place / "adapter_model.safetensors").stat().st_size),
    }


def export(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    r"""Writes a run in another form; on trial to a place that goes with the studio."""
    folder = studio.library.run(asked["id"]).folder
    form = str(asked["form"])
    if form.startswith("-"):
        raise ConfigError(f"{shown(form)} is no form of an export")
    why = studio.students.forms(folder).get(form, {}).get("refusal")
    if why:
        raise ConfigError(f"{form}: {why}")
    words = ["export", str(folder.path), "--to", form]
    teacher = teacher_of(folder, studio.teacher)
    words += [f"--teacher={teacher}"] if teacher else []
    words += studio.options
    if not asked.get("trial"):
        return studio.jobs.start(words).state()
    place = studio.scratch / f"trial-{secrets.token_hex(6)}"
    return studio.jobs.start([*words, f"--out={place}"], discarded=place).state()


def restore(studio: Studio, asked: Mapping[str, Any]) -> Any:  # noqa: ANN401
    r"""Restores the picture that was dropped last.

    Raises:
        ConfigError: No teacher was named, or no picture dropped.
    """
    if not studio.teacher:
        raise ConfigError(
            "a teacher restores pictures, and none was named: start the studio with "
            "vardiu studio --teacher SOURCE"
        )
    picture = studio.scratch / f"{asked['picture']}.png"
    if not str(asked["picture"]).isalnum() or not picture.is_file():
        raise ConfigError("drop a picture first")
    if asked.get("grey"):
        with Image.open(picture) as colours:
            picture = studio.scratch / f"{asked['picture']}grey.png"
            colours.convert("L").save(picture)
    operator = str(asked["operator"])
    out = studio.scratch / f"restored-{secrets.token_hex(6)}"
    words = ["restore", f"--teacher={studio.teacher}", f"--operator={operator}"]
    words += [f"--truth={picture}", f"--out={out}", "--steps", str(int(asked.get("steps", 50)))]
    words += split(str(asked.get("more", "")))
    job = studio.jobs.start(words).state()
    before, after = (f"{out.name}/{place}{picture.name}" for place in ("measured/", ""))
    return {**job, "before": before, "after": after, "beside": f"{out.name}/restored.png"}


def drop(studio: Studio, data: bytes) -> Any:  # noqa: ANN401
    r"""Keeps a picture.

    Raises:
        ConfigError: It is none, or too large.
    """
    try:
        picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > limit("image pixels"):
            raise ConfigError(f"the picture has more than {limit('image pixels'):,} pixels")
        name = secrets.token_hex(8)
        picture.convert("RGB").save(studio.scratch / f"{name}.png")
    except Image.DecompressionBombError as error:
        raise ConfigError(shown(str(error))) from error
    except DAMAGED as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("this picture cannot be read: drop a PNG, JPEG or WebP") from error
    return {"picture": name, "width": picture.width, "height": picture.height}


Route = Callable[[Studio, Mapping[str, Any]], Any]


ASKED: Mapping[str, Route] = {
    "runs": runs,
    "run": run,
    "samples": samples,
    "beside": beside,
    "noise": noise,
    "map": mapped,
    "compare": compare,
    "trial": trial,
    "start": start,
    "job": job,
    "jobs": jobs,
    "ship": ship,
    "exports": exports,
}


DONE: Mapping[str, Route] = {
    "command": command,
    "stop": stop,
    "resume": resume,
    "cancel": cancel,
    "export": export,
    "restore": restore,
    "verdict": verdict,
}


# ---------------------------------------------------------------- the application


def asset(name: str, token: str) -> tuple[bytes, str] | None:
    r"""Returns a file of the page and its kind; `None` where there is none of this name."""
    ending = name.rpartition(".")[2]
    known = {entry.name for entry in STATIC.iterdir()}
    if name not in known or ending not in KINDS:
        return None
    data = STATIC.joinpath(name).read_bytes()
    if name == "index.html":
        data = data.replace(b"TOKEN", token.encode())
    if name == "studio.css":
        data = f"{STYLE}{css_variables(list(METHODS))}".encode() + data
    return data, KINDS[ending]


def picture_of(studio: Studio, name: str) -> bytes | None:
    r"""Returns a picture that was dropped or restored here."""
    place = (studio.scratch / name).resolve()
    inside = place.is_relative_to(studio.scratch.resolve()) and place.suffix == ".png"
    return place.read_bytes() if inside and place.is_file() else None


def as_json(found: Any) -> str:  # noqa: ANN401 (JSON)
    r"""Returns JSON that a browser reads: a number that is not finite is null, as in a log."""
    try:
        return json.dumps(found, allow_nan=False)
    except ValueError:
        return json.dumps(without_infinite(found), allow_nan=False)


def without_infinite(found: Any) -> Any:  # noqa: ANN401 (JSON)
    if isinstance(found, Mapping):
        return {key: without_infinite(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [without_infinite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


async def told(work: Callable[[], Any]) -> Any:  # noqa: ANN401
    r"""Answers with what work in another thread gives, or in one line why it gives nothing."""
    responses = require("starlette.responses", "studio")
    threads = require("starlette.concurrency", "studio")
    try:
        found = await threads.run_in_threadpool(work)
        return responses.Response(as_json(found), media_type="application/json")
    except REFUSED as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        line = shown(missing or type(error).__name__)
        return responses.JSONResponse({"error": line}, status_code=400)


def file_routes(studio: Studio, token: str) -> list[Any]:
    r"""Returns the routes of the page's own files, and of pictures."""
    routing = require("starlette.routing", "studio")
    responses = require("starlette.responses", "studio")

    async def page(request: Any) -> Any:  # noqa: ANN401
        found = asset(request.path_params.get("name") or "index.html", token)
        if found is None:
            return responses.PlainTextResponse("there is no such page\n", status_code=404)
        return responses.Response(found[0], headers={"content-type": found[1]})

    async def picture(request: Any) -> Any:  # noqa: ANN401
        found = picture_of(studio, request.path_params["name"])
        status = 404 if found is None else 200
        return responses.Response(found or b"", status_code=status, media_type="image/png")

    return [
        routing.Route("/picture/{name:path}", picture),
        routing.Route("/{name}", page),
        routing.Route("/", page),
    ]


def application(studio: Studio, token: str, hosts: Sequence[str], cookie: str) -> Guard:
    r"""Returns the application, guarded.

    Arguments:
        studio: What the routes share.
        token: The token.
        hosts: The values of `Host` that are this server's.
        cookie: The name of the cookie.
    """
    applications = require("starlette.applications", "studio")
    routing = require("starlette.routing", "studio")
    responses = require("starlette.responses", "studio")

    async def ask(request: Any) -> Any:  # noqa: ANN401
        route = ASKED.get(request.path_params["name"])
        if route is None:
            return responses.JSONResponse({"error": "no such view"}, status_code=404)
        return await told(lambda: route(studio, dict(request.query_params)))

    async def do(request: Any) -> Any:  # noqa: ANN401
        name, data = request.path_params["name"], bytearray()
        async for part in request.stream():
            data += part
            most = DROPPED if name == "drop" else 2**20
            if len(data) > most:
                line = f"that is more than {most:,} bytes, the most that is read here"
                return responses.JSONResponse({"error": line}, status_code=413)
        if name == "drop":
            return await told(lambda: drop(studio, bytes(data)))
        route = DONE.get(name)
        if route is None:
            return responses.JSONResponse({"error": "no such action"}, status_code=404)

        def work() -> Any:  # noqa: ANN401
            asked = json.loads(data)
            if not isinstance(asked, dict):
                raise ConfigError("an action needs a mapping in JSON")
            return route(studio, asked)

        return await told(work)

    inner = applications.Starlette(
        routes=[
            routing.Route("/api/{name}", ask, methods=["GET"]),
            routing.Route("/api/{name}", do, methods=["POST"]),
            *file_routes(studio, token),
        ]
    )
    return Guard(inner, token, hosts, cookie)


def bound(host: str, port: int) -> socket.socket:
    r"""Returns a socket that is bound.

    Raises:
        ConfigError: The port is taken, or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"the studio cannot listen on {shown(host)}:{port} ({why}): give another --port, or 0 "
            "for any that is free"
        ) from error
    return made


def serve(
    roots: Sequence[Path],
    load: Loader,
    *,
    host: str,
    port: int,
    teacher: str,
    options: Sequence[str],
    tell: Callable[[str], None],
) -> None:
    r"""Serves the studio until it is interrupted.

    Arguments:
        roots: The folders of runs.
        load: Loads the student of a run.
        host: The address to listen on.
        port: The port; 0 for any that is free.
        teacher: The teacher that was named; empty for none.
        options: Words that name the code of students.
        tell: Is told the address.

    Raises:
        ConfigError: The port is taken, or the server is not installed.
    """
    uvicorn = require("uvicorn", "studio")
    require("starlette", "studio")
    listener = bound(host, port)
    port = listener.getsockname()[1]
    token = secrets.token_urlsafe(24)
    names = ["localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host]
    with tempfile.TemporaryDirectory(prefix="vardiu-studio-") as folder:
        scratch = Path(folder)
        students, jobs = Students(load), Jobs(scratch)
        studio = Studio(Library(roots), students, jobs, scratch, teacher, {}, options)
        hosts = [f"{name}:{port}" for name in names]
        app = application(studio, token, hosts, f"vardiu-studio-{port}")
        shown_host = f"[{host}]" if ":" in host else host
        tell(f"http://{shown_host}:{port}/?token={token}")
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])
