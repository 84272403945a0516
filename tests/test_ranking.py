"""Rankings: sorted collections whose numbers change."""

from __future__ import annotations

import random

from promptlogd.ranking import Ranking


def test_the_order_is_right_after_any_changes() -> None:
    """After any additions, moves and removals, the first and the last item are those of a sorted list."""
    chance = random.Random(7)
    ranking, numbers = Ranking[str](), dict[int, float]()
    for _ in range(5000):
        order, after = chance.randrange(8), float(chance.randrange(4))
        before = numbers.get(order, 0.0)
        if before and after and chance.random() < 0.5:
            ranking.move(before, after, order, f"{order}")
        else:
            if before:
                ranking.remove(before, order)
            if after:
                ranking.add(after, order, f"{order}")
        if after:
            numbers[order] = after
        else:
            numbers.pop(order, None)
        expected = sorted((number, order) for order, number in numbers.items())
        assert len(ranking) == len(expected)
        if expected:
            assert ranking.least == (*expected[0], f"{expected[0][1]}")
            assert ranking.most == f"{expected[-1][1]}"
