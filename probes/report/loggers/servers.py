"""Whether a server can be reached, found out before a client waits for it for minutes."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request


def server_responds(url: str, seconds: float) -> bool:
    """Whether a server responds at all, be it with an error; returns after `seconds` at the latest.

    DNS lookups ignore socket timeouts, so the request runs in a thread, which is abandoned if it hangs.
    """
    finished, responded = threading.Event(), threading.Event()

    def request() -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
            responded.set()
        except urllib.error.HTTPError as response:
            response.close()
            responded.set()
        except (OSError, http.client.HTTPException, ValueError):
            pass
        finished.set()

    threading.Thread(target=request, daemon=True, name="server-reachable").start()
    finished.wait(seconds)
    return responded.is_set()
