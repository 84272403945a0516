"""Quotas: token buckets of runs and CPU time, for users and tenants; what was used survives a reload."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from promptlogd.access import access_of
from promptlogd.config import Config, Quota, QuotaRule, QuotaSettings
from promptlogd.quotas import NO_CAPS, Quotas
from promptlogd.refusal import RequestError
from tests.simulated import client


def _quotas(**settings: Any) -> Quotas:
    return Quotas(access_of(Config(quotas=QuotaSettings(**settings))))


def _refused(quotas: Quotas, **principal: Any) -> dict[str, Any]:
    with pytest.raises(RequestError) as raised:
        quotas.begin(client(1, **principal))
    assert raised.value.code == "quota"
    assert raised.value.detail is not None
    return dict(raised.value.detail)


async def test_without_quotas_nothing_is_limited() -> None:
    """A daemon without quotas refuses nothing, and remembers nobody."""
    quotas = _quotas()
    for _ in range(1000):
        quotas.begin(client(1))
        quotas.charge(client(1), 1e9)
    assert quotas.caps(client(1)) is NO_CAPS
    assert (quotas.maxima(client(1)), quotas.stored(client(1))) == ({}, ())
    assert not quotas._accounts


async def test_runs_per_second(mock_clock: MockClock) -> None:
    """Beyond its burst a user is refused until the time that the error tells; other users are not."""
    quotas = _quotas(user=Quota(runs_per_s=10, runs_burst=2))
    for _ in range(2):
        quotas.begin(client(1, uid=7))
    assert _refused(quotas, uid=7) == {"quota": "runs_per_s", "limit": 10, "retry_after_ms": 100}
    quotas.begin(client(2, uid=8))
    mock_clock.jump(0.101)
    quotas.begin(client(3, uid=7, pid=3))  # another process of the same user
    assert _refused(quotas, uid=7)["retry_after_ms"] <= 100


async def test_cpu_time(mock_clock: MockClock) -> None:
    """A user that has used more CPU time than the burst is refused until it is paid off."""
    quotas = _quotas(user=Quota(cpu_ms_per_s=100, cpu_burst_ms=50))
    quotas.begin(client(1))
    quotas.charge(client(1), 40)
    quotas.begin(client(1))
    quotas.charge(client(1), 210)
    assert _refused(quotas) == {"quota": "cpu_ms_per_s", "limit": 100, "retry_after_ms": 2000}
    mock_clock.jump(2.0)
    quotas.begin(client(1))


async def test_a_tenant_has_a_quota_and_so_has_its_front() -> None:
    """A tenant is refused beyond its own quota, other tenants are not; all of them count for the front's user."""
    quotas = _quotas(user=Quota(runs_per_s=0.1, runs_burst=3), tenant=Quota(runs_per_s=0.1, runs_burst=2))
    for _ in range(2):
        quotas.begin(client(1, tenant="a"))
    with pytest.raises(RequestError, match="the tenant 'a' has used up"):
        quotas.begin(client(1, tenant="a"))
    quotas.begin(client(1, tenant="b"))  # a refused run is not counted: one is left
    with pytest.raises(RequestError, match="uid 1000 has used up"):
        quotas.begin(client(1, tenant="b"))


async def test_the_lower_maximum_counts() -> None:
    """If the user of a front and its tenant have different maxima, the lower one applies."""
    quotas = _quotas(user=Quota(max_cpu_ms=20, max_wall_ms=500), tenant=Quota(max_cpu_ms=30, max_wall_ms=400))
    assert quotas.maxima(client(1)) == {"cpu_ms": 20, "wall_ms": 500}
    assert quotas.maxima(client(1, tenant="a")) == {"cpu_ms": 20, "wall_ms": 400}


async def test_a_reload_keeps_what_was_used(mock_clock: MockClock) -> None:
    """A reload changes the rate and the burst, and the amount that was already used still counts."""
    quotas = _quotas(user=Quota(cpu_ms_per_s=10, cpu_burst_ms=10))
    quotas.charge(client(1), 110)
    assert _refused(quotas)["retry_after_ms"] == 10_000
    quotas.adopt(access_of(Config(quotas=QuotaSettings(user=Quota(cpu_ms_per_s=50, cpu_burst_ms=10)))))
    assert _refused(quotas)["retry_after_ms"] == 2000
    exempt = QuotaRule(users=(1000,))
    quotas.adopt(access_of(Config(quotas=QuotaSettings(user=Quota(cpu_ms_per_s=50), rules=[exempt]))))
    quotas.begin(client(1))


