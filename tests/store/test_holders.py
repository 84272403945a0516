"""Who holds a program, who sees it, and who may change what. Two users of one text can't hurt each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from promptlogd.store import (
    Ambiguous,
    Holder,
    HolderQuota,
    Labeller,
    NameTaken,
    NotFound,
    NotYours,
    OverQuota,
    Store,
    Submission,
    TooManyHolders,
    TooManyNames,
    Viewer,
    Visibility,
)
from promptlogd.store.holders import with_holder
from sandbox.program import Engine
from tests.store import version_2
from tests.store.programs import ARTIFACT, BUILD, text
from tests.store.reopened import reopened

ALICE, BOB, CAROL = Viewer(uid=7, gids=frozenset({70})), Viewer(uid=8, gids=frozenset({80, 70})), Viewer(uid=9)
_GIDS = {1: 90, 7: 70, 8: 80, 9: 90}
_SECRET = b"return 'secret'"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store."""
    with reopened(tmp_path / "state") as store:
        yield store


def _submit(
    store: Store,
    viewer: Viewer,
    source: bytes = _SECRET,
    *,
    visibility: Visibility | None = "own",
    name: str | None = None,
    moves: bool = True,
    replace: bool = False,
    engine: Engine = "quickjs",
    quotas: tuple[HolderQuota, ...] = (),
) -> tuple[str, bool]:
    """Submit as a user, as the handler does. Return the hash, and whether the program is new to the user."""
    staged = store.stage(
        text(source, engine=engine),
        uid=viewer.uid,
        tenant=viewer.tenant,
        gid=_GIDS[viewer.uid],
        visibility=visibility or "all",
        quotas=quotas,
    )
    try:
        kept = store.keep(
            Submission(
                staged=staged,
                artifact=ARTIFACT,
                build=BUILD,
                name=name,
                moves=moves,
                replace=replace,
                visibility=visibility,
                viewer=viewer,
                quotas=quotas,
            )
        )
    except BaseException:
        store.discard(staged)
        raise
    return kept[:2]


def _label(store: Store, viewer: Viewer, name: str, hash: str | None, visibility: Visibility | None = None) -> None:
    new = Holder(uid=viewer.uid, tenant=viewer.tenant, gid=_GIDS[viewer.uid], visibility=visibility or "all")
    store.label(name, hash, Labeller(viewer=viewer, new_owner=new, visibility=visibility))


def _sees(store: Store, viewer: Viewer, hash: str) -> bool:
    """Whether a user sees a program: all ways to ask for it must agree, from memory and from disk."""
    answers = set()
    asks: list[Callable[[], object]] = [
        lambda: store.load(hash, viewer),
        lambda: store.show(hash, viewer),
        lambda: store.resolve(hash[:12], viewer),
    ]
    for ask in asks:
        try:
            ask()
            answers.add(True)
        except NotFound:
            answers.add(False)
    answers.add(hash in {row.fact.hash for row in store.list(100, None, viewer).rows})
    store.load(hash)  # now it is in memory
    answers.add(store.recall(hash, lambda: viewer) is not None)
    assert len(answers) == 1, "one way to ask says more than another"
    return answers.pop()


def test_what_one_does_not_see_does_not_exist(store: Store) -> None:
    """`own` is for the owner, `group` for the group of its process, `all` for everyone; managers see everything."""
    for visibility, seers in (("own", {7}), ("group", {7, 8}), ("all", {7, 8, 9})):
        hash, _ = _submit(store, ALICE, visibility.encode(), visibility=visibility)  # type: ignore[arg-type]
        assert {viewer.uid for viewer in (ALICE, BOB, CAROL) if _sees(store, viewer, hash)} == seers
        assert _sees(store, Viewer(uid=1, manages=True), hash)
    hidden = text(b"own").hash
    messages = set()
    for hash in (hidden, "0" * 64):
        with pytest.raises(NotFound) as raised:
            store.load(hash, BOB)
        messages.add(str(raised.value).replace(hash, "HASH"))
    assert len(messages) == 1, "a hidden program is told from one that does not exist"


