"""Converts the quotas of what a principal stores to records of the store."""

from __future__ import annotations

from promptlogd.principal import Principal
from promptlogd.quotas import Quotas
from promptlogd.store import HolderQuota
from sandbox.limits import MIB


def stored_quotas(quotas: Quotas, principal: Principal) -> list[HolderQuota]:
    """Return the quotas of a principal. For a tenant, also those of the front's user."""
    return [
        HolderQuota(
            uid=uid,
            tenant=tenant,
            programs=quota.programs,
            bytes=None if quota.stored_mb is None else int(quota.stored_mb * MIB),
            names=quota.names,
        )
        for (uid, tenant), quota in quotas.stored(principal)
    ]
