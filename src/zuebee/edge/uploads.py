"""Room for request bodies that are not all here: a bound for all of them, and a quarter of it for each sender.

A body asks for room for all that it may be (its declared length, else the largest that is taken) before more than its
first part is read, and keeps that to its end. So whoever reads never waits for room: there is no standstill, whoever
stops in the middle. Who gets none waits, which stops its sender; nobody is refused unless that takes too long.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Protocol

from zuebee.contracts.admission import Admission, Caller, Permit, Principal, Settlement
from zuebee.contracts.errors import Refusal

SHARES: Final = 4


class Upload:
    """A body that is not all here, with `size` bytes of room from the moment in which `turn` is done."""

    __slots__ = ("holder", "size", "turn")

    def __init__(self, holder: "Holder", size: int) -> None:
        self.holder = holder
        self.size = size
        self.turn: asyncio.Future[None] | None = None


class Holder:
    """A key, or an address without one: how much room it has for how many bodies, and which ones wait."""

    __slots__ = ("count", "name", "size", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.size = 0
        self.waiting: OrderedDict[Upload, None] = OrderedDict()  # its first is found at once, unlike that of a dict


class Uploads:
    """The room of the process. `wait_s`: how long a body may have to wait for its part."""

    def __init__(self, max_bytes: int, wait_s: float) -> None:
        self.size = 0
        self._max_bytes = max_bytes
        self._share_bytes = max_bytes // SHARES
        self._wait_s = wait_s
        self._holders: dict[str, Holder] = {}
        self._hungry: OrderedDict[Holder, None] = OrderedDict()
        self._full = False

    async def begin(self, name: str, size: int) -> Upload:
        """Room for a body of so many bytes at most; `end` must follow. Raises TimeoutError."""
        holder = self._holders.get(name)
        if holder is None:
            holder = self._holders[name] = Holder(name)
        upload = Upload(holder, size)
        if holder.waiting or self._full or not self._has_share(upload) or not self._has_room(upload):
            await self._wait(upload)
        else:
            self._take(upload)
        return upload

    def end(self, upload: Upload) -> None:
        """It is all here and was looked at, or nobody wants it any more."""
        holder = upload.holder
        holder.count -= 1
        holder.size -= upload.size
        self.size -= upload.size
        self._give()
        self._forget(holder)

    def _forget(self, holder: Holder) -> None:
        """Let go of a holder of nothing."""
        if not holder.waiting:
            self._hungry.pop(holder, None)
            if not holder.count and self._holders.get(holder.name) is holder:
                del self._holders[holder.name]

    def _has_share(self, upload: Upload) -> bool:
        holder = upload.holder
        return not holder.count or holder.size + upload.size <= self._share_bytes

    def _has_room(self, upload: Upload) -> bool:
        return not self.size or self.size + upload.size <= self._max_bytes

    def _take(self, upload: Upload) -> None:
        upload.holder.count += 1
        upload.holder.size += upload.size
        self.size += upload.size

    async def _wait(self, upload: Upload) -> None:
        holder = upload.holder
        upload.turn = turn = asyncio.get_running_loop().create_future()
        holder.waiting[upload] = None
        self._hungry[holder] = None
        try:
            if self._has_share(upload):
                self._give()
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.end(upload)  # it got room in the very moment in which its sender left
            else:
                holder.waiting.pop(upload, None)
                self._give()
                self._forget(holder)
            raise

    def _give(self) -> None:
        """Give room to those who wait: one holder after the other, whoever has some of its share left.

        Where there is too little for one of them, nobody gets any before that one: else large bodies would wait for
        ever.
        """
        self._full = False
        for holder in list(self._hungry):
            while holder.waiting:
                upload = next(iter(holder.waiting))
                assert upload.turn is not None
                if upload.turn.done():  # its sender has left, and it does not know yet
                    del holder.waiting[upload]
                    continue
                if not self._has_share(upload):
                    break
                if not self._has_room(upload):
                    self._full = True
                    return
                del holder.waiting[upload]
                self._take(upload)
                upload.turn.set_result(None)
                self._hungry.move_to_end(holder)
            if not holder.waiting:
                del self._hungry[holder]


# Places among the running requests for those whose body still comes: who sends slowly is counted as well.


async def enter(admission: Admission, caller: Caller, principal: Principal, settlement: Settlement) -> Refusal | None:
    """Take such a place; its settlement gives it back, whatever happens."""
    early = await admission.enter(caller, principal)
    if isinstance(early, Refusal):
        return early
    settlement.early = early
    return None


class _Running(Protocol):
    settlement: Settlement


def early_places(running: Iterable[_Running]) -> list[Permit]:
    """The places of those who have no other yet."""
    return [early for each in running if each.settlement.grant is None and (early := each.settlement.early) is not None]