async def test_remembered_principals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A front that names ever new tenants does not fill the daemon's memory; the longest unused are forgotten."""
    monkeypatch.setattr("promptlogd.quotas._MOST_ACCOUNTS", 10)
    quotas = _quotas(tenant=Quota(runs_per_s=0.1, runs_burst=1))
    for number in range(100):
        quotas.begin(client(1, tenant=f"tenant {number}"))
    assert len(quotas._accounts) == 10
    assert len(quotas._applied) <= 10
    assert _refused(quotas, tenant="tenant 99")
    quotas.begin(client(1, tenant="tenant 0"))
    await trio.lowlevel.checkpoint()


async def test_a_users_debt_outlasts_many_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a front names more and more tenants, the used CPU time of other users is still remembered."""
    monkeypatch.setattr("promptlogd.quotas._MOST_ACCOUNTS", 10)
    quotas = _quotas(
        tenant=Quota(runs_per_s=0.1, runs_burst=1), rules=[QuotaRule(users=(2,), runs_per_s=0.1, runs_burst=1)]
    )
    quotas.begin(client(1, uid=2))
    for number in range(100):
        quotas.begin(client(2, tenant=f"tenant {number}"))
    assert len(quotas._accounts) == 10
    assert _refused(quotas, uid=2)
    await trio.lowlevel.checkpoint()


async def test_delayed_refusals_are_bounded(monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock) -> None:
    """The number of delayed refusals of all users is limited, because each takes memory until it is sent."""
    monkeypatch.setattr("promptlogd.quotas._DELAYS_PER_S", 50.0)
    quotas = _quotas(user=Quota(runs_per_s=0.01, runs_burst=1))
    delayed = 0
    for uid in (1, 2):
        quotas.begin(client(1, uid=uid))
        for _ in range(100):
            with pytest.raises(RequestError) as raised:
                quotas.begin(client(1, uid=uid))
            delayed += raised.value.delay_s > 0
    assert delayed == 50
    await trio.lowlevel.checkpoint()


async def test_refusals_of_a_client_that_does_not_wait_are_delayed(mock_clock: MockClock) -> None:
    """After twenty refusals, further ones are delayed to ten a second, by at most 4 s; another user's are not."""
    quotas = _quotas(user=Quota(runs_per_s=0.01, runs_burst=1))

    def delays(uid: int, count: int) -> list[float]:
        found = []
        for _ in range(count):
            with pytest.raises(RequestError) as raised:
                quotas.begin(client(1, uid=uid))
            found.append(raised.value.delay_s)
        return found

    for uid in (7, 8):
        quotas.begin(client(1, uid=uid))
    found = delays(7, 160)
    assert found[:20] == [0.0] * 20
    assert found[20:60] == pytest.approx([number / 10 for number in range(1, 41)])
    assert (min(found[60:]), max(found[60:])) == pytest.approx((2.02, 4.0))
    assert len(set(found[60:])) == 100
    assert delays(8, 1) == [0.0]
    mock_clock.jump(4.501)
    assert [delay > 0 for delay in delays(7, 6)] == [False] * 5 + [True]


@pytest.mark.parametrize(
    "quota", [Quota(runs_per_s=0.01, runs_burst=1), Quota(cpu_ms_per_s=1, cpu_burst_ms=1)], ids=["runs", "CPU time"]
)
async def test_refusals_by_each_rate_are_delayed(quota: Quota, mock_clock: MockClock) -> None:
    """Further refusals of a client that does not wait are delayed, whichever rate it has used up."""
    quotas = _quotas(user=quota)
    quotas.begin(client(1))
    quotas.charge(client(1), 10_000.0)
    found = []
    for _ in range(22):
        with pytest.raises(RequestError) as raised:
            quotas.begin(client(1))
        found.append(raised.value.delay_s > 0)
    assert found == [False] * 20 + [True] * 2
    await trio.lowlevel.checkpoint()
