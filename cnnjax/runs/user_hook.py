"""The function ``after_epoch(state, metrics)`` of an experiment file.

It is called after each epoch's checkpoint is on disk, with a copy of the `TrainState` and of the epoch's row of
metrics.jsonl, so nothing that it does to them affects the training. Its result is not used. An epoch that was saved is
not trained again; if the process ends before the call, the call for that epoch is left out.
"""

import jax
import jax.numpy as jnp

from cnnjax.errors import Interrupted, UserError
from cnnjax.runs.definitions import AfterEpoch
from cnnjax.training.hooks import Hook, Snapshot


def user_hooks(after_epoch: AfterEpoch | None) -> tuple[Hook, ...]:
    """Return the hook that calls ``after_epoch``, or none."""
    return () if after_epoch is None else (UserHook(after_epoch),)


class UserHook(Hook):
    """Calls the function of an experiment file after each epoch."""

    def __init__(self, after_epoch: AfterEpoch):
        self.after_epoch = after_epoch

    def epoch(self, snapshot: Snapshot) -> None:
        """Call the function with copies.

        Raises:
            UserError: it raised an exception. The epoch is saved.
        """
        row = snapshot.rows[-1]
        state = jax.tree.map(jnp.copy, snapshot.state)  # the next step reuses the memory of the original
        try:
            self.after_epoch(state, dict(row))
        except Interrupted:
            raise
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split())[:150]
            raise UserError(
                f"after_epoch of the experiment file failed after epoch {row['epoch']}: {type(error).__name__}: "
                f"{reason} (--debug shows the traceback); the epoch is saved: correct the function, then run the same "
                "command to resume"
            ) from error
