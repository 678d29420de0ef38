"""Starts and ends the server: the page, the figures and the gate before LitServe's own app."""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import Any

from hct_lightning.deploy.extra import extra
from hct_lightning.runs import signals
from hct_lightning.serving.api import ArtifactAPI
from hct_lightning.serving.gate import Figures, Gate
from hct_lightning.serving.page import Page

with extra("serve"):
    from litserve import Callback, LitServer
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Route

log = logging.getLogger(__name__)

GRACE_S = 5  # for requests that are being answered when it ends


class EndWithServer(Callback):
    """The process that holds the artifact ends with the first one, however that ends."""

    def on_before_setup(self, *args: Any, **kwargs: Any) -> None:
        signals.end_with_parent()


class Server(LitServer):
    """LitServe's, whose processes leave it to the first one what Ctrl-C means, and which ends when one of them does."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.died = False  # one of its processes, before the server was told to end
        self._ending = threading.Event()

    def launch_inference_worker(self, lit_api: Any) -> Any:
        with _children_end_silently():
            return super().launch_inference_worker(lit_api)

    def _start_server(self, *args: Any, **options: Any) -> Any:
        with _children_end_silently():
            return super()._start_server(*args, **options)

    def _start_worker_monitoring(self, manager: Any, uvicorn_workers: dict[int, Any]) -> None:
        """Ends the server when a process of it has died.

        LitServe's own asks every two seconds, also while the server ends, and takes what is being
        ended for dead. It watches the process that holds the artifact alone.
        """
        processes = [*self.inference_workers, *uvicorn_workers.values()]
        threading.Thread(target=self._end_with, args=(processes,), daemon=True).start()

    def _end_with(self, processes: list[Any]) -> None:
        wait([process.sentinel for process in processes])
        # What ends them all at once, as Ctrl-C on a terminal, comes to the first process too, maybe a little later.
        if self._shutdown_event and not self._ending.wait(3):
            self.died = True
            with contextlib.suppress(EOFError, OSError):  # it has been told to end meanwhile
                self._shutdown_event.set()

    def _perform_graceful_shutdown(self, *args: Any, **options: Any) -> None:
        self._ending.set()
        super()._perform_graceful_shutdown(*args, **options)


@contextlib.contextmanager
def _children_end_silently() -> Iterator[None]:
    """Processes that are started meanwhile are ended by this one, and not by the Ctrl-C that it gets."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def build(api: ArtifactAPI, page: Page, *, token: str | None, max_bytes: int, waiting: int, timeout: float) -> Server:
    """The server, not yet started.

    Args:
        api: answers.
        page: what stands at `/`.
        token: see `Gate`.
        max_bytes: likewise.
        waiting: likewise.
        timeout: seconds that a request may wait for the artifact; then it gets 504.
    """
    figures = Figures()
    gate = {"token": token, "max_bytes": max_bytes, "waiting": waiting, "figures": figures}
    server = Server(
        api,
        accelerator="cpu",
        timeout=timeout,
        callbacks=EndWithServer(),
        middlewares=[(Gate, gate)],
        disable_openapi_url=True,  # its page of documentation comes from elsewhere
    )
    server.uvicorn_graceful_timeout = GRACE_S

    async def show(request: Request) -> Response:
        return HTMLResponse(page.html, headers=page.headers)

    async def metrics(request: Request) -> Response:
        return Response(figures.text(), media_type="text/plain; version=0.0.4")

    server.app.router.routes[:0] = [Route("/", show), Route("/metrics", metrics)]
    return server


def run(server: Server, *, host: str, port: int) -> None:
    """Serves until Ctrl-C or SIGTERM, which both end it in order.

    Raises:
        ValueError: when the port is taken, or the host is none of this machine's.
        ChildProcessError: when one of its processes has died.
    """
    check_free(host, port)
    # LitServe knows Ctrl-C alone: after any other exception it waits for itself for ever.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.register_at_fork(after_in_child=signals.end_with_parent)  # those of LitServe that are forked
    try:
        server.run(
            host=host,
            port=port,
            num_api_servers=1,  # the gate counts in one process
            log_level="error",
            generate_client_file=False,
            log_config=None,
            access_log=False,
        )
    except (EOFError, ConnectionError):
        server.died = True  # LitServe's manager
    finally:
        signal.signal(signal.SIGTERM, before)
        for child in multiprocessing.active_children():
            child.terminate()
    if server.died:
        raise ChildProcessError("a process of the server has died; was the machine short of memory?")


def check_free(host: str, port: int) -> None:
    """Raises ValueError when nothing can be served there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(f"serve.port={port} at {host}: {error.strerror}; give another serve.port") from error
