"""A logger as a user writes one: a line of JSON for each call."""

import json
import os
import time

from rlexp.errors import ConfigError
from rlexp.loggers.base import Logger


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError


class Lines(Logger):
    def __init__(self, file="lines.jsonl", fail_in=None, how="error"):
        self.file, self.fail_in, self.how = file, fail_in, how
        if fail_in == "made":
            raise ConnectionError("no route")

    def note(self, call, **what):
        errors = {"error": ConnectionError("no route\nto host"), "exit": SystemExit(3), "unspeakable": Unspeakable()}
        errors["setting"] = ConfigError("no such project")
        if call == self.fail_in and self.how in errors:
            raise errors[self.how]
        with open(self.file, "a") as file:
            file.write(json.dumps({"call": call} | what) + "\n")
        if call == self.fail_in and self.how == "leaves":
            os.chdir("/")
            time.sleep(0.1)  # what threads write meanwhile goes where it should
        if call == self.fail_in and self.how == "forks":
            os.fork()

    def check(self):
        self.note("check")

    def open(self, subject, id):
        known = {"study": subject.study, "name": subject.name, "tags": subject.tags, "config": subject.config}
        if id == "gone":
            raise KeyError(id)
        self.note("open", id=id, folder=str(subject.folder), outputs=str(subject.outputs), **known)
        return id or f"record of {subject.name}"

    def log(self, step, unix_time, values):
        self.note("log", step=step, time=unix_time, values=dict(values))

    def video(self, step, name, path):
        self.note("video", step=step, name=name, size=os.path.getsize(path))

    def sync(self):
        self.note("sync")

    def verdict(self, text, files):
        self.note("verdict", text=text, files={name: os.path.getsize(path) for name, path in files.items()})

    def close(self, status, result):
        self.note("close", status=status, result=dict(result))


class Vandal(Logger):
    """Empties whatever it is given."""

    def open(self, subject, id):
        subject.config["algo"].clear()
        subject.config["seeds"].clear()
        return "x"

    def log(self, step, unix_time, values):
        values.clear()

    def close(self, status, result):
        result.clear()


class Forks(Logger):
    """Its child exits as a program would."""

    def open(self, subject, id):
        return "x"

    def log(self, step, unix_time, values):
        if child := os.fork():
            self.status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            raise SystemExit(0)

    def close(self, status, result):
        pass
