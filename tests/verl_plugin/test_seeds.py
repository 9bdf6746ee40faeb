"""The seed of a reply (jigsaw/verl_plugin/seeds.py)."""

from hypothesis import given
from hypothesis import strategies as st

from jigsaw.verl_plugin.seeds import reply_seed

ARGUMENTS = st.tuples(
    st.integers(0, 2**32),
    st.sampled_from(["train", "val"]),
    st.text(max_size=8),
    st.integers(0, 10**6),
    st.integers(0, 64),
)


@given(ARGUMENTS, ARGUMENTS)
def test_it_is_one_for_each_reply(one: tuple, other: tuple) -> None:
    assert (reply_seed(*one) == reply_seed(*other)) == (one == other)
    assert 0 <= reply_seed(*one) < 2**63  # what vLLM takes


def test_it_is_the_same_on_every_machine() -> None:
    assert reply_seed(0, "train", "é", 1, 2) == 3947444128275078442
