"""What was read a moment ago is kept up to a bound, and only while it is what the disk has."""

from promptlogd.store.recent import Recent


def test_an_entry_lasts_while_its_stamp_does() -> None:
    """With another stamp it is dropped, and does not come back with the old one."""
    recent: Recent[str] = Recent(1000)
    recent.put("a", 1, 10, "A")
    assert recent.get("a", 1) == "A"
    assert recent.get("a", 2) is None
    assert recent.get("a", 1) is None


def test_what_was_used_longest_ago_goes_first() -> None:
    """The bound holds whatever is put, and what is too large for it is not kept."""
    recent: Recent[int] = Recent(1000)
    for number in range(100):
        recent.put(str(number), 0, 100, number)
        recent.get("0", 0)
    kept = [number for number in range(100) if recent.get(str(number), 0) is not None]
    assert kept == [0, *range(91, 100)]
    recent.put("large", 0, 126, 1)
    assert recent.get("large", 0) is None
    recent.put("0", 0, 126, 1)
    assert recent.get("0", 0) is None
