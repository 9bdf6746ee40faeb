"""Which responses are trained together: whole groups where they fit a budget of tokens, parts of them where not."""

from collections.abc import Callable, Hashable, Sequence
from itertools import chain


def plan_packs(
    prompts: Sequence[int], responses: Sequence[int], groups: Sequence[Hashable], budget: int, least: int = 1
) -> list[list[int]]:
    """Packs of rows, each a response with its prompt; a prompt counts once a pack.

    Whole groups go first-fit into packs, the largest first. A group over the budget is cut into as few parts as it
    takes, of about equal tokens.

    Args:
        prompts: tokens of each row's prompt.
        responses: tokens of each row's response.
        groups: what the rows of one prompt have in common.
        budget: tokens that a pack may have.
        least: packs that are wanted at least; fewer are made only where there are fewer rows.

    Returns:
        Row numbers of each pack, the rows of a group beside each other; every row once.

    Raises:
        ValueError: if a row alone is over the budget.
    """
    of_group: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        of_group.setdefault(group, []).append(row)
    parts = [part for rows in of_group.values() for part in _cut(rows, prompts, responses, budget)]
    packs: list[list[list[int]]] = []
    sizes: list[int] = []
    for size, part in sorted(((_size(part, prompts, responses), part) for part in parts), key=lambda x: -x[0]):
        place = next((i for i, held in enumerate(sizes) if held + size <= budget), None)
        if place is None:
            packs.append([part])
            sizes.append(size)
        else:
            packs[place].append(part)
            sizes[place] += size
    while len(packs) < min(least, len(prompts)):
        packs = _split_one(packs, prompts, responses)
    return [[row for part in pack for row in part] for pack in packs]


def share_rows(groups: Sequence[Hashable], ranks: int, work: Callable[[Sequence[int]], float]) -> list[list[int]]:
    """Rows for each rank: as many for all, of about equal work, and whole groups as far as they go in.

    The group of most work goes first, to the rank that has least. What then fits nowhere is cut.

    Args:
        groups: what the rows of one prompt have in common; their number divides by ``ranks``.
        ranks: how many.
        work: of rows of one group, in any unit.

    Returns:
        Row numbers of each rank, group by group in the order of their first rows.
    """
    of_group: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        of_group.setdefault(group, []).append(row)
    room = len(groups) // ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0.0] * ranks

    def give(rows: list[int], least: int) -> bool:
        """To the rank of least work with room for so many rows; what does not go in is given on."""
        fitting = [rank for rank in range(ranks) if room - len(shares[rank]) >= least]
        if not fitting:
            return False
        rank = min(fitting, key=loads.__getitem__)
        now, rest = rows[: room - len(shares[rank])], rows[room - len(shares[rank]) :]
        shares[rank] += now
        loads[rank] += work(now)
        return not rest or give(rest, 1)

    whole = sorted(of_group.values(), key=lambda rows: -work(rows))
    for rows in [rows for rows in whole if not give(rows, len(rows))]:
        give(rows, 1)
    order = {row: place for place, row in enumerate(chain.from_iterable(of_group.values()))}
    return [sorted(share, key=order.__getitem__) for share in shares]


def _size(rows: Sequence[int], prompts: Sequence[int], responses: Sequence[int]) -> int:
    return prompts[rows[0]] + sum(responses[row] for row in rows)


def _cut(rows: list[int], prompts: Sequence[int], responses: Sequence[int], budget: int) -> list[list[int]]:
    room = budget - prompts[rows[0]]
    longest = max(responses[row] for row in rows)
    if longest > room:
        raise ValueError(
            f"a prompt of {prompts[rows[0]]} tokens with a response of {longest} is over the budget of {budget} tokens"
        )
    total = sum(responses[row] for row in rows)
    for count in range(max(1, -(-total // max(room, 1))), len(rows) + 1):
        bins: list[list[int]] = [[] for _ in range(count)]
        held = [0] * count
        for row in sorted(rows, key=lambda row: -responses[row]):
            place = held.index(min(held))
            bins[place].append(row)
            held[place] += responses[row]
        if max(held) <= room:
            return [sorted(part) for part in bins if part]
    raise AssertionError("a row alone fits")


def _split_one(packs: list[list[list[int]]], prompts: Sequence[int], responses: Sequence[int]) -> list[list[list[int]]]:
    """The packs with the largest that can be split in two: between groups, else within its group."""
    sizes = [sum(_size(part, prompts, responses) for part in pack) for pack in packs]
    largest = max((i for i, pack in enumerate(packs) if sum(map(len, pack)) > 1), key=sizes.__getitem__)
    pack = packs[largest]
    if len(pack) == 1:
        pack = [pack[0][: len(pack[0]) // 2], pack[0][len(pack[0]) // 2 :]]
    half = len(pack) // 2
    return [*packs[:largest], pack[:half], pack[half:], *packs[largest + 1 :]]