def test_two_submit_the_same_text(store: Store) -> None:
    """The second is told what the first one was; each may end its own holding, and the last one removes the program."""
    hash, created = _submit(store, ALICE, name="a")
    assert created
    assert not _sees(store, BOB, hash)
    assert _submit(store, BOB, name="b") == (hash, True)
    assert _submit(store, BOB) == (hash, False)
    shown = store.show(hash, BOB)
    assert (shown.names, shown.fact.created_by, [one.uid for one in shown.holders]) == (["b"], 8, [8])
    assert store.show(hash, ALICE).fact.created_by == 7
    assert store.remove(hash, ALICE) == ["a"]
    assert not _sees(store, ALICE, hash)
    assert _sees(store, BOB, hash)
    assert store.resolve("@b", BOB) == hash
    with pytest.raises(NotFound):
        store.remove(hash, ALICE)
    assert store.remove(hash, BOB) == ["b"]
    with pytest.raises(NotFound):
        store.load(hash)


def test_runs_of_hidden_holders_are_hidden(store: Store) -> None:
    """Each holder sees its own runs, and those by others to whom it shows the program. Managers see all."""
    manager = Viewer(uid=1, manages=True)
    hash, _ = _submit(store, ALICE)

    def runs(viewer: Viewer) -> int:
        shown, listed = store.show(hash, viewer).fact, store.list(10, None, viewer).rows[0].fact
        assert (shown.runs, shown.last_run_at) == (listed.runs, listed.last_run_at)
        assert (shown.runs == 0) == (shown.last_run_at is None)
        return shown.runs

    for _ in range(3):
        store.record_run(hash, ALICE)
    store.record_run(hash, manager)  # it sees the program as a holder does, so the run counts for the holder
    _submit(store, BOB)
    for flushed in (False, True):
        assert [runs(viewer) for viewer in (ALICE, BOB, manager)] == [4, 0, 4]
        if not flushed:
            store.flush()
    store.record_run(hash, BOB)
    assert [runs(viewer) for viewer in (ALICE, BOB, manager)] == [4, 1, 5]
    _submit(store, ALICE, visibility="all")
    store.record_run(hash, CAROL)
    for flushed in (False, True):
        assert [runs(viewer) for viewer in (ALICE, BOB, CAROL, manager)] == [5, 6, 5, 6]
        if not flushed:
            store.flush()
    _submit(store, ALICE, visibility="group")
    assert [runs(viewer) for viewer in (ALICE, BOB)] == [5, 6]  # the group sees it
    store.remove(hash, ALICE)
    assert [runs(viewer) for viewer in (BOB, manager)] == [1, 6]
    _submit(store, ALICE)
    assert [runs(viewer) for viewer in (ALICE, BOB)] == [0, 1]


def test_runs_of_tenants(store: Store) -> None:
    """A tenant sees its own runs of a program that another tenant holds as well; the front sees both."""
    one, other = (Viewer(uid=9, tenant=tenant, owns_user=False) for tenant in ("one", "other"))
    hash, _ = _submit(store, one)
    store.record_run(hash, one)
    _submit(store, other)
    store.record_run(hash, other)
    store.record_run(hash, CAROL)  # the front itself holds nothing: it counts for the oldest of its tenants
    store.flush()
    assert [store.show(hash, viewer).fact.runs for viewer in (one, other, CAROL)] == [2, 1, 3]


def test_the_list_does_not_tell_of_hidden_submits(store: Store) -> None:
    """The position, time and cursor of a program in `list` come from the first submit that the viewer sees."""
    hidden, _ = _submit(store, ALICE, b"hidden")
    order = [_submit(store, BOB, source)[0] for source in (b"older", b"hidden", b"newer")]
    at = {hash: store.show(hash, BOB).holders[0].at for hash in order}
    after, listed = None, []
    while True:
        page = store.list(1, after, BOB)
        listed += [(row.fact.hash, row.fact.created_at, page.next) for row in page.rows]
        after = page.next
        if after is None:
            break
    assert [hash for hash, _, _ in listed] == order[::-1]
    for hash, created_at, cursor in listed:
        assert created_at == at[hash]
        assert cursor in (None, f"{at[hash].hex()}:{hash}")
    assert [row.fact.hash for row in store.list(10, None, ALICE).rows] == [hidden]
    assert [row.fact.hash for row in store.list(10, None).rows] == [order[2], order[0], hidden]


