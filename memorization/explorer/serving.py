"""The page on the air: on this machine alone unless told, without anything from elsewhere."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr
import torch
from starlette.middleware import Middleware

from memorization.explorer import fragments
from memorization.explorer.layout import build_page, theme
from memorization.explorer.sessions import MOST_SESSIONS, Explorer

# The browser is told to load nothing from anywhere else, whatever the library's page names.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; connect-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'self'; frame-ancestors 'none'"
)
LARGEST_UPLOAD = 1  # byte: nothing is uploaded here

Scope = dict[str, Any]


class OwnPolicy:
    """Adds the policy to every answer of an ASGI application."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        async def send_with_policy(message: Scope) -> None:
            if message["type"] == "http.response.start":
                extra = ((b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer"))
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def leave_a_core() -> None:
    """Compute with a thread fewer than there are cores, unless OMP_NUM_THREADS says how many.

    The page is served, and often shown, on the same machine: threads of the loop that wait for one another at each
    layer wait for whatever takes a core of theirs.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) - 1)))


def serve(explorer: Explorer, host: str, port: int | None, in_browser: bool = False) -> gr.Blocks:
    """Open the page to whoever reaches the address; `page.local_url` is where it is, `page.close()` ends it.

    Args:
        host: address to listen on.
        port: None takes a free one.

    Raises:
        OSError: if the address cannot be had.
    """
    leave_a_core()
    page = build_page(explorer)
    page.launch(
        server_name=host,
        server_port=port,
        inbrowser=in_browser,
        share=False,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        allowed_paths=[],
        max_file_size=LARGEST_UPLOAD,
        state_session_capacity=MOST_SESSIONS,  # of each the library keeps what is shown, however long it is closed
        footer_links=[],
        theme=theme(),
        css=fragments.STYLE,
        app_kwargs={"middleware": [Middleware(OwnPolicy)]},
    )
    return page
