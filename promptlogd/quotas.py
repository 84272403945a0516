"""The quotas of each principal, and how much of them it has used. docs/access.md has the rules.

Admission enforces the numbers of running and waiting runs, and the store what is stored. This module has two token
buckets for each user and each tenant: of runs, and of CPU time. Without quotas it does nothing.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

import msgspec
import trio

from promptlogd.access import Access
from promptlogd.config import Quota
from promptlogd.principal import Principal
from promptlogd.refusal import RequestError
from promptlogd.token_bucket import TokenBucket

_MOST_ACCOUNTS = 10_000
"""Maximum number of principals whose usage is remembered: 6 MB. Beyond it, the least recently used one is dropped."""

_CPU_BURST_S = 10.0
"""Default of `cpu_burst_ms`: the CPU time of this number of seconds at the rate."""

_REFUSALS_PER_S, _REFUSALS_BURST = 10.0, 20.0
"""Rate and burst of the refusals of one principal. Refusals beyond the burst are delayed to this rate."""
_MOST_DELAY_S = 4.0
"""Maximum delay, less than the default of `server.drain_s`. A refusal costs the daemon 0.2 to 0.7 ms. With a maximum of
1 s, a tenant with 256 requests in flight used more of the daemon's CPU time by refusals than by its runs."""
_SPREAD_S, _STEPS = 2.0, 100
"""Delays that would exceed the maximum are spread over its last 2 s, in 100 steps. If all had the same delay, a client
would send its next requests at the same time, and occupy the event loop until all of them are done."""
_DELAYS_PER_S = 500.0
"""Rate and burst of the delayed refusals of all principals. A delayed refusal takes 7 KB, so all take at most 18 MB.
Refusals beyond the burst are sent at once."""

_Key = tuple[int, str | None]


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """Maximum numbers of runs of a user and of a tenant that may be in progress or may wait. None: no maximum."""

    user_running: int | None = None
    user_waiting: int | None = None
    tenant_running: int | None = None
    tenant_waiting: int | None = None


NO_CAPS = Caps()


class _Account:
    """What one principal has used."""

    __slots__ = ("cpu_ms", "refusals", "runs")

    def __init__(self) -> None:
        self.refusals = TokenBucket()
        self.runs = TokenBucket()
        self.cpu_ms = TokenBucket()


class _Applied(msgspec.Struct, frozen=True, kw_only=True):
    """The quotas of a principal: that of its user, and that of its tenant."""

    quotas: tuple[tuple[_Key, Quota], ...]
    stored: tuple[tuple[_Key, Quota], ...]
    """The quotas of these that limit what the principal stores."""
    caps: Caps
    maxima: Mapping[str, int]