def test_who_sees_a_program_but_does_not_hold_it(store: Store) -> None:
    """It may neither remove the program nor read its source; a manager may do both, for everybody."""
    hash, _ = _submit(store, ALICE, visibility="all", name="a")
    assert _sees(store, BOB, hash)
    assert not store.holds(hash, BOB)
    with pytest.raises(NotYours):
        store.remove(hash, BOB)
    _submit(store, BOB)
    manager = Viewer(uid=1, manages=True)
    assert store.holds(hash, manager)
    assert store.remove(hash, manager) == ["a"]
    for viewer in (ALICE, BOB, manager):
        with pytest.raises(NotFound):
            store.load(hash, viewer)


def test_the_engine_is_changed_by_the_only_holder(store: Store) -> None:
    """With another holder this requires `manage`: otherwise one user could break the program of another."""
    hash, _ = _submit(store, ALICE)
    _submit(store, ALICE, engine="deno", replace=True)
    assert store.load(hash, ALICE).engine == "deno"
    with pytest.raises(NotYours):
        _submit(store, BOB, engine="quickjs", replace=True)
    assert not _sees(store, BOB, hash)
    assert store.load(hash, ALICE).engine == "deno"
    _submit(store, Viewer(uid=9, manages=True), engine="quickjs", replace=True)
    assert store.load(hash, ALICE).engine == "quickjs"


def test_a_program_with_names_of_others_is_not_removed(store: Store) -> None:
    """Its only holder could otherwise take the freed names, and others would run its next program by them."""
    hash, _ = _submit(store, ALICE, visibility="all")
    other, _ = _submit(store, BOB, b"return 'other'", visibility="all")
    _label(store, BOB, "bobs", hash)
    with pytest.raises(NotYours, match="others have names on program"):
        store.remove(hash, ALICE)
    assert store.resolve("@bobs") == hash
    _label(store, BOB, "bobs", other)
    assert store.remove(hash, ALICE) == []


def test_a_damaged_program_is_replaced_by_its_only_holder(store: Store) -> None:
    """With another holder, a submit of the text may repair a damaged program but not change its engine."""
    hash, _ = _submit(store, ALICE)
    _submit(store, BOB)
    (store.folder / "programs" / hash[:2] / hash[2:] / "source").write_bytes(b"damaged")
    with pytest.raises(NotYours):
        _submit(store, BOB, engine="deno", replace=True)
    _submit(store, BOB)
    assert store.load(hash, ALICE).engine == "quickjs"


def test_a_program_that_another_has_just_submitted_is_in_use(store: Store) -> None:
    """A program is unused only if none of its holders has submitted it since then."""
    hash, _ = _submit(store, ALICE)
    before = time.time()
    assert [fact.hash for fact in store.unused(before, 10, None)] == [hash]
    time.sleep(0.01)
    _submit(store, BOB)
    assert store.unused(before, 10, None) == []


def test_a_visibility_is_changed_by_another_submit(store: Store) -> None:
    """Without one the visibility stays. A change is in force at once, also for a program in memory."""
    hash, _ = _submit(store, ALICE, visibility="all")
    assert store.load(hash, CAROL)
    assert store.recall(hash, lambda: CAROL) is not None
    _submit(store, ALICE, visibility="own")
    assert store.recall(hash, lambda: CAROL) is None
    assert not _sees(store, CAROL, hash)
    _submit(store, ALICE, visibility=None)
    assert not _sees(store, CAROL, hash)
    _submit(store, ALICE, visibility="group")
    assert _sees(store, BOB, hash)


