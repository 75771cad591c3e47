"""Views as factors: a reshape or permute is sizes that multiply to the operand's, in another order. No torch here."""

from collections.abc import Sequence

Shape = tuple[int, ...]
Factor = tuple[tuple[int, ...], int]  # where it stands in the operand, and its size


def refined(factors: Sequence[Factor], shape: Shape) -> list[list[Factor]] | None:
    """The factors by dimension of `shape`, split where a dimension takes the outer part of one; None: they do not fit.

    Factors of size 1 are left out.
    """
    waiting = [factor for factor in reversed(factors) if factor[1] != 1]
    groups = []
    for needed in shape:
        left, group = needed, []
        while left > 1:
            if not waiting:
                return None
            key, size = waiting.pop()
            if size == 0:
                return None
            if left % size == 0:
                group.append((key, size))
                left //= size
            elif size % left == 0:
                group.append(((*key, 0), left))
                waiting.append(((*key, 1), size // left))
                left = 1
            else:
                return None
        groups.append(group)
    return None if waiting else groups


def refined_both(
    factors: Sequence[Factor], before: Shape, after: Shape
) -> tuple[list[list[Factor]], list[list[Factor]]] | None:
    """Factors fine enough for both shapes: by dimension of the operand, and by dimension of the view."""
    ours = refined(sorted(factors), before)
    if ours is None:
        return None
    rank = {key: place for place, (key, _) in enumerate(factors)}
    split = [factor for group in ours for factor in group]
    theirs = refined(sorted(split, key=lambda factor: (_rank(rank, factor[0]), factor[0])), after)
    if theirs is None:
        return None
    ours = refined(sorted(factor for group in theirs for factor in group), before)
    return None if ours is None else (ours, theirs)


def _rank(rank: dict[tuple[int, ...], int], key: tuple[int, ...]) -> int:
    """The place of the factor that `key` is a part of."""
    while key not in rank:
        key = key[:-1]
    return rank[key]


def canonical(factors: Sequence[Factor]) -> tuple[Shape, Shape]:
    """Factors in the order of the result, as sizes in the operand's order and the order of those: neighbours that stay
    neighbours are one, and those of size 1 none."""
    kept = [factor for factor in factors if factor[1] != 1]
    ranks = {key: rank for rank, key in enumerate(sorted(key for key, _ in kept))}
    runs: list[list[int]] = []  # first rank, last rank, size
    for key, size in kept:
        rank = ranks[key]
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1:] = [rank, runs[-1][2] * size]
        else:
            runs.append([rank, rank, size])
    source = sorted(range(len(runs)), key=lambda place: runs[place][0])
    order = {run: place for place, run in enumerate(source)}
    return tuple(runs[run][2] for run in source), tuple(order[run] for run in range(len(runs)))
