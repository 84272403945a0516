"""The host uids of jails: no two jails share one if the daemon may set uids."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.claim import claim_new
from sandbox.jail.identities import (
    RANGE_CLAIM,
    RANGE_IDS,
    Identities,
    IdentityError,
    choose,
    may_set_ids,
    shared,
)
from sandbox.user_namespace import NOBODY
from tests.daemon.processes import many_descriptors


def test_each_jail_has_its_own_identity() -> None:
    """Each id of a range is handed out once; returned ids are reused in the order in which they came back."""
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
    """Without the right to set uids, each jail has the daemon's uid, or nobody's for root, with the reason."""
    chosen = shared("of a reason")
    uid = os.geteuid() or NOBODY
    assert {(identity.uid) for identity in (chosen.take(), chosen.take()) if identity} == {uid}
    assert chosen.describe() == f"shared: all jails have uid {uid}, because of a reason"


def _choose(tmp_path: Path, configured: tuple[int, int] | None = None, *, seed: int = 7) -> Identities:
    """Choose identities as a daemon of root does, without /etc/subuid or with the one in this folder."""
    assert may_set_ids(), "these tests choose uids as a daemon of root's does: run them as root"
    return choose(configured, needed=100, seed=seed, claims=tmp_path, etc=tmp_path)


def test_two_daemons_have_different_ranges(tmp_path: Path) -> None:
    """Daemons that first try the same range get ranges that do not overlap; `close` frees a range."""
    one, two = _choose(tmp_path), _choose(tmp_path)
    first, second = one.take(), two.take()
    assert first is not None
    assert second is not None
    assert abs(first.uid - second.uid) >= RANGE_IDS
    assert min(first.uid, second.uid) >= 65536
    one.close()
    assert _choose(tmp_path).take() == first


def test_a_range_whose_name_another_user_took_is_skipped(tmp_path: Path) -> None:
    """If another user has taken the name of a claim in a shared folder, the daemon takes the next range."""
    first = _choose(tmp_path)
    (folder,) = tmp_path.iterdir()
    first.close()
    folder.mkdir()
    os.chown(folder, 4711, 4711)
    chosen = _choose(tmp_path)
    assert not chosen.shared
    assert chosen.take() != first.take()


def test_all_ranges_in_use_is_reported(tmp_path: Path) -> None:
    """If no range is free, all jails share a uid, and the reason says who has the ranges and what to do."""
    one = _choose(tmp_path, seed=0)
    first = one.take()
    assert first is not None
    with many_descriptors(2000):
        claims = [claim_new(tmp_path / f"{RANGE_CLAIM}{first.uid + n * RANGE_IDS}", 0o700) for n in range(1, 1024)]
        chosen = _choose(tmp_path, seed=0)
        assert chosen.shared
        assert f"other daemons have all ranges of uids (claims are in {tmp_path})" in chosen.describe()
        for claim in claims:
            claim.release()
    one.close()
    assert _choose(tmp_path, seed=0).take() == first


def test_subordinate_ids_have_priority(tmp_path: Path) -> None:
    """The daemon uses the ids that /etc/subuid and /etc/subgid assign to its user, starting with the last ones."""
    (tmp_path / "subuid").write_text(f"someone:1:1\n{os.geteuid()}:junk:5\n{os.geteuid()}:300000:65536\n")
    (tmp_path / "subgid").write_text(f"{os.geteuid()}:500000:65536\n")
    chosen = [_choose(tmp_path, seed=0) for _ in range(65536 // RANGE_IDS)]
    found = [identity for identity in (one.take() for one in chosen) if identity is not None]
    assert found[0].uid == 300_000 + 65536 - RANGE_IDS
    assert {identity.uid for identity in found} == set(range(300_000, 300_000 + 65536, RANGE_IDS))
    assert all(identity.gid == identity.uid + 200_000 for identity in found)
    one_more = _choose(tmp_path, seed=0)
    more = one_more.take()
    assert more is not None
    assert more.uid > 400_000
    for one in (*chosen, one_more):
        one.close()


@pytest.mark.parametrize("name", ["subuid", "subgid"])
def test_subordinate_uids_and_gids_are_both_needed(tmp_path: Path, name: str) -> None:
    """A user with subordinate uids and no gids, or too few of either, gets a range that nobody allocates."""
    for file in ("subuid", "subgid"):
        (tmp_path / file).write_text(f"{os.geteuid()}:300000:{RANGE_IDS - (file == name)}\n")
    chosen = _choose(tmp_path)
    identity = chosen.take()
    assert identity is not None
    assert identity.uid > 400_000
    chosen.close()


def test_a_configured_range_belongs_to_one_daemon(tmp_path: Path) -> None:
    """The configured range overrides all others; a second daemon with the same range does not start."""
    chosen = _choose(tmp_path, (123_456, 1000))
    identity = chosen.take()
    assert identity is not None
    assert (identity.uid, identity.gid) == (123_456, 123_456)
    with pytest.raises(IdentityError, match="another daemon has the ids from 123456 on"):
        _choose(tmp_path, (123_456, 1000))
    chosen.close()
    _choose(tmp_path, (123_456, 1000)).close()


def test_more_jails_than_ids_need_a_configured_range(tmp_path: Path) -> None:
    """With more jails than a range has ids, the daemon does not share ids but asks for a configured range."""
    with pytest.raises(IdentityError, match=f"more than {RANGE_IDS}; set pool.uids to that many ids"):
        choose(None, needed=RANGE_IDS + 1, seed=0, claims=tmp_path, etc=tmp_path)


_IN_A_NAMESPACE = """
import sys
from pathlib import Path
from sandbox.jail.identities import IdentityError, choose
claims = Path(sys.argv[1])
print(choose(None, needed=100, seed=0, claims=claims, etc=claims).describe())
try:
    choose((100000, 1000), needed=100, seed=0, claims=claims, etc=claims)
except IdentityError as error:
    print(error)
"""


def test_a_range_that_is_not_mapped_is_refused(tmp_path: Path) -> None:
    """In a user namespace with one uid, a configured range is an error; without one, all jails share that uid."""
    tmp_path.chmod(0o777)
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", _IN_A_NAMESPACE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=Path(__file__).parents[2])
    shared_line, error = done.stdout.splitlines()
    assert shared_line.startswith("shared: all jails have uid 0, because this user namespace maps no uids for jails"), (
        done
    )
    assert error == "pool.uids: ids 100000 to 100999 are not mapped in this user namespace"
