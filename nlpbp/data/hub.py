"""Whether the hub can be reached at all: libraries that ask it try for most of a minute before they say that it cannot."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlparse

import huggingface_hub.constants

SECONDS = 2.0


def go_offline_if_out_of_reach() -> None:
    """Switch the hub's libraries to what is cached when no connection can be made; with a proxy set, leave it to them.

    >>> go_offline_if_out_of_reach()
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE or any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return
    address = urlparse(huggingface_hub.constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout=SECONDS).close()
    except OSError:
        import datasets.config

        huggingface_hub.constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True
