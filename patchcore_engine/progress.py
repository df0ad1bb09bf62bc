"""How long jobs tell their caller how far they are, without knowing who shows it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """A stage is a `with` block; inside it, `advance(n)` says that n more units are done."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Advance]: ...


class NoProgress:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Advance]:  # noqa: ARG002  (the protocol's names)
        yield lambda _count: None
