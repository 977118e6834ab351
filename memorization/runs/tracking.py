"""Logging of running means through accelerate's trackers, JSON lines by default so that it works offline."""

import json
import time
from importlib.util import find_spec
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, on_main_process

from memorization.errors import first_line

SERVICES, PROJECT = ("wandb", "trackio"), "memorization"


class JsonlTracker(GeneralTracker):
    """Appends one JSON object a call to a file: the step, seconds since the start, and the values."""

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, path):
        super().__init__()
        self.path, self.started = Path(path), time.time()

    @property
    def tracker(self):
        return self.path

    @on_main_process
    def store_init_configuration(self, values):
        """The settings are in the .config.json beside the rows already."""

    @on_main_process
    def log(self, values, step=None, **kwargs):
        line = {"step": step, "seconds": round(time.time() - self.started, 2), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Tracking:
    """A run's tracker; `log` takes a dict of numbers, `finish` closes what wants closing."""

    def __init__(self, kind, run_key, folder, settings):
        """
        Args:
            kind: jsonl, or the name of one of accelerate's trackers.
            run_key: names the run, and its file or folder.
            folder: where jsonl and tensorboard write.
            settings: what the tracker shows as the run's configuration.

        Raises:
            ValueError: one line, if the tracker's package is not there or does not start.
        """
        tracker = JsonlTracker(Path(folder) / f"{run_key}.tracking.jsonl") if kind == "jsonl" else kind
        if kind != "jsonl" and find_spec(kind) is None:
            raise ValueError(f"--tracker {kind} needs the package {kind}: pip install {kind}")
        self.accelerator = Accelerator(cpu=True, log_with=tracker, project_dir=str(folder))
        try:
            # Files are named by the run; a service has one project with the runs in it.
            project, names = (PROJECT, {kind: {"name": run_key}}) if kind in SERVICES else (run_key, {})
            self.accelerator.init_trackers(project, config=simple_values(settings), init_kwargs=names)
        except Exception as error:  # each service raises its own kinds: no login, no network
            reason = first_line(error)
            raise ValueError(f"--tracker {kind} does not start: {reason}; jsonl works offline") from error

    def log(self, values, step):
        self.accelerator.log(values, step=step)

    def finish(self):
        self.accelerator.end_training()


def simple_values(settings):
    """Settings as the trackers take them: numbers and text."""
    return {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
