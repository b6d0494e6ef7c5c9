"""Runs the trainer process, `python -m paris_p2p.training.trainer`: jobs and commands in, events out.

A TrainJob, then Commands, come on stdin; events go to stdout, a JSON line each. Of a CrewJob the commands and
events are those of crew_messages.py. It dies at once when its
parent dies, when stdin closes or on `{"command": "kill"}`, in the middle of a step too.
"""

from __future__ import annotations

import json
import logging
import sys

from pydantic import ValidationError

from paris_p2p.errors import ParisError, TrainError
from paris_p2p.training.child import Line, open_line
from paris_p2p.training.crew_messages import CrewCommand, CrewJob, is_crew_job, parse_crew_command
from paris_p2p.training.messages import Command, Failed, Stopped, TrainJob

log = logging.getLogger(__name__)


def main() -> int:
    """Returns the exit status: 0 after `stopped`, 1 after `failed` or an error that nobody foresaw."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    line = open_line(is_kill)
    try:
        line.send(Stopped(reason=_work(line.receive(), line)))
        return 0
    except ParisError as error:
        line.send(Failed(error=type(error).__name__, message=str(error)))
    except ValidationError as error:
        line.send(Failed(error="TrainError", message=f"the training job is malformed: {str(error)[:500]}"))
    except Exception:
        # This is the process's outermost frame: the node shows the words, the log has the rest.
        # It is begun again as one that was killed is: what failed once may be the machine's.
        log.exception("the trainer failed unexpectedly")
    return 1


def _work(data: bytes, line: Line) -> str:
    """Does the job of a line, and returns why it ended; ParisError, ValidationError."""
    # Imports come after the guards: torch takes seconds to load.
    if is_crew_job(data):
        from paris_p2p.training.crew_session import train_in_crew

        return train_in_crew(CrewJob.model_validate_json(data), line.send, _CrewCommands(line))
    job = TrainJob.model_validate_json(data)
    from paris_p2p.training.train import train

    return train(job, line.send, lambda: _next_command(line))


class _CrewCommands:
    """Reads a crew's commands from the line."""

    def __init__(self, line: Line):
        self._line = line

    def pending(self) -> CrewCommand | None:
        raw = self._line.pending()
        return None if raw is None else parse_crew_command(raw)

    def wait(self) -> CrewCommand:
        return parse_crew_command(self._line.receive())


def is_kill(line: bytes) -> bool:
    """Says whether a line is the kill command.

    The thread that reads obeys it, in the middle of a step.
    """
    try:
        return bool(json.loads(line) == {"command": "kill"})
    except ValueError:
        return False


def _next_command(line: Line) -> Command | None:
    """Returns the strongest command that waits, if any: stop goes before checkpoint."""
    found: Command | None = None
    while (raw := line.pending()) is not None:
        try:
            command = Command.model_validate_json(raw)
        except ValidationError as error:
            raise TrainError(f"the trainer was sent {raw[:120]!r}, which is not a command") from error
        if found is None or command.command == "stop":
            found = command
    return found


if __name__ == "__main__":
    sys.exit(main())
