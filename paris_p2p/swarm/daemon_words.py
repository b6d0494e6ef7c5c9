"""What breaks while p2pd is asked becomes a DaemonError here: no caller has to know how a daemon can die."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, P2PHandlerError

from paris_p2p.errors import DaemonError, DaemonGoneError


@contextmanager
def asking_daemon() -> Iterator[None]:
    """Raises a DaemonGoneError for whatever p2pd's death raises within, a DaemonError where it refuses.

    A TimeoutError goes through: it is the caller's own limit.
    """
    try:
        yield
    except TimeoutError:
        raise
    except EOFError as error:
        raise DaemonGoneError("p2pd ended the conversation; it is being restarted") from error
    except OSError as error:
        raise DaemonGoneError(
            f"p2pd does not answer ({error.strerror or error}); it is being restarted"
        ) from error
    except (P2PDaemonError, P2PHandlerError) as error:
        raise DaemonError(f"p2pd refused: {' '.join(str(error).split())[:300]}") from error
