"""Test splits by group."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modeling_proformer.data.splits import split_groups


# How long an example takes depends on how busy the machine is.
groups_of_rows = st.lists(st.integers(0, 30), min_size=2, max_size=80) | st.lists(st.text(max_size=2), min_size=2)
fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32)


@given(groups_of_rows, fractions, st.just(0.0) | fractions, seeds)
def test_a_split_keeps_groups_whole_and_has_its_share_of_the_rows(groups, validation, test, seed):
    assume(validation + test < 1)
    try:
        split = split_groups(groups, validation, test, seed)
    except ValueError as error:
        sizes = [groups.count(group) for group in groups]
        assert f"the largest group has {max(sizes)} of all {len(groups)} rows" in str(error)
        # Groups of one size that fit at all fill more than half of a split.
        room = min(fraction for fraction in (validation, test) if fraction) * len(groups)
        assert min(sizes) > room or len(set(sizes)) > 1 or test > 0
        return
    members = [{groups[row] for row in rows} for rows in split]
    assert not any(one & other for one, other in combinations(members, 2))
    assert sorted(np.concatenate(split)) == list(range(len(groups)))
    assert all(list(rows) == sorted(rows) for rows in split)
    for rows, fraction in ((split.validation, validation), (split.test, test)):
        assert fraction / 2 <= len(rows) / len(groups) <= fraction
    assert len(split.train) > 0
    # No group that would have fitted too was left out of the validation split.
    room = validation * len(groups) - len(split.validation)
    assert min(groups.count(groups[row]) for row in split.train) > room
    assert all(map(np.array_equal, split, split_groups(groups, validation, test, seed)))


@given(seeds)
def test_another_seed_gives_another_split(seed):
    groups = np.arange(300) // 3
    first, other = (split_groups(groups, 0.2, seed=each) for each in (seed, seed + 1))
    assert not np.array_equal(first.validation, other.validation)
    assert (len(first.validation), len(first.test)) == (60, 0)


def test_the_split_does_not_depend_on_the_names_of_the_groups():
    numbers = np.random.default_rng(0).integers(0, 50, 400)
    names = [f"group {number}" for number in numbers]
    assert all(map(np.array_equal, split_groups(numbers, 0.3, 0.1), split_groups(names, 0.3, 0.1)))


@pytest.mark.parametrize(
    ("validation", "test"),
    [
        (0, 0),
        (0, 0.1),
        (1, 0),
        (1.5, 0),
        (0.5, 0.5),
        (-0.1, 0.2),
        (0.2, -0.1),
        (np.nan, 0.1),
        (0.1, np.nan),
    ],
)
def test_fractions_out_of_range_are_refused(validation, test):
    with pytest.raises(ValueError, match="their sum must be below 1; got"):
        split_groups(np.arange(100), validation, test)


@pytest.mark.parametrize(
    ("groups", "fraction", "reason"),
    [
        ([], 0.5, "no rows to split"),
        (["a"] * 9, 0.5, "only 0 of the 4.5 rows of the validation split"),
        (["a", "a", "b", "b"], 0.4, "only 0 of the 1.6 rows of the validation split"),
    ],
)
def test_a_split_without_rows_is_refused(groups, fraction, reason):
    with pytest.raises(ValueError, match=reason):
        split_groups(groups, fraction)


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ([("chr1", "+"), ("chr1", "-"), ("chr2", "+"), ("chr2", "-")], "got a column of type list"),
        (np.zeros((4, 2)), "1-dimensional"),
        (["a", "b", None, "c"], "Row 3 has no group"),
    ],
)
def test_each_row_has_one_group(groups, reason):
    with pytest.raises(ValueError, match=reason):
        split_groups(groups, 0.5)


def test_many_small_groups_fill_each_split():
    split = split_groups(np.arange(300) // 3, 0.1, 0.2)
    assert [len(rows) for rows in split] == [210, 30, 60]


def test_a_group_with_nearly_all_rows_is_not_divided_but_refused():
    groups = [0] * 97 + [1, 2, 3]
    with pytest.raises(ValueError, match=r"only 3 of the 10 rows of the test split; .* has 97 of all 100 rows\."):
        split_groups(groups, 0.1, 0.1)
