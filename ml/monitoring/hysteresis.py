"""States of windows: an alarm starts and ends only after several windows, at different thresholds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ml.monitoring.alarm_rules import Alarms

Flags = npt.NDArray[np.bool_]


def states(high: Flags, low: Flags, judged: Flags, rule: Alarms) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """Return the state of each window, as an index into `STATES`, and the window in which its alarm started, or -1.

    The first axis is the windows in the order of time; other axes are series that are judged independently. A window that is
    not judged counts neither as high nor as low, and keeps the alarm of the windows before it.
    """
    length, rest = high.shape[0], high.shape[1:]
    recent_high, recent_low = np.zeros((rule.of, *rest), bool), np.zeros((rule.of, *rest), bool)
    since = np.full(rest, -1, np.int64)
    state, starts = np.zeros(high.shape, np.int8), np.full(high.shape, -1, np.int64)
    for window in range(length):
        seen = judged[window]
        recent_high = np.where(seen, np.concatenate([recent_high[1:], high[window][None]]), recent_high)
        recent_low = np.where(seen, np.concatenate([recent_low[1:], low[window][None]]), recent_low)
        begins = (since < 0) & (recent_high.sum(0) >= rule.windows)
        ends = (since >= 0) & (recent_low.sum(0) >= rule.windows)
        since = np.where(begins, window, np.where(ends, -1, since))
        # what ended an alarm or started it does not count again
        recent_low = np.where(begins, False, recent_low)  # noqa: FBT003 - an array of one value
        recent_high = np.where(ends, False, recent_high)  # noqa: FBT003 - likewise
        state[window] = np.where(since >= 0, 2, np.where(seen & high[window], 1, 0))
        starts[window] = since
    return state, starts
