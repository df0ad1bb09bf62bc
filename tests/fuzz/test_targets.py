"""The fuzz targets without atheris: each takes its own seeds, and the same with a few bytes damaged."""

import importlib
import random

import pytest

from tests.fuzz import targets
from tests.fuzz.__main__ import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_seeds_whole_and_damaged(name: str) -> None:
    target = importlib.import_module(f"{targets.__name__}.{name}")
    seeds = list(target.seeds())
    assert seeds
    chance = random.Random(name)
    for seed in seeds:
        target.one_input(seed)
        for _ in range(10):
            damaged = bytearray(seed)
            for _ in range(chance.randint(1, 3)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            target.one_input(bytes(damaged[: chance.choice((None, -1, len(damaged) // 2))]))
    target.one_input(b"")
