"""A notebook that failed, and where to read why."""

from __future__ import annotations


class RunFailed(RuntimeError):
    """A notebook run did not finish; its message says where and why, `traceback` has the cell's, if it was a cell."""

    def __init__(self, message: str, traceback: str = ""):
        super().__init__(message)
        self.traceback = traceback
