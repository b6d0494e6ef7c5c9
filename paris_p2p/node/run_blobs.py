"""A run's blobs as this peer makes and reads them: sealed where the run asks for it, plain where it does not.

In a private run everything is sealed under the run's newest key. The gate's clips have a key of their own,
also in open runs, which those get who may attest. Others store, fetch and serve all of it unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from io import BytesIO
from pathlib import Path

from paris_p2p.errors import DiskFullError
from paris_p2p.node.open_copies import OpenCopies
from paris_p2p.node.run_keys import RunKeys
from paris_p2p.records import BlobRef
from paris_p2p.spec import RunSpec
from paris_p2p.store.blobs import BlobStore
from paris_p2p.store.sealed_blobs import add_sealed
from paris_p2p.store.sealing import BlobKey, hint_of, open_blob

MakeRoom = Callable[[int, Iterable[str]], bool]


class RunBlobs:
    """`spec` returns the run as it is now; `make_room` frees bytes of the store, beside what it must keep."""

    def __init__(
        self,
        store: BlobStore,
        keys: RunKeys,
        copies: OpenCopies,
        spec: Callable[[], RunSpec],
        make_room: MakeRoom,
    ):
        self.store, self.keys, self.copies = store, keys, copies
        self._spec, self._make_room = spec, make_room

    def add(self, path: Path) -> BlobRef:
        """Moves a file into the store, sealed in a private run; it takes a thread, for it hashes gigabytes.

        What nobody needs makes room. Raises DiskFullError when that does not suffice.
        """
        try:
            return self._add(path)
        except DiskFullError:
            if not self._make_room(path.stat().st_size, ()):
                raise
            return self._add(path)

    async def under_newest_key(self, ref: BlobRef) -> BlobRef:
        """Returns a blob that `add` made, sealed once more where a private run got another key since."""
        if not self._spec().private:
            return ref
        key = self.keys.for_new_blobs()
        if hint_of(self.store.path(ref.id)) == key.hint:
            return ref
        async with self.opened([ref]) as (plain,):
            return await asyncio.to_thread(add_sealed, self.store, plain, key)

    def read(self, ref: BlobRef) -> bytes:
        """Returns what is in a small blob that is here, opened. Raises as `opened` does."""
        path = self.store.path(ref.id)
        if (key := self._key(ref, gate=False)) is None:
            return path.read_bytes()
        out = BytesIO()
        open_blob(path, key, out)
        return out.getvalue()

    @asynccontextmanager
    async def opened(self, refs: Sequence[BlobRef], *, gate: bool = False) -> AsyncIterator[list[Path]]:
        """Yields plain files of blobs that are here: the store's own, or opened copies of what is sealed.

        `gate` says that they are the gate's clips. Raises MissingKeyError where this peer has no key to one,
        SealError where one does not open, and DiskFullError.
        """
        async with AsyncExitStack() as stack:
            yield [await self._enter(stack, ref, self._key(ref, gate=gate), refs) for ref in refs]

    async def heal(self, refs: Sequence[BlobRef]) -> bool:
        """Looks for damage that this disk did to blobs; True where parts of one have to be fetched again."""
        damaged = [await asyncio.to_thread(self.store.verify, ref.id) for ref in refs]
        return any(damaged)

    async def _enter(
        self, stack: AsyncExitStack, ref: BlobRef, key: BlobKey | None, beside: Sequence[BlobRef]
    ) -> Path:
        if key is None:
            return self.store.path(ref.id)
        try:
            return await stack.enter_async_context(self.copies.of(ref.id, key))
        except DiskFullError:
            keep = [one.id for one in beside]
            if not await asyncio.to_thread(self._make_room, ref.size_bytes, keep):
                raise
            return await stack.enter_async_context(self.copies.of(ref.id, key))

    def _key(self, ref: BlobRef, *, gate: bool) -> BlobKey | None:
        """Returns what opens a blob; None for one that is plain, as most of an open run's are."""
        spec = self._spec()
        if gate and spec.gate.key_hash:
            return self.keys.for_gate()
        return self.keys.opening(ref, self.store.path(ref.id)) if spec.private else None

    def _add(self, path: Path) -> BlobRef:
        if self._spec().private:
            return add_sealed(self.store, path, self.keys.for_new_blobs(), move=True)
        return self.store.add_file(path, move=True)