class Quotas:
    """The quotas of all principals."""

    def __init__(self, access: Access | None = None) -> None:
        """`access`: None if nobody has a quota."""
        self._access: Access | None = None
        self._accounts: OrderedDict[_Key, _Account] = OrderedDict()
        """The least recently used one is the first."""
        self._delayed = 0
        """Number of refusals whose delay would have exceeded the maximum."""
        self._delays = TokenBucket()
        self._applied: dict[tuple[int, frozenset[int], str | None], _Applied] = {}
        if access is not None:
            self.adopt(access)

    def adopt(self, access: Access) -> None:
        """Apply the quotas of a configuration. Usage so far still counts."""
        self._access = access if access.has_quotas else None
        self._applied.clear()

    def maxima(self, principal: Principal) -> Mapping[str, int]:
        """Return the maxima of a principal's limits that are lower than everybody's, by field."""
        return {} if self._access is None else self._of(principal, self._access).maxima

    def caps(self, principal: Principal) -> Caps:
        """Return how many runs of a principal may be in progress, and may wait."""
        return NO_CAPS if self._access is None else self._of(principal, self._access).caps

    def stored(self, principal: Principal) -> tuple[tuple[_Key, Quota], ...]:
        """Return each quota that limits what a principal stores, and the user and the tenant that it counts for."""
        if self._access is None:
            return ()
        return self._of(principal, self._access).stored

    def begin(self, principal: Principal) -> None:
        """Note a run or a submit. Raises RequestError, and notes nothing, if a quota is used up."""
        if self._access is None:
            return
        quotas, now = self._of(principal, self._access).quotas, trio.current_time()
        for key, quota in quotas:
            if quota.runs_per_s is not None:
                burst = quota.runs_burst or max(1.0, quota.runs_per_s)
                wait_s = self._account(key).runs.wait_s(1, now, quota.runs_per_s, burst)
                if wait_s > 0:
                    what = f"{quota.runs_per_s:g} runs per second"
                    raise self.refused(key, used_up("runs_per_s", quota.runs_per_s, what, key, wait_s))
            if (error := self._cpu_debt(key, quota, now)) is not None:
                raise self.refused(key, error)
        for key, quota in quotas:
            if quota.runs_per_s is not None:
                self._account(key).runs.use(1, now, quota.runs_per_s)

    def cpu_debt(self, principal: Principal) -> RequestError | None:
        """Return the error for a run that has waited, if runs that ended meanwhile have used up a quota of CPU time."""
        if self._access is None:
            return None
        now = trio.current_time()
        errors = (self._cpu_debt(key, quota, now) for key, quota in self._of(principal, self._access).quotas)
        return next((error for error in errors if error is not None), None)

    def _cpu_debt(self, key: _Key, quota: Quota, now: float) -> RequestError | None:
        rate = quota.cpu_ms_per_s
        if rate is None:
            return None
        wait_s = self._account(key).cpu_ms.wait_s(0, now, rate, quota.cpu_burst_ms or _CPU_BURST_S * rate)
        if wait_s <= 0:
            return None
        return used_up("cpu_ms_per_s", rate, f"{rate:g} ms of CPU time per second", key, wait_s)

    def refused(self, key: _Key, error: RequestError) -> RequestError:
        """Return the error. It has a delay if this user or tenant was refused often recently (a token bucket shaper).

        Otherwise a client that does not wait could keep the daemon busy with refusals.
        """
        refusals, now = self._account(key).refusals, trio.current_time()
        delay_s = refusals.wait_s(1, now, _REFUSALS_PER_S, _REFUSALS_BURST)
        if delay_s > 0:
            if self._delays.wait_s(1, now, _DELAYS_PER_S, _DELAYS_PER_S) > 0:
                return error
            self._delays.use(1, now, _DELAYS_PER_S)
        if delay_s <= _MOST_DELAY_S:
            refusals.use(1, now, _REFUSALS_PER_S)
        else:
            self._delayed += 1
            delay_s = _MOST_DELAY_S - _SPREAD_S * (self._delayed % _STEPS) / _STEPS
        error.delay_s = delay_s
        return error

    def charge(self, principal: Principal, cpu_ms: float) -> None:
        """Charge CPU time to a principal."""
        if self._access is None:
            return
        for key, quota in self._of(principal, self._access).quotas:
            if quota.cpu_ms_per_s is not None:
                self._account(key).cpu_ms.use(cpu_ms, trio.current_time(), quota.cpu_ms_per_s)

    def _account(self, key: _Key) -> _Account:
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account()
            if len(self._accounts) > _MOST_ACCOUNTS:
                # Drop tenants first: a front can name any number of them, and no user's debt may be forgotten for that.
                del self._accounts[
                    next((other for other in self._accounts if other[1] is not None), next(iter(self._accounts)))
                ]
        else:
            self._accounts.move_to_end(key)
        return account

    def _of(self, principal: Principal, access: Access) -> _Applied:
        uid, gids, tenant = principal.uid, principal.gids, principal.tenant
        applied = self._applied.get((uid, gids, tenant))
        if applied is None:
            if len(self._applied) >= _MOST_ACCOUNTS:
                self._applied.clear()
            applied = self._applied[uid, gids, tenant] = _apply(access, uid, gids, tenant)
        return applied


def _apply(access: Access, uid: int, gids: frozenset[int], tenant: str | None) -> _Applied:
    of_user = access.quota_of_user(uid, gids)
    of_tenant = Quota() if tenant is None else access.quota_of_tenant(uid, gids, tenant)
    maxima = dict(of_user.max_limits)
    for field, most in of_tenant.max_limits.items():
        maxima[field] = min(most, maxima.get(field, most))
    caps = Caps(
        user_running=of_user.runs_at_once,
        user_waiting=of_user.queued,
        tenant_running=of_tenant.runs_at_once,
        tenant_waiting=of_tenant.queued,
    )
    quotas: tuple[tuple[_Key, Quota], ...] = (((uid, None), of_user), ((uid, tenant), of_tenant))
    return _Applied(
        quotas=tuple((key, quota) for key, quota in quotas if quota != Quota()),
        stored=tuple(each for each in quotas if any(limit is not None for limit in _stored(each[1]))),
        caps=NO_CAPS if caps == NO_CAPS else caps,
        maxima=maxima,
    )


def _stored(quota: Quota) -> tuple[float | None, ...]:
    return quota.programs, quota.stored_mb, quota.names


def used_up(setting: str, limit: float, what: str, key: _Key, wait_s: float) -> RequestError:
    """Return the error for a quota that is used up. `what`: the limit in words. `key`: the user and the tenant."""
    uid, tenant = key
    whose = f"uid {uid}" if tenant is None else f"the tenant {tenant!r}"
    retry_after_ms = max(1, math.ceil(wait_s * 1000))
    return RequestError(
        "quota",
        f"{whose} has used up its quota of {what}; try again in {retry_after_ms} ms",
        {"quota": setting, "limit": limit, "retry_after_ms": retry_after_ms},
    )
