"""`promptlogctl.http:app`: the HTTP API as an ASGI application. `make_app` makes one with other settings, to mount.

It needs the extra `http` of promptlog.
"""

from promptlogctl.http.application import Application, ByEnvironment, make_app
from promptlogctl.http.settings import Settings, settings_of

__all__ = ["Application", "Settings", "app", "make_app", "settings_of"]

app = ByEnvironment()
"""Set up at its first use by PROMPTLOG_SOCKET, PROMPTLOG_HTTP_HOSTS and PROMPTLOG_HTTP_TOKENS."""
