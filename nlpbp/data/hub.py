"""A quick check whether the hub can be reached: its libraries retry for most of a minute before they give up."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlparse

import huggingface_hub.constants

SECONDS = 2.0


def go_offline_if_out_of_reach() -> None:
    """Switch the hub's libraries to offline mode if no connection can be made; leave them as they are if a proxy is set.

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
