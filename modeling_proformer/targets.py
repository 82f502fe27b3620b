"""What designs are asked for: goals of the outputs, and positions to keep, also as text."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from .data.config import did_you_mean


#: What an output should be: a number, the ends of a range, "max" or "min".
Goal: TypeAlias = float | tuple[float, float] | str
#: What a design should be: the goal of the only output, the goals of some outputs by name, or either as text.
Target: TypeAlias = Goal | Mapping[str, Goal]


class Goals(NamedTuple):
    """
    A target: the least and greatest value of each output, and whether it should be as great (1) or as small (-1) as
    can be; (outputs,) each.
    """

    text: str
    low: np.ndarray
    high: np.ndarray
    direction: np.ndarray

    @property
    def is_bounded(self) -> np.ndarray:
        """Whether a number or a range is asked of each output, (outputs,) of bool."""
        return np.isfinite(self.low)


def read_targets(targets: Sequence[Target], outputs: Sequence[str]) -> list[Goals]:
    """
    Return targets as bounds of the outputs.

    Raises:
        ValueError: there is none, one cannot be read, or it does not say which of several outputs it is for.
    """
    if isinstance(targets, str | float | int | Mapping):
        raise ValueError(f"`targets` is a list, such as [{targets!r}].")
    if not len(targets):
        raise ValueError("`targets` is empty; name at least one.")
    return [_read_target(target, outputs) for target in targets]


def _read_target(target: Target, outputs: Sequence[str]) -> Goals:
    asked: dict[str, Goal] = {}
    if isinstance(target, Mapping):
        asked = dict(target)
    elif isinstance(target, str) and "=" in target:
        for part in target.split(","):
            name, _, text = (piece.strip() for piece in part.partition("="))
            if name in asked:
                raise ValueError(f"`targets` {target}: the output {name!r} occurs twice.")
            asked[name] = text
    elif len(outputs) > 1:
        raise ValueError(
            f"`targets` {target}: the model has {len(outputs)} outputs, so name those that it is for, such as "
            f"{outputs[0]}={target}."
        )
    else:
        asked = {outputs[0]: target.strip() if isinstance(target, str) else target}
    if not asked:
        raise ValueError("One of `targets` names no output.")
    low, high, direction = np.full(len(outputs), -np.inf), np.full(len(outputs), np.inf), np.zeros(len(outputs))
    for name, goal in asked.items():
        if name not in outputs:
            raise ValueError(f"`targets` {target}: the model has no output {name!r}.{did_you_mean(name, outputs)}")
        output = list(outputs).index(name)
        if goal in ("max", "min"):
            direction[output] = 1 if goal == "max" else -1
        else:
            low[output], high[output] = _read_range(goal)
    text = ",".join(f"{name}={_goal_text(goal)}" for name, goal in asked.items())
    return Goals(text if len(outputs) > 1 else text.partition("=")[2], low, high, direction)


def _read_range(goal: Goal) -> tuple[float, float]:
    try:
        ends = goal.split(":") if isinstance(goal, str) else np.atleast_1d(goal)
        low, high = float(ends[0]), float(ends[-1])
    except (TypeError, ValueError):
        ends, low, high = [], np.nan, np.nan
    if len(ends) not in (1, 2) or not np.isfinite([low, high]).all() or low > high:
        raise ValueError(f"`targets` {goal!r} is not a number, a range such as 6:8, max or min.")
    return low, high


def _goal_text(goal: Goal) -> str:
    return goal if isinstance(goal, str) else ":".join(f"{value:g}" for value in np.atleast_1d(goal))


def read_positions(positions: Sequence[int | str], length: int, start: str | None) -> list[int]:
    """
    Return the positions to keep, counted from 0, each once and in order.

    Args:
        positions: counted from 1, such as 7 or "10-20".
        length: bases of the insert.
        start: name of the sequence that the insert is of, for messages.

    Raises:
        ValueError: one cannot be read, or lies outside of the insert.
    """
    found = set()
    for each in positions:
        parts = re.fullmatch(r"(\d+)(?:-(\d+))?", str(each).strip(), re.ASCII)
        first, last = (int(parts[1]), int(parts[2] or parts[1])) if parts else (0, 0)
        if not 1 <= first <= last:
            raise ValueError(f"`keep` {each!r} is not a position from 1, such as 7, or a range such as 10-20.")
        if last > length:
            raise ValueError(
                f"`keep` {each!r} lies outside of the insert of the start {start!r}, which has {length} bases."
            )
        found.update(range(first - 1, last))
    return sorted(found)


__all__ = ["Goal", "Goals", "Target", "read_positions", "read_targets"]
