"""A dict of records that fills itself: the first look at it imports every file of the folder where they are written."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Generic, Protocol, TypeVar

from memorization.errors import InputError


class HasFunction(Protocol):
    """What a record has: the function that it is of."""

    @property
    def function(self) -> Callable: ...


Record = TypeVar("Record", bound=HasFunction)


class Registry(Mapping[str, Record], Generic[Record]):
    """Records by name, in the order in which they were found: files by name, then the user's own."""

    def __init__(self, package: str, kind: str):
        """
        Args:
            package: whose modules hold the records.
            kind: what a record is, in messages.
        """
        self.package, self.kind = package, kind
        self.records: dict[str, Record] = {}
        self.is_complete = False

    def add(self, name: str, record: Record) -> None:
        """
        Raises:
            InputError: if the name is taken.
        """
        if name in self.records:
            raise InputError(f"there are two {self.kind}s called {name!r}; give one of them another name")
        self.records[name] = record

    def found(self) -> list[Record]:
        """The records found so far, without a look for more: for checks while they are being found."""
        return list(self.records.values())

    def complete(self) -> dict[str, Record]:
        if not self.is_complete:
            self.is_complete = True  # first, as a module may look at the registry while it is imported
            folder = importlib.import_module(self.package).__path__
            for module in sorted(m.name for m in pkgutil.iter_modules(folder)):
                importlib.import_module(f"{self.package}.{module}")
            self.records = dict(sorted(self.records.items(), key=lambda item: self.place(item[1])))
        return self.records

    def place(self, record: Record) -> tuple[bool, str]:
        """Where a record stands, whoever imported its file first: those of the package by file, then the others."""
        module = record.function.__module__
        is_own = module.startswith(f"{self.package}.")
        return not is_own, module if is_own else ""

    def get_known(self, name: str, option: str) -> Record:
        """The record of a name that a user gave.

        Args:
            option: where it was given, in the message.

        Raises:
            InputError: if there is none, with the nearest known names.
        """
        if name not in self:
            raise InputError(f"{option} has no {name!r}; {nearest(name, list(self))}")
        return self[name]

    def __getitem__(self, name: str) -> Record:
        return self.complete()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.complete())

    def __len__(self) -> int:
        return len(self.complete())


def revised(revisions: Mapping[str, int]) -> dict[str, int] | None:
    """Those that are not the first, as runs keep them; None without any, as of runs that kept none."""
    return {name: number for name, number in revisions.items() if number > 1} or None


def nearest(name: str, known: list[str], offer: str = "there are") -> str:
    """What to say of a name that is not known: the nearest ones, and, after `offer`, all there are."""
    close = get_close_matches(name, known, n=3, cutoff=0.6)
    did = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{did}{offer} {', '.join(known)}"


def first_sentence(function: Callable) -> str:
    """What a record's table says: the first line of the docstring, without its full stop.

    Raises:
        InputError: if there is none.
    """
    text = (inspect.getdoc(function) or "").strip()
    if not text:
        raise InputError(f"{function.__name__} has no docstring; its first line says in tables what it is")
    return text.splitlines()[0].rstrip(".")
