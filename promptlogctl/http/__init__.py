"""`promptlogctl.http:app`: the HTTP API as an ASGI application. To mount it with other settings, use `Application`.

This package needs the extra `http` of promptlog.
"""

from promptlogctl.http.application import Application, EnvironmentApplication
from promptlogctl.http.settings import Settings

__all__ = ["Application", "Settings", "app"]

app = EnvironmentApplication()
"""At first use, it reads PROMPTLOG_SOCKET, PROMPTLOG_HTTP_HOSTS and PROMPTLOG_HTTP_TOKENS."""
