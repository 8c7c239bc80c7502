"""Real gloo processes, kept for the whole test session: importing torch once is slow enough.

    first, second = on_ranks(2, function, argument)

Functions live at module level in a test file.  The workers come from a fork server that has
imported torch already, so a killed one is replaced within a second.
"""

from __future__ import annotations

import atexit
import datetime
import multiprocessing as mp
import os
import pickle
import tempfile
import traceback
import warnings
from collections.abc import Callable
from typing import Any

MAX_RANKS = 4
PATIENCE = 600.0  # seconds until a job counts as hung; a collective fails long before


class Failed(Exception):
    """What went wrong on a rank: the type of its exception, the message and the traceback."""

    def __init__(self, kind: str, message: str, trace: str = "") -> None:
        super().__init__(kind, message, trace)
        self.kind, self.message, self.trace = kind, message, trace

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}\n{self.trace}"


def _serve(pipe: Any) -> None:
    """One worker: join the job's process group, run it, answer, until the pipe closes."""
    os.environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    world = None
    while True:
        try:
            place, timeout, function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        if place != world:
            if dist.is_initialized():
                dist.destroy_process_group()
            rank, size, file = world = place
            wait = datetime.timedelta(seconds=timeout)
            dist.init_process_group("gloo", f"file://{file}", rank=rank, world_size=size, timeout=wait)
        torch.manual_seed(world[0])
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", module="sigreg|tests|test_")
                answer = function(*args)
        except Exception as error:
            answer = Failed(type(error).__name__, str(error), traceback.format_exc())
        pipe.send(answer)


class _Pool:
    """Up to `MAX_RANKS` workers; those of a group that failed are replaced."""

    def __init__(self) -> None:
        self.context = mp.get_context("forkserver")
        # What each job would import anyway; optimizers import the compiler's front end.
        self.context.set_forkserver_preload(["torch.distributed", "torch._dynamo", "sigreg", "hypothesis"])
        self.workers: list[Any] = []
        self.folder = tempfile.TemporaryDirectory()
        self.meetings = 0
        self.world: tuple[int, float] | None = None

    def start(self, size: int) -> None:
        while len(self.workers) < size:
            mine, theirs = self.context.Pipe()
            process = self.context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.workers.append((process, mine))

    def stop(self) -> None:
        for process, pipe in self.workers:
            pipe.close()
            process.kill()
            process.join()
        self.workers, self.world = [], None

    def run(
        self, size: int, timeout: float, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> list[Any]:
        self.start(size)
        if self.world != (size, timeout):
            self.world = (size, timeout)
            self.meetings += 1
        file = os.path.join(self.folder.name, str(self.meetings))
        answers: list[Any] = []
        for rank, (_, pipe) in enumerate(self.workers[:size]):
            pipe.send_bytes(pickle.dumps(((rank, size, file), timeout, function, args)))
        for rank, (_, pipe) in enumerate(self.workers[:size]):
            try:
                hung = not pipe.poll(PATIENCE)
                answers.append(Failed("Hung", f"rank {rank} did not answer") if hung else pipe.recv())
            except EOFError:
                answers.append(Failed("Died", f"rank {rank} ended without an answer"))
        if any(isinstance(answer, Failed) for answer in answers):
            self.stop()  # their process group may hold half a collective
        return answers


_POOL = _Pool()
atexit.register(_POOL.stop)


def outcomes(size: int, function: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[Any]:
    """What `function(*args)` gave on each of `size` ranks: a value, or `Failed`."""
    return _POOL.run(size, timeout, function, args)


def on_ranks(size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """As `outcomes`, but a rank that failed raises here."""
    answers = outcomes(size, function, *args)
    for rank, answer in enumerate(answers):
        if isinstance(answer, Failed):
            raise AssertionError(f"rank {rank} of {size}: {answer}")
    return answers
