"""What p2pd measures of itself is read over HTTP on 127.0.0.1 (its flag -metricsAddr)."""

from __future__ import annotations

import asyncio
import logging

from paris_p2p.swarm.p2pd import close_stream

log = logging.getLogger(__name__)
MAX_METRICS_BYTES = 4 << 20
_LIMIT_S = 2.0
_REQUEST = b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"


async def read_metrics(port: int) -> str:
    """Returns p2pd's metrics as text for Prometheus; empty when it does not answer in time, or with more
    than MAX_METRICS_BYTES, and for port 0.
    """
    if not port:
        return ""
    try:
        async with asyncio.timeout(_LIMIT_S):
            answer = await _read_answer(port)
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        log.info("p2pd does not tell its metrics: %r", error)
        return ""
    head, _, body = answer.partition(b"\r\n\r\n")
    if len(answer) > MAX_METRICS_BYTES or b" 200 " not in head.split(b"\r\n")[0]:
        log.warning("p2pd tells no metrics, or too many: %d bytes", len(answer))
        return ""
    return body.decode(errors="replace")


async def _read_answer(port: int) -> bytes:
    """Returns the whole answer, as HTTP/1.0 gives it: until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_REQUEST)
        data = bytearray()
        while (piece := await reader.read(1 << 16)) and len(data) <= MAX_METRICS_BYTES:
            data += piece
        return bytes(data)
    finally:
        await close_stream(writer)
