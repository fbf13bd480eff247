"""What is kept, for how long, and under which ids."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textmask.errors import ConfigError
from textmask.serve.store import ID_PATTERN, Store, new_id


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_one_unused_for_longest_goes_first():
    store = Store(2, 100, 10)
    a, b = store.put("a", 1), store.put("b", 1)
    assert store.get(a) == "a"
    c = store.put("c", 1)
    assert [store.get(name) for name in (a, b, c)] == ["a", None, "c"]


def test_bytes_are_bounded_and_a_value_larger_than_all_is_refused():
    store = Store(10, 100, 10)
    names = [store.put(i, 40) for i in range(5)]
    assert [store.get(name) for name in names] == [None, None, None, 3, 4]
    assert store.size_bytes == 80
    with pytest.raises(ConfigError, match="do not fit"):
        store.put("huge", 101)
    assert len(store) == 2


def test_what_is_unused_expires_and_use_renews():
    clock = Clock()
    store = Store(10, 100, 10, clock)
    a, b = store.put("a", 1), store.put("b", 1)
    clock.now = 8
    assert store.get(a) == "a"
    clock.now = 11
    assert (store.get(a), store.get(b)) == ("a", None)
    clock.now = 30
    store.expire()
    assert (len(store), store.size_bytes) == (0, 0)


def test_ids_are_long_random_and_of_one_form():
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(ID_PATTERN, one) for one in ids)


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "get", "remove", "wait"]), st.integers(0, 40)),
        max_size=60,
    )
)
def test_no_order_of_calls_breaks_the_bounds(calls):
    clock = Clock()
    store, names = Store(4, 60, 15, clock), []
    for call, n in calls:
        if call == "put":
            names.append(store.put(n, n))
        elif call == "wait":
            clock.now += n / 4
        elif names:
            (store.get if call == "get" else store.remove)(names[n % len(names)])
        assert len(store) <= 4
        assert store.size_bytes <= 60
        assert store.size_bytes == sum(kept.size_bytes for kept in store._kept.values())
