"""verl's programs as children of this process: noise to a log, a step's metrics as they come, nothing left behind."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jigsaw.errors import JigsawError
from jigsaw.processes import MARK, kill_leftovers, undisturbed
from jigsaw.show.training import Metrics, read_metrics
from jigsaw.verl_plugin.checkpoint import LOGS, log_override
from jigsaw.verl_plugin.launch import TRAINER, environment, sft_trainer

GRPO = (TRAINER,)
SFT = sft_trainer(1)


def train_with_verl(
    overrides: Sequence[str],
    *,
    trainer: Sequence[str] = GRPO,
    run: Path,
    log: Path,
    metrics: Path,
    on_step: Callable[[int, Metrics], None],
) -> None:
    """Run one of verl's trainers to its end.

    Args:
        overrides: the trainer's arguments: config and Hydra overrides.
        trainer: the module, and what goes before the overrides.
        run: the run's folder; it marks the processes.
        log: file that takes everything the processes print.
        metrics: JSON-lines file that verl's file logger writes.
        on_step: called with each step and its metrics as they come.

    Raises:
        JigsawError: if the trainer fails; the message holds its last error and names the log.
        KeyboardInterrupt: on Ctrl-C, after all processes are gone.
    """
    metrics.unlink(missing_ok=True)  # of a start that was cut off before its first checkpoint
    begin = _size(log)
    own = {MARK: str(run), LOGS["file"]: str(metrics), "PYTHONUNBUFFERED": "1"}
    if trainer == GRPO and not any(LOGS["file"] in line for line in overrides):
        overrides = [*overrides, log_override("file", metrics)]
    seen: set[int] = set()

    def report() -> None:
        for step, values in read_metrics([metrics]).items():
            if step not in seen:
                seen.add(step)
                on_step(step, values)

    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", *trainer, *overrides],
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**environment(), **own},
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the others in order
        )
        try:
            while process.poll() is None:
                time.sleep(0.5)
                report()
            report()
        finally:
            with undisturbed():
                kill_leftovers(run)
                process.wait()
    if process.returncode != 0:
        raise JigsawError(f"training stopped: {last_error(log, begin)} (all of it: {log})")


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def last_error(log: Path, begin: int = 0) -> str:
    """What a log says went wrong: our own message if there is one, else the last exception, else the last line.

    Args:
        log: the file.
        begin: where in it to begin, in bytes; what stands before is of earlier starts.
    """
    lines = log.read_bytes()[begin:].decode(errors="replace").splitlines()
    own = [match["message"] for line in lines if (match := _OWN.search(line))]
    if own:
        return own[-1]
    exceptions = [match for line in lines if (match := _EXCEPTION.search(line))]
    if exceptions:
        return exceptions[-1].group().strip()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


_EXCEPTION = re.compile(r"[A-Za-z_.]*(Error|Exception): .+")
_OWN = re.compile(r"(^error|JigsawError): (?P<message>.+)")
