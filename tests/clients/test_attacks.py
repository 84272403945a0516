"""The attacks of the benchmark: each does what it should to a daemon, which serves another client meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.attacker import attacking
from bench.attacks import ATTACKS
from promptlogctl.client import Client
from tests.clients.target import Target, target
from tests.daemon.processes import until

pytestmark = pytest.mark.alone

_LEAVE_AT_ONCE = {"connections that leave at once", "loops whose client leaves at once"}
"""The daemon may have dropped their connections before anybody sees them."""

_ON_ANY_DAEMON = sorted(name for name, attack in ATTACKS.items() if not attack.taken_over)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A daemon that all attacks are tried on; at the end it has leaked nothing."""
    with target(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@pytest.mark.parametrize("name", _ON_ANY_DAEMON)
def test_another_client_is_served_beside_an_attack(daemon: Target, name: str) -> None:
    """While the attack is on, another client gets its result; afterwards the daemon comes to rest."""
    with attacking(name, str(daemon.socket), programs=100) as begin, Client(daemon.socket) as client:
        assert client.stats().clients == 1  # what it had to prepare is done
        begin()
        until(lambda: name in _LEAVE_AT_ONCE or client.stats().clients > 1)
        daemon.canary()
    until(daemon.is_at_rest, 20)
    assert "Traceback" not in daemon.log()
