"""A logger as a user writes one: a line of JSON for each call."""

import json
import os

from rlexp.loggers.base import Logger


class Lines(Logger):
    def __init__(self, file="lines.jsonl", fail_in=None):
        self.file, self.fail_in = file, fail_in

    def note(self, call, **what):
        if call == self.fail_in:
            raise ConnectionError("no route\nto host")
        with open(self.file, "a") as file:
            file.write(json.dumps({"call": call} | what) + "\n")

    def check(self):
        self.note("check")

    def open(self, subject, id):
        known = {"study": subject.study, "name": subject.name, "tags": subject.tags, "config": subject.config}
        self.note("open", id=id, folder=str(subject.folder), **known)
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
