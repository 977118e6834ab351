"""Sequences whose items are made as they are asked for: what is long takes the memory of what it is made of."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar, overload

Item = TypeVar("Item", covariant=True)


class MadeSequence(Sequence[Item]):
    """A sequence that makes its items; of a slice a list of them."""

    @abstractmethod
    def item(self, place: int) -> Item:
        """The item at a place from 0 on."""

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self.item(k) for k in range(*place.indices(len(self)))]
        return self.item(range(len(self))[place])

    def __iter__(self) -> Iterator[Item]:
        return map(self.item, range(len(self)))
