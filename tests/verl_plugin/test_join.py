"""Which of a job's nodes have not joined Ray."""

from jigsaw.verl_plugin.join import missing


def test_a_node_that_is_not_there_or_died_is_missing() -> None:
    nodes = [{"NodeName": "a", "Alive": True}, {"NodeName": "b", "Alive": False}, {"NodeName": "d", "Alive": True}]
    assert missing(["a", "b", "c"], nodes) == ["b", "c"]


def test_a_node_that_came_back_is_not() -> None:
    assert missing(["a"], [{"NodeName": "a", "Alive": False}, {"NodeName": "a", "Alive": True}]) == []
