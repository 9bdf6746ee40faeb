"""A run ends with its queue: TransferQueue's clients would wait for a dead controller for ever."""

import signal
import threading
import time

import ray
from transfer_queue import interface

from jigsaw.errors import JigsawError

_EVERY_S = 5.0


def end_with_the_queue() -> None:
    """Raise JigsawError in this thread, the process's main one, once TransferQueue's controller has died.

    Whatever it waits for then is interrupted by SIGUSR1. A queue that is closed in order ends the watch.
    """
    controller, waiting = interface._TQ_CONTROLLER, threading.main_thread()
    assert threading.current_thread() is waiting
    assert waiting.ident is not None

    def fail(*_: object) -> None:
        raise JigsawError("TransferQueue's controller died, for want of memory perhaps; start again to resume")

    def watch(main: int = waiting.ident) -> None:
        while interface._TQ_CONTROLLER is controller:
            try:
                ray.get(controller.get_config.remote())
            except ray.exceptions.RayActorError:
                if interface._TQ_CONTROLLER is controller:  # not closed in the meantime
                    signal.pthread_kill(main, signal.SIGUSR1)
                return
            time.sleep(_EVERY_S)

    signal.signal(signal.SIGUSR1, fail)
    threading.Thread(target=watch, name="queue watch", daemon=True).start()