def test_holders_outlive_a_start_and_the_loss_of_sqlite(tmp_path: Path) -> None:
    """Who sees what is in the metadata as well, so that nothing is shown to more users after damage."""
    with reopened(tmp_path / "state") as store:
        hash, _ = _submit(store, ALICE)
        _submit(store, BOB, visibility="group", name="b")
        _label(store, BOB, "hidden", hash, "own")
        public, _ = _submit(store, ALICE, b"public", visibility="own")
        _submit(store, ALICE, b"public", visibility="all")
    for lose in (False, True):
        if lose:
            (tmp_path / "state/facts.sqlite3").unlink()
        with reopened(tmp_path / "state") as store:
            assert [_sees(store, viewer, hash) for viewer in (ALICE, BOB, CAROL)] == [True, True, False]
            assert [_sees(store, viewer, public) for viewer in (ALICE, BOB, CAROL)] == [True] * 3
            assert (store.show(hash, BOB).names, store.show(hash, ALICE).names) == (["b", "hidden"], [])
            with pytest.raises(NotYours):
                _label(store, ALICE, "hidden", public)


def test_lost_metadata_shows_nothing(tmp_path: Path) -> None:
    """If SQLite and the metadata are both lost, only a manager sees the program."""
    with reopened(tmp_path / "state") as store:
        hash, _ = _submit(store, ALICE, visibility="all")
    (tmp_path / "state/facts.sqlite3").unlink()
    (tmp_path / "state/programs" / hash[:2] / hash[2:] / "meta.json").write_bytes(b"junk")
    with reopened(tmp_path / "state") as store:
        assert not _sees(store, ALICE, hash)
        assert store.load(hash).source == _SECRET


def test_names_have_owners(store: Store) -> None:
    """Only its owner and managers move a name, and back; a manager's move does not change the owner."""
    one, _ = _submit(store, ALICE, b"one", visibility="all", name="x")
    two, _ = _submit(store, BOB, b"two", visibility="all")
    for attempt in (
        lambda: _label(store, BOB, "x", two),
        lambda: _label(store, BOB, "x", None),
        lambda: _submit(store, BOB, b"two", visibility="all", name="x"),
    ):
        with pytest.raises(NotYours):
            attempt()
    with pytest.raises(NameTaken):
        _submit(store, BOB, b"two", visibility="all", name="x", moves=False)
    store.label("x", two)
    with pytest.raises(NotYours):
        _label(store, BOB, "x", one)
    _label(store, ALICE, "x", None)
    assert store.resolve("@x", BOB) == one
    _label(store, BOB, "y", one)  # one may name what one sees
    assert store.show(one, CAROL).names == ["x", "y"]


def test_a_name_is_shown_to_the_group_of_its_owner(store: Store) -> None:
    """If a manager shows a name to `group`, the group is the owner's, in whatever order the visibility changes."""
    public, _ = _submit(store, ALICE, b"public", visibility="all", name="x")
    manager, of_managers_group = Viewer(uid=1, manages=True), Viewer(uid=9, gids=frozenset({90}))
    for change in (
        lambda: _label(store, manager, "x", public, "group"),
        lambda: _submit(store, manager, b"public", visibility="group", name="x"),
    ):
        _label(store, manager, "x", public, "own")
        change()
        assert store.resolve("@x", BOB) == public  # it is in the group 70, as the owner is
        with pytest.raises(NotFound):
            store.resolve("@x", of_managers_group)
    _label(store, manager, "x", public, "own")
    _label(store, ALICE, "x", public, "group")
    assert store.resolve("@x", BOB) == public


def test_hidden_names(store: Store) -> None:
    """A name that one does not see, or whose program one does not see, does not exist; it is taken all the same."""
    secret, _ = _submit(store, ALICE)
    public, _ = _submit(store, ALICE, b"public", visibility="all", name="shown")
    _label(store, ALICE, "hidden", public, "own")
    _label(store, ALICE, "secret", secret, "all")
    for name in ("hidden", "secret"):
        assert store.resolve(f"@{name}", ALICE)
        for _ in range(2):
            with pytest.raises(NotFound):
                store.resolve(f"@{name}", BOB)
        for moves in (True, False):
            with pytest.raises(NotYours):
                _submit(store, BOB, b"bob's", name=name, moves=moves)
    assert store.show(public, BOB).names == ["shown"]
    _label(store, ALICE, "shown", secret)
    _label(store, ALICE, "shown", public)
    history = store.show(public, BOB).history["shown"]
    assert [move.hash for move in history] == [public, public]
    _label(store, ALICE, "hidden", public, "all")
    assert store.resolve("@hidden", BOB) == public


