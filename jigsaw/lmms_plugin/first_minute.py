"""What an evaluation will take, by what its first minute did."""


class FirstMinute:
    """Tells once, a minute after the first reply, what is still to come.

    Args:
        questions: to ask, of this process.
    """

    def __init__(self, questions: int) -> None:
        self._questions = questions
        self._done: int | None = -1
        self._begin: float | None = None

    def tell(self, now: float) -> str | None:
        """What there is to tell at a reply; ``now`` in seconds."""
        if self._done is None:
            return None
        self._done += 1
        if self._begin is None:  # what was loaded for the first one does not count
            self._begin = now
        if now - self._begin < 60:
            return None
        rate = self._done / (now - self._begin)
        left = self._questions - self._done - 1
        self._done = None
        if left <= 0:
            return None
        told = f"{left / rate / 3600:.1f} h for the {left:,} of this round that are left"
        return f"by the first minute, {rate:.2g} questions a second: {told}"
