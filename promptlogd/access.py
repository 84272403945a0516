"""The rights and the quotas of a configuration, with its users and groups looked up: what each principal may do."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, get_args

import msgspec

from promptlogd.config import Config, ConfigError, Quota
from promptlogd.members import Members, NoSuchMember, find_members

Right = Literal["run", "exec", "submit", "manage"]

_ROOT = 0
_NO_QUOTA = Quota()
_ANY_ENDING = "*"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """The quota of certain users; or of certain tenants, if `tenants` is not empty."""

    users: Members
    tenants: tuple[str, ...]
    quota: Quota

    def names_tenant(self, tenant: str) -> bool:
        """Whether the rule is for this tenant."""
        return any(
            tenant.startswith(name.removesuffix(_ANY_ENDING)) if name.endswith(_ANY_ENDING) else tenant == name
            for name in self.tenants
        )


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Who has which right, and which quota."""

    rights: Mapping[Right, Members]
    user: Quota
    tenant: Quota
    rules: tuple[Rule, ...]

    def has(self, right: Right, uid: int, gids: Collection[int]) -> bool:
        """Whether a user has a right. Root and the daemon's user always have `manage`."""
        members = self.rights[right]
        return members.everyone or members.has(uid, gids) or (right == "manage" and uid in (_ROOT, os.geteuid()))

    @property
    def has_quotas(self) -> bool:
        """Whether anybody has a quota."""
        quotas = (self.user, self.tenant, *(rule.quota for rule in self.rules))
        return any(quota != _NO_QUOTA for quota in quotas)

    def quota_of_user(self, uid: int, gids: Collection[int]) -> Quota:
        """Return the quota of a user."""
        for rule in self.rules:
            if not rule.tenants and rule.users.has(uid, gids):
                return rule.quota
        return self.user

    def quota_of_tenant(self, uid: int, gids: Collection[int], tenant: str) -> Quota:
        """Return the quota of a tenant. `uid`, `gids`: of the front."""
        for rule in self.rules:
            if rule.names_tenant(tenant) and rule.users.has(uid, gids):
                return rule.quota
        return self.tenant


def access_of(config: Config, where: str = "the configuration") -> Access:
    """Look up the users and groups of a configuration. May wait for another host. Raises ConfigError."""
    rights: dict[Right, Members] = {
        right: _members(getattr(config.rights, right), f"{where}: rights.{right}") for right in get_args(Right)
    }
    rules = []
    for number, rule in enumerate(config.quotas.rules, 1):
        place = f"{where}: quotas.rules, table {number}"
        if not (rule.users or rule.tenants):
            raise ConfigError(f"{place}: it names nobody; give `users` or `tenants`")
        for name in rule.tenants:
            if _ANY_ENDING in name[:-1]:
                raise ConfigError(f"{place}: tenants: {name!r} has a * that is not its last character")
        users = _members(rule.users, f"{place}: users") if rule.users else Members(everyone=True)
        quota = Quota(**{field: getattr(rule, field) for field in Quota.__struct_fields__})
        rules.append(Rule(users=users, tenants=tuple(rule.tenants), quota=quota))
    quotas = config.quotas
    return Access(rights=rights, user=quotas.user, tenant=quotas.tenant, rules=tuple(rules))


def _members(entries: Sequence[int | str], where: str) -> Members:
    try:
        return find_members(entries)
    except NoSuchMember as error:
        raise ConfigError(f"{where}: {error}; make it, or give its number") from None
