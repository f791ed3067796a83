"""The compact tables of the journal: they hold what a dict and a set hold, in few bytes."""

from __future__ import annotations

import tracemalloc

import hypothesis.strategies as st
from hypothesis import given, settings

from gfprestore.batch import hash_index
from gfprestore.batch.hash_index import HashIndex, HashSet


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 2**64 - 1))), st.lists(st.text(max_size=3)))
def test_they_hold_what_a_dict_and_a_set_hold(entries: list[tuple[str, int]], others: list[str]) -> None:
    index, members, expected = HashIndex(), HashSet(), dict[str, int]()
    for text, number in entries:
        index.set(text, number)
        members.add(text)
        expected[text] = number
    assert len(index) == len(members) == len(expected)
    for text in [*expected, *others]:
        assert index.get(text) == expected.get(text)
        assert (text in index) == (text in members) == (text in expected)


def test_entries_survive_that_the_tables_grow_and_cost_few_bytes() -> None:
    count = 20_000
    tracemalloc.start()
    index, members = HashIndex(), HashSet()
    for number in range(count):
        index.set(f"albums/{number:06d}/a long name of a photo.jpg", number)
        members.add(f"albums/{number:06d}/a long name of a photo.jpg")
    held, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / count <= 48 + 24
    assert all(index.get(f"albums/{number:06d}/a long name of a photo.jpg") == number for number in range(count))
    assert index.get("albums/000000/another.jpg") is None
    assert "albums/000000/another.jpg" not in members


def test_texts_whose_hashes_begin_alike_stay_apart(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(hash_index, "_key", lambda text: (len(text) << 40) + 1)  # all belong to the same slot
    index = HashIndex()
    for length in range(50):
        index.set("x" * length, length)
    assert [index.get("x" * length) for length in range(51)] == [*range(50), None]
