"""Rights and quotas of a configuration: who is named, which rule counts, and errors that say what is wrong."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from promptlogd.access import Access, access_of
from promptlogd.config import Config, ConfigError
from promptlogd.config_files import load_files

_NOBODY = pwd.getpwnam("nobody").pw_uid
_NONE: frozenset[int] = frozenset()


def _access(tmp_path: Path, text: str) -> Access:
    path = tmp_path / "promptlog.toml"
    path.write_text(text)
    return load_files(path).access


def test_without_configuration() -> None:
    """Everyone may run, exec and submit; root and the daemon's user may manage; nobody has a quota."""
    access = access_of(Config())
    for right in ("run", "exec", "submit"):
        assert access.has(right, 1234, _NONE)
    assert not access.has("manage", 1234, _NONE)
    assert access.has("manage", 0, _NONE)
    assert access.has("manage", os.geteuid(), _NONE)
    assert not access.has_quotas


def test_a_right_is_given_to_users_and_groups(tmp_path: Path) -> None:
    """A list may have uids, names of users, names and ids of groups. Others do not have the right."""
    access = _access(tmp_path, '[rights]\nrun = [77, "nobody", "@daemon", "@4321"]\nexec = []\nmanage = ["*"]\n')
    daemon_gid = 1
    for uid, gids in ((77, _NONE), (_NOBODY, _NONE), (5, {daemon_gid}), (5, {9, 4321})):
        assert access.has("run", uid, gids)
    assert not access.has("run", 78, {9})
    assert not access.has("run", 0, _NONE)
    assert not access.has("exec", 77, _NONE)
    assert access.has("submit", 78, _NONE)
    assert access.has("manage", 78, _NONE)


def test_the_first_rule_counts(tmp_path: Path) -> None:
    """A rule for a user or a tenant replaces the quota of everybody as a whole; the first that names it counts."""
    access = _access(
        tmp_path,
        """
        [quotas]
        user.programs = 1
        tenant.programs = 2
        [[quotas.rules]]
        tenants = ["acme", "token *"]
        users = [77]
        programs = 3
        [[quotas.rules]]
        users = ["@4321"]
        runs_per_s = 5
        [[quotas.rules]]
        users = ["nobody"]
        """,
    )
    assert access.has_quotas
    assert access.quota_of_user(77, _NONE).programs == 1  # the rule for tenants is not for the front itself
    of_group = access.quota_of_user(_NOBODY, {4321})
    assert (of_group.runs_per_s, of_group.programs) == (5, None)
    assert access.quota_of_user(_NOBODY, _NONE).programs is None
    for tenant, uid, programs in (
        ("acme", 77, 3),
        ("token x", 77, 3),
        ("acme", 78, 2),
        ("acm", 77, 2),
        ("other", 77, 2),
    ):
        assert access.quota_of_tenant(uid, _NONE, tenant).programs == programs


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[rights]\nrun = ["no such user"]', "rights.run: there is no user 'no such user'"),
        ('[rights]\nmanage = ["@no such group"]', "rights.manage: there is no group 'no such group'"),
        ('[rights]\nexec = "alice"', 'rights.exec: expected a list of uids, names of users, "@GROUP" or "*"'),
        ("[rights]\nexec = [-1]", 'rights.exec[0]: expected a list of uids, names of users, "@GROUP" or "*"'),
        ("[rights]\nwrite = []", "there is no setting rights.write"),
        ("[quotas.user]\nruns_at_once = 0", "quotas.user.runs_at_once: Expected `int` >= 1"),
        ("[quotas.user]\nruns_per_s = 0", "quotas.user.runs_per_s: Expected `float` > 0.0"),
        ("[quotas.tenant]\nstored_mb = -1", "quotas.tenant.stored_mb: Expected `float` >= 0.0"),
        ("[quotas.user]\nruns = 1", "there is no setting quotas.user.runs"),
        ("[[quotas.rules]]\nprograms = 1", "quotas.rules, table 1: it names nobody"),
        ('[[quotas.rules]]\nusers = ["root"]\n[[quotas.rules]]\nusers = ["@ no"]', "table 2: users: there is no group"),
        ('[[quotas.rules]]\ntenants = ["*x"]', "table 1: tenants: '*x' has a * that is not its last character"),
        ("[[quotas.rules]]\nusers = [1.5]", "quotas.rules[0].users[0]: expected a list of uids, names of users"),
        ("[[quotas.rules]]\nusers = [1]\nprogram = 1", "quotas.rules[0]: Object contains unknown field `program`"),
        ('[store]\nvisibility = "secret"', "store.visibility: Invalid enum value 'secret'; valid values: 'own'"),
    ],
)
def test_wrong_settings(tmp_path: Path, text: str, says: str) -> None:
    """An unknown user or group, a wrong number and a misspelt setting are refused, and the place is named."""
    with pytest.raises(ConfigError) as raised:
        _access(tmp_path, text)
    assert says in str(raised.value)
