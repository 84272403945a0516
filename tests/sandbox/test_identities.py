"""Which uids jails have on the host, and that no two jails have the same one where the daemon may set them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox import identities
from sandbox.identities import NOBODY, RANGE_IDS, Identities, IdentityError, choose, may_set_ids, shared


def test_each_jail_has_an_identity_of_its_own_until_it_is_given_back() -> None:
    """Each id of a range is handed out once; those given back come again, in the order in which they came back."""
    ids = range(100_000, 100_003)
    chosen = Identities(ids, ids)
    taken = [chosen.take() for _ in ids]
    assert [identity and (identity.uid, identity.gid) for identity in taken] == [(uid, uid) for uid in ids]
    assert chosen.take() is None
    for identity in (taken[2], taken[0]):
        assert identity is not None
        chosen.give_back(identity)
    assert [chosen.take(), chosen.take(), chosen.take()] == [taken[2], taken[0], None]


def test_a_shared_identity_is_the_same_for_all() -> None:
    """Without the right to set uids each jail has the daemon's uid, nobody's for root, and the reason is told."""
    chosen = shared("of a reason")
    uid = os.geteuid() or NOBODY
    assert {(identity.uid) for identity in (chosen.take(), chosen.take()) if identity} == {uid}
    assert chosen.describe() == f"shared: all jails have uid {uid}, since of a reason"


def test_two_daemons_have_different_ranges(tmp_path: Path) -> None:
    """Daemons that look in the same place first get ranges that do not overlap; a range is free again after `close`."""
    assert may_set_ids(), "this test chooses uids as a daemon of root's does: run it as root"
    one, two = choose(None, claims=tmp_path, seed=7), choose(None, claims=tmp_path, seed=7)
    first, second = one.take(), two.take()
    assert first is not None
    assert second is not None
    assert abs(first.uid - second.uid) >= RANGE_IDS
    assert min(first.uid, second.uid) >= 65536
    one.close()
    again = choose(None, claims=tmp_path, seed=7).take()
    assert again == first


def test_the_users_subordinate_ids_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that /etc/subuid and /etc/subgid give the daemon's user are used; damaged lines are passed over."""
    (tmp_path / "subuid").write_text(f"someone:1:1\n{os.geteuid()}:junk:5\n{os.geteuid()}:300000:65536\n")
    (tmp_path / "subgid").write_text(f"{os.geteuid()}:500000:65536\n")
    found = identities._subordinate
    monkeypatch.setattr(identities, "_subordinate", lambda file: found(tmp_path / file.name))
    identity = choose(None, claims=tmp_path, seed=0).take()
    assert identity is not None
    assert (identity.uid, identity.gid) == (300_000, 500_000)


def test_a_configured_range_is_used_as_it_is(tmp_path: Path) -> None:
    """The configuration's range goes before all others, and nothing is claimed for it."""
    identity = choose((123_456, 1000), claims=tmp_path, seed=0).take()
    assert identity is not None
    assert (identity.uid, identity.gid) == (123_456, 123_456)
    assert not list(tmp_path.iterdir())


def test_a_range_that_is_not_mapped_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a user namespace of 65,536 ids a configured range beyond them is an error; without one all jails share."""
    monkeypatch.setattr(identities, "_is_mapped", lambda ids, name: ids.stop <= 65536)
    with pytest.raises(IdentityError, match="not mapped in this user namespace"):
        choose((100_000, 1000), claims=tmp_path, seed=0)
    assert choose(None, claims=tmp_path, seed=0).shared