def test_a_prefix_matches_what_one_sees(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hidden program makes no prefix ambiguous."""
    monkeypatch.setattr("promptlogd.store.references.MIN_PREFIX_DIGITS", 1)
    number = 0
    hashes: list[str] = []
    while len(hashes) < 2 or hashes[0][0] != hashes[1][0]:
        hash, _ = _submit(store, ALICE if not hashes else BOB, b"return %d" % number)
        hashes = [hash] if not hashes else [hashes[0], hash]
        number += 1
    prefix = hashes[0][0]
    assert store.resolve(prefix, ALICE) == hashes[0]
    with pytest.raises(Ambiguous):
        store.resolve(prefix)


def test_tenants_of_a_front(store: Store) -> None:
    """A tenant owns what is its own. The front's user, and a tenant that may manage, own what all of them own."""
    one, other = (Viewer(uid=9, tenant=tenant, owns_user=False) for tenant in ("one", "other"))
    hash, _ = _submit(store, one, name="x")
    assert _sees(store, one, hash)
    assert not _sees(store, other, hash)
    assert _submit(store, other) == (hash, True)
    assert store.remove(hash, other) == []
    with pytest.raises(NotYours):
        _label(store, other, "x", None)
    for whole in (CAROL, Viewer(uid=9, tenant="other", owns_user=True)):
        assert _sees(store, whole, hash)
    assert not _sees(store, Viewer(uid=8, tenant="one", owns_user=False), hash)
    assert store.remove(hash, CAROL) == ["x"]


def test_quotas_of_programs_and_bytes(store: Store) -> None:
    """Each holder is charged for the whole program, once, and a quota does not depend on other holders."""
    quota = HolderQuota(uid=8, programs=2)
    _submit(store, ALICE, b"a")
    for source in (b"a", b"b", b"a"):
        _submit(store, BOB, source, quotas=(quota,))
    with pytest.raises(OverQuota) as raised:
        _submit(store, BOB, b"c", quotas=(quota,))
    assert (raised.value.setting, raised.value.used, raised.value.most) == ("programs", 2, 2)
    assert "uid 8 has used up its quota of 2 programs" in str(raised.value)
    hash = text(b"a").hash
    store.remove(hash, BOB)
    _submit(store, BOB, b"c", quotas=(quota,))
    assert _sees(store, ALICE, hash)
    of_bytes = HolderQuota(uid=7, bytes=46_000)
    _submit(store, ALICE, b"d", quotas=(of_bytes,))
    _submit(store, ALICE, b"/" * 9000, quotas=(of_bytes,))  # 5 blocks, and 3 of each other
    with pytest.raises(OverQuota) as raised:
        _submit(store, ALICE, b"e", quotas=(of_bytes,))
    assert raised.value.setting == "stored_mb"
    assert text(b"e").hash not in {row.fact.hash for row in store.list(100, None).rows}


def test_a_quota_of_tenants_and_of_their_front(store: Store) -> None:
    """A tenant's programs count for the tenant, and for the front's user."""
    one, other = (Viewer(uid=9, tenant=tenant, owns_user=False) for tenant in ("one", "other"))
    both = {
        viewer.tenant: (HolderQuota(uid=9, programs=3), HolderQuota(uid=9, tenant=viewer.tenant, programs=2))
        for viewer in (one, other)
    }
    for source in (b"a", b"b"):
        _submit(store, one, source, quotas=both["one"])
    with pytest.raises(OverQuota, match="the tenant 'one' has used up"):
        _submit(store, one, b"c", quotas=both["one"])
    _submit(store, other, b"c", quotas=both["other"])
    with pytest.raises(OverQuota, match="uid 9 has used up"):
        _submit(store, other, b"d", quotas=both["other"])


def test_a_quota_of_names(store: Store) -> None:
    """New names of a user and of a tenant beyond the quota are refused; moves are not; a removal frees names."""
    front = HolderQuota(uid=9, names=3)
    tenants = [Viewer(uid=9, tenant=tenant, owns_user=False) for tenant in ("one", "other")]
    one, other = tenants
    of = {one: (front, HolderQuota(uid=9, tenant="one", names=2)), other: (front,)}
    hash, _ = _submit(store, one, b"a", name="a", visibility="all", quotas=of[one])

    def label(viewer: Viewer, name: str, hash: str | None) -> None:
        new = Holder(uid=9, tenant=viewer.tenant)
        store.label(name, hash, Labeller(viewer=viewer, new_owner=new, quotas=of[viewer]))

    label(one, "b", hash)
    with pytest.raises(OverQuota) as raised:
        label(one, "c", hash)
    assert (raised.value.setting, raised.value.used, raised.value.most) == ("names", 2, 2)
    assert str(raised.value).startswith("the tenant 'one' has used up its quota of 2 names; move one")
    with pytest.raises(OverQuota):
        _submit(store, one, b"new", name="c", quotas=of[one])
    with pytest.raises(NotFound):
        store.load(text(b"new").hash)
    second, _ = _submit(store, one, b"b", name="b", quotas=of[one])
    label(one, "b", None)
    label(other, "d", hash)
    with pytest.raises(OverQuota, match="uid 9 has used up its quota of 3 names"):
        label(other, "e", hash)
    label(one, "b", second)
    store.remove(second, one)
    label(other, "e", hash)
    with pytest.raises(OverQuota):
        label(one, "b", hash)  # it was removed, so it is new
    _label(store, ALICE, "of-alice", hash)


def test_others_leave_names_to_the_holders(store: Store) -> None:
    """Users who are not holders of a program can give it 32 names in total; its holders can give it 64."""
    hash, _ = _submit(store, ALICE, visibility="all")
    for number in range(16):
        for viewer in (BOB, CAROL):
            _label(store, viewer, f"{viewer.uid}-{number}", hash)
    for viewer in (BOB, CAROL):
        with pytest.raises(TooManyNames, match="32 names of users who have not submitted it"):
            _label(store, viewer, "more", hash)
    for number in range(31):
        _label(store, ALICE, f"7-{number}", hash)
    _submit(store, BOB)
    _label(store, BOB, "of-a-holder", hash)
    with pytest.raises(TooManyNames, match="has 64 names"):
        _label(store, ALICE, "more", hash)


def test_a_quota_holds_when_programs_are_stored_at_once(store: Store) -> None:
    """It is checked again when a program is published, so that submits in progress do not exceed it together."""
    quotas = (HolderQuota(uid=8, programs=1),)
    staged = [store.stage(text(source), uid=8, quotas=quotas) for source in (b"a", b"b")]
    first, second = (
        Submission(staged=one, artifact=ARTIFACT, build=BUILD, viewer=BOB, quotas=quotas) for one in staged
    )
    store.keep(first)
    with pytest.raises(OverQuota):
        store.keep(second)


def test_the_tenants_of_a_front_do_not_keep_others_out() -> None:
    """The tenants of one user that hold one program have a bound, below that of all holders."""
    holders: list[Holder] = []
    for number in range(100):
        holders = with_holder(holders, Holder(uid=9, tenant=str(number)))
    with pytest.raises(TooManyHolders):
        with_holder(holders, Holder(uid=9, tenant="more"))
    assert len(with_holder(holders, Holder(uid=8))) == 101
    assert len(with_holder(holders, Holder(uid=9, tenant="5", visibility="own"))) == 100


@pytest.mark.parametrize("lost", [None, "facts.sqlite3"])
def test_a_folder_of_version_2(tmp_path: Path, lost: str | None) -> None:
    """The user who submitted a program is its holder and owns its names, and everyone sees both."""
    state = version_2.extract(tmp_path)
    if lost is not None:
        (state / lost).unlink()
    for _ in range(2):
        with reopened(state) as store:
            version_2.check(store, facts=lost is None)
    with reopened(state) as store:
        hash = store.resolve("@first", CAROL)
        assert _sees(store, CAROL, hash)
        with pytest.raises(NotYours):
            _label(store, CAROL, "first", None)
        _label(store, BOB, "first", None)
        assert store.resolve("@first", CAROL) != hash
    assert (state / "format").read_bytes().startswith(b'{"version":3}')
