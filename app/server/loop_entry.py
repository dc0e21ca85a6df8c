"""
The loop worker as the master knows it: a class that brings nothing of the application with it, so that the master,
which only watches, stays small. The real one takes its place in the worker's own process.
"""

from __future__ import annotations

from gunicorn.workers.base import Worker


class LoopEntry(Worker):
    """For `worker_class`."""

    def init_process(self) -> None:
        from app.server.loop_worker import LoopWorker

        self.__class__ = LoopWorker  # type: ignore[assignment]
        self.init_process()
