"""Hold-outs by group."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from modeling_proformer.data.splits import hold_out_groups, split_groups


# An example takes as long as the machine is busy.
unhurried = settings(deadline=None)
families = st.lists(st.integers(0, 30), min_size=2, max_size=80) | st.lists(st.text(max_size=2), min_size=2)
fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32)


@unhurried
@given(families, fractions, seeds)
def test_no_group_lies_on_both_sides(groups, fraction, seed):
    try:
        train, held_out = hold_out_groups(groups, fraction, seed)
    except ValueError:
        # Only where every group is too large, or there is but one.
        sizes = [groups.count(group) for group in groups]
        assert min(sizes) > fraction * len(groups) or len(set(groups)) == 1
        return
    assert not {groups[row] for row in train} & {groups[row] for row in held_out}
    assert sorted([*train, *held_out]) == list(range(len(groups)))
    assert list(train) == sorted(train)
    assert list(held_out) == sorted(held_out)
    assert 0 < len(held_out) <= fraction * len(groups)
    # No group that would have fitted too was left out.
    room = fraction * len(groups) - len(held_out)
    assert min(groups.count(groups[row]) for row in train) > room


@unhurried
@given(seeds)
def test_a_seed_always_gives_the_same_split(seed):
    groups = np.arange(300) // 3
    first, second, other = (hold_out_groups(groups, 0.2, s) for s in (seed, seed, seed + 1))
    assert np.array_equal(first.train, second.train)
    assert np.array_equal(first.held_out, second.held_out)
    assert not np.array_equal(first.held_out, other.held_out)
    assert len(first.held_out) == 60


def test_the_split_depends_on_who_is_related_and_not_on_names():
    numbers = np.random.default_rng(0).integers(0, 50, 400)
    names = [f"family {number:02d}" for number in numbers]
    assert np.array_equal(hold_out_groups(numbers, 0.3).held_out, hold_out_groups(names, 0.3).held_out)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_lies_between_0_and_1(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        hold_out_groups([1, 2, 3], fraction)


@pytest.mark.parametrize(("groups", "fraction"), [([], 0.5), (["a"] * 9, 0.5), (["a", "a", "b", "b"], 0.4)])
def test_a_side_is_never_empty(groups, fraction):
    with pytest.raises(ValueError, match="cannot be split"):
        hold_out_groups(groups, fraction)


def test_groups_of_two_columns_are_not_taken_for_twice_as_many_rows():
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        hold_out_groups([("chr1", "+"), ("chr1", "-"), ("chr2", "+"), ("chr2", "-")], 0.5)


@unhurried
@given(families, fractions, fractions, seeds)
def test_a_three_way_split_keeps_groups_whole_and_sides_near_their_shares(groups, validation, test, seed):
    assume(validation + test < 1)
    try:
        split = split_groups(groups, validation, test, seed)
    except ValueError as error:
        largest = max(groups.count(group) for group in groups)
        assert f"the largest family has {largest} of all {len(groups)} rows" in str(error)
        return
    sides = [{groups[row] for row in side} for side in split]
    assert not any(one & other for one, other in combinations(sides, 2))
    assert sorted(np.concatenate(split)) == list(range(len(groups)))
    assert all(list(side) == sorted(side) for side in split)
    for side, fraction in ((split.validation, validation), (split.test, test)):
        assert fraction / 2 <= len(side) / len(groups) <= fraction
    assert all(map(np.array_equal, split, split_groups(groups, validation, test, seed)))


def test_many_small_groups_fill_each_side():
    split = split_groups(np.arange(300) // 3, 0.1, 0.2)
    assert [len(side) for side in split] == [210, 30, 60]


@pytest.mark.parametrize(("validation", "test"), [(0, 0.1), (0.1, 0), (0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.1)])
def test_each_of_three_sides_has_a_share(validation, test):
    with pytest.raises(ValueError, match="above 0 and leave some rows"):
        split_groups(np.arange(100), validation, test)


def test_one_large_family_is_not_split_but_refused():
    groups = [0] * 97 + [1, 2, 3]
    with pytest.raises(ValueError, match=r"only 3 of the 10 rows of the test side; .* has 97 of all 100 rows: give a"):
        split_groups(groups, 0.1, 0.1)
