"""`promptlogctl.http:app`: the HTTP API as an ASGI application. `Application` is one with other settings, to mount.

It needs the extra `http` of promptlog.
"""

from promptlogctl.http.application import Application, EnvironmentApplication
from promptlogctl.http.settings import Settings

__all__ = ["Application", "Settings", "app"]

app = EnvironmentApplication()
"""Set up at its first use by PROMPTLOG_SOCKET, PROMPTLOG_HTTP_HOSTS and PROMPTLOG_HTTP_TOKENS."""
