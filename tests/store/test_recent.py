"""The cache of recent reads is limited in size, and drops an entry whose file has changed."""

from promptlogd.store.recent import Recent


def test_an_entry_is_dropped_with_its_stamp() -> None:
    """An entry is dropped if its stamp differs, and does not come back with the old stamp."""
    recent: Recent[str, str] = Recent(1000)
    recent.put("a", 1, 10, "A")
    assert recent.get("a", 1) == "A"
    assert recent.get("a", 2) is None
    assert recent.get("a", 1) is None


def test_the_least_recently_used_entry_is_dropped() -> None:
    """The cache never exceeds its maximum size, and does not keep an entry that is too large."""
    recent: Recent[str, int] = Recent(1000)
    for number in range(100):
        recent.put(str(number), 0, 100, number)
        recent.get("0", 0)
    kept = [number for number in range(100) if recent.get(str(number), 0) is not None]
    assert kept == [0, *range(91, 100)]
    recent.put("large", 0, 126, 1)
    assert recent.get("large", 0) is None
    recent.put("0", 0, 126, 1)
    assert recent.get("0", 0) is None
