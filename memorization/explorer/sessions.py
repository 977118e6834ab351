"""Who looks at what: each open page has a view of its own, and a newer wish of it ends the older one."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from memorization.explorer.asked import Asked
from memorization.explorer.looking import look
from memorization.explorer.mitigating import mitigate_view
from memorization.explorer.stopping import Stop, Stopped, stoppable
from memorization.explorer.streaming import stream
from memorization.explorer.view import View
from memorization.explorer.world import World

MOST_SESSIONS = 8  # whose views are kept; the one that was used longest ago goes
LOOK = -1  # beside the slots of mitigations, which count from 0


@dataclass
class Session:
    """One open page.

    Attributes:
        wishes: by slot, the number of the newest wish and what stops it.
        view: what is known so far; None before the first picture.
        place: of the tiles that are looked at: step and layer, each counted from 1, 0 being the mean over all.
    """

    wishes: dict[int, tuple[int, Stop]] = field(default_factory=dict)
    count: int = 0
    view: View | None = None
    place: tuple[int, int] = (0, 0)

    def wish(self, slot: int) -> int:
        """A new wish, by its number: it ends the slot's older one, and a new picture ends all."""
        for other, (_, stop) in self.wishes.items():
            if slot in (LOOK, other):
                stop.ask()
        self.count += 1
        self.wishes[slot] = self.count, Stop()
        return self.count


class Explorer:
    """The world and all sessions; every method may be called from any thread."""

    def __init__(self, world: World):
        self.world = world
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        self.guard = threading.Lock()

    def session(self, name: str) -> Session:
        """The session of this name, a new one where there is none."""
        with self.guard:
            found = self.sessions.setdefault(name, Session())
            self.sessions.move_to_end(name)
            while len(self.sessions) > MOST_SESSIONS:
                _, oldest = self.sessions.popitem(last=False)
                stop_all(oldest)
            return found

    def wish(self, name: str, slot: int = LOOK) -> int:
        """Say that something newer is wanted, before it waits for its turn: what is older ends at once."""
        return self.session(name).wish(slot)

    def stop(self, name: str) -> None:
        """End all that a page has under way."""
        stop_all(self.session(name))

    def claim(self, name: str, slot: int, number: object) -> Stop:
        """What stops the wish of this number, whose turn it is; without a number a new one.

        Raises:
            Stopped: if there is a newer one.
        """
        session = self.session(name)
        newest, _ = session.wishes.get(slot, (0, None))
        if number is not None and number != newest:
            raise Stopped
        if number is None:
            session.wish(slot)
        return session.wishes[slot][1]

    def close(self, name: str) -> None:
        """The page is gone: end its work and forget its view."""
        with self.guard:
            closed = self.sessions.pop(name, None)
        if closed is not None:
            stop_all(closed)

    def look(self, name: str, asked: Asked, stop: Stop) -> Iterator[View]:
        """The picture that is asked for, as it comes about.

        Raises:
            InputError: if it cannot be made.
        """
        session, world = self.session(name), self.world
        session.view = None

        def job(tell) -> None:
            with world.lock:
                stop.check()
                pipe = world.models.pipe(asked.chosen)
                with stoppable(pipe, stop):
                    look(world, pipe, world.view_of(asked), tell)

        for view in stream(job, stop):
            session.view = view
            yield view

    def mitigate(self, name: str, slot: int, method: object, strength: object, stop: Stop) -> Iterator[View]:
        """The session's view with a mitigation in a slot; without a method the slot is emptied.

        Raises:
            InputError: if the method or its strength cannot be used.
        """
        session, world = self.session(name), self.world
        view = session.view
        if view is None or view.image is None or stop.asked.is_set():
            return
        if not method:
            session.view = without(session.view or view, slot)
            yield session.view
            return

        def job(tell) -> None:
            with world.lock:
                stop.check()
                pipe = world.models.pipe(view.asked.chosen)
                with stoppable(pipe, stop):
                    tell(mitigate_view(world, pipe, view, method, strength))

        for found in stream(job, stop):
            if session.view is None or session.view.asked != view.asked or stop.asked.is_set():
                raise Stopped
            session.view = replace(session.view, mitigated={**session.view.mitigated, slot: found})
            yield session.view


def without(view: View, slot: int) -> View:
    return replace(view, mitigated={k: m for k, m in view.mitigated.items() if k != slot})


def stop_all(session: Session) -> None:
    for _, stop in session.wishes.values():
        stop.ask()
