r"""Trackers of other makers hear of a run: TensorBoard, Weights & Biases, trackio, MLflow.

`metrics.jsonl` stays the source. A tracker is given each of its rows once, in its order, under the
number of steps that all stages together have taken. `tracking.json` in the run's folder says how
far a tracker has been told; it is written before the row is sent. A run that is killed and goes on
therefore never sends a point twice, though it takes and logs the steps after its checkpoint again;
rows that it had not come to send are sent when it goes on.

Nothing leaves the machine unless the tracker's own environment variable says so: W&B is offline
without `WANDB_MODE`, MLflow writes a file of the run's folder without `MLFLOW_TRACKING_URI`, and
trackio is local.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import RunError, known, require, shown
from ..storage import processes
from ..storage.bounded import read_json
from ..storage.files import write_text_atomic
from ..storage.run_folder import RunFolder
from . import events

__all__ = ["TRACKERS", "Tracker", "Tracking", "trackers_of"]


class Tracker(Protocol):
    r"""Where points go to."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        r"""Takes the values of a row."""

    def close(self) -> None:
        r"""Ends, with all points written."""

    @property
    def identity(self) -> str:
        r"""By what the tracker finds the run again; empty where its folder is enough."""


# Opens a tracker: of a run's folder, its name, its settings, and the identity that it had.
Opener = Callable[[RunFolder, str, Mapping[str, Any], str], Tracker]


class TensorBoard:
    r"""Event files in `tensorboard/` of the run's folder: `tensorboard --logdir runs`."""

    identity = ""

    def __init__(
        self, folder: RunFolder, name: str, config: Mapping[str, Any], identity: str
    ) -> None:
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter  # it imports that package

        self.writer = SummaryWriter(str(folder.file("tensorboard")))
        if not identity:
            self.writer.add_text("settings", f"```json\n{json.dumps(config, indent=1)}\n```")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WandB:
    r"""A run of the project `vardiu`; offline unless `WANDB_MODE` says otherwise."""

    def __init__(
        self, folder: RunFolder, name: str, config: Mapping[str, Any], identity: str
    ) -> None:
        self.run = require("wandb", "wandb").init(
            project="vardiu",
            name=name,
            dir=str(folder.path),
            config=dict(config),
            id=identity or None,
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
        )

    @property
    def identity(self) -> str:
        return str(self.run.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    r"""A run of the local project `vardiu`, of this run's name."""

    def __init__(
        self, folder: RunFolder, name: str, config: Mapping[str, Any], identity: str
    ) -> None:
        self.identity = identity or f"{name}-{folder.path.stat().st_ino}"
        self.trackio = require("trackio", "trackio")
        self.trackio.init(
            project="vardiu", name=self.identity, config=dict(config), resume="allow"
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.trackio.log(dict(values), step=step)

    def close(self) -> None:
        self.trackio.finish()


class MLflow:
    r"""A run of the experiment `vardiu`, in `mlflow.db` of the run's folder unless
    `MLFLOW_TRACKING_URI` says otherwise."""

    def __init__(
        self, folder: RunFolder, name: str, config: Mapping[str, Any], identity: str
    ) -> None:
        mlflow = require("mlflow", "mlflow")
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self.client = mlflow.MlflowClient(
            tracking_uri=uri or f"sqlite:///{folder.file('mlflow.db').resolve()}"
        )
        self.identity = identity
        if not identity:
            found = self.client.get_experiment_by_name("vardiu")
            made = self.client.create_experiment("vardiu") if found is None else None
            experiment = made if found is None else found.experiment_id
            self.identity = self.client.create_run(experiment, run_name=name).info.run_id
            for key, value in flat(config).items():
                self.client.log_param(self.identity, key, str(value)[:250])

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.identity, name, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.identity)


TRACKERS: Mapping[str, Opener] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
    "mlflow": MLflow,
}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    r"""Returns nested settings by their names with dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def trackers_of(names: Sequence[str] | None) -> list[events.Listener]:
    r"""Returns a listener for each tracker that a command line names.

    Raises:
        ConfigError: There is no tracker of a name, or its package is not installed.
    """
    found = dict.fromkeys(known(name, TRACKERS, "tracker") for name in names or ())
    for name in found:
        require(name, name)  # before anything is trained
    # Of several processes of one run its writer tells trackers.
    return [Tracking(name) for name in found] if processes.is_writer() else []


class Tracking:
    r"""Sends each row of a run's log to a tracker, once.

    Arguments:
        name: The tracker, a key of `TRACKERS`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder: RunFolder | None = None
        self.tracker: Tracker | None = None
        self.row: Mapping[str, Any] | None = None
        self.stage, self.before = "", 0

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.RunStarted():
                self.close()
                self.folder, self.before = RunFolder(event.folder), 0
            case events.StageStarted():
                self.stage = f"{event.index}-{event.stage}"
                self.catch_up(event.stage)
            case events.Reported():
                self.row = event.row()
            case events.StepTaken() if self.row is not None:
                self.send(self.row)
                self.row = None
            case events.StageFinished():
                self.before += event.steps
            case events.RunFinished() | events.RunInterrupted() | events.RunFailed():
                self.close()

    def catch_up(self, stage: str) -> None:
        r"""Sends the rows of a stage's log that were not sent before the run was stopped."""
        assert self.folder is not None
        for row in self.folder.metrics():
            if row["stage"] == stage:
                self.send(row)

    def send(self, row: Mapping[str, Any]) -> None:
        r"""Sends a row, unless it was sent before."""
        assert self.folder is not None
        state = self.state()
        told = state["told"]
        if row["step"] <= told.get(self.stage, -1):
            return
        if self.tracker is None:
            config, name = self.folder.config(), self.folder.path.resolve().name
            self.tracker = TRACKERS[self.name](self.folder, name, config, state["id"])
            state["id"] = self.tracker.identity or "folder"
        told[self.stage] = row["step"]
        self.write(state)
        values = {
            key: float(value)
            for key, value in row.items()
            if isinstance(value, int | float) and key not in ("step", "nonfinite")
        }
        values = {key: value for key, value in values.items() if math.isfinite(value)}
        self.tracker.log(values, self.before + row["step"])

    def state(self) -> dict[str, Any]:
        r"""Returns how far the tracker was told: its name of the run, and the last step of each
        stage.

        Raises:
            RunError: The file is damaged.
        """
        found = self.states().get(self.name, {"id": "", "told": {}})
        good = isinstance(found, dict) and isinstance(found.get("id"), str)
        good = good and isinstance(found.get("told"), dict)
        if not good or not all(isinstance(step, int) for step in found["told"].values()):
            raise RunError(
                f"{shown(self.path)} is damaged: {self.name} must have an id and the steps it "
                "was told. Remove the file, and points may be sent twice"
            )
        return found

    @property
    def path(self) -> Path:
        r"""The file that says how far trackers were told."""
        assert self.folder is not None
        return self.folder.file("tracking.json")

    def states(self) -> dict[str, Any]:
        r"""Returns the states of all trackers of the run."""
        found: dict[str, Any] = read_json(self.path, error=RunError) if self.path.is_file() else {}
        return found

    def write(self, state: Mapping[str, Any]) -> None:
        r"""Writes how far the tracker was told."""
        text = json.dumps({**self.states(), self.name: state}, indent=1)
        write_text_atomic(self.path, text + "\n")

    def close(self) -> None:
        r"""Ends the tracker, with all points written."""
        if self.tracker is not None:
            self.tracker.close()
        self.tracker = None
