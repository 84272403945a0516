"""config: the settings in force, and where each value came from."""

from __future__ import annotations

import msgspec

from promptlogd.principal import Principal
from promptlogd.settings import Settings, is_reloaded
from promptlogd.sink import Sink
from promptlogd.wire.messages import Config, ConfigReply, SettingInfo


class ConfigHandler:
    """Handles `config`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._infos: list[SettingInfo] | None = None
        settings.on_adopted(self._forget)

    def start(self, principal: Principal, request: Config, sink: Sink) -> None:
        """Reply with the settings."""
        if self._infos is None:
            self._infos = [
                SettingInfo(
                    name=name,
                    value=_json(value),
                    source=source,
                    after_restart=None if pending is None else _json(pending),
                    reload=is_reloaded(name),
                )
                for name, value, source, pending in self._settings.describe()
            ]
        sink.reply(ConfigReply(id=request.id, files=self._settings.files, settings=self._infos))

    def _forget(self) -> None:
        self._infos = None


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
