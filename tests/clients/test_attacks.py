"""The attacks of the benchmark: each reaches the daemon, which serves another client meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.attacker import attacking
from bench.attacks import ATTACKS
from promptlogctl.client import Client
from tests.clients.target import Target, target
from tests.daemon.processes import until

pytestmark = pytest.mark.timed

_LEAVE_AT_ONCE = {"connections that leave at once", "loops whose client leaves at once"}
"""Attacks whose connections the daemon may have closed before the test can see them."""

_ON_ANY_DAEMON = sorted(name for name, attack in ATTACKS.items() if not attack.taken_over)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A daemon for all attacks of this module. At the end, nothing has leaked."""
    with target(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@pytest.mark.parametrize("name", _ON_ANY_DAEMON)
def test_a_client_is_served_during_an_attack(daemon: Target, name: str) -> None:
    """Another client gets its result during the attack, and the daemon is idle again afterwards."""
    with attacking(name, str(daemon.socket), programs=100) as begin, Client(daemon.socket) as client:
        assert client.stats().clients == 1  # the attacker has finished its preparation
        begin()
        until(lambda: name in _LEAVE_AT_ONCE or client.stats().clients > 1)
        daemon.canary()
    until(daemon.is_at_rest, 20)
    assert "Traceback" not in daemon.log()
