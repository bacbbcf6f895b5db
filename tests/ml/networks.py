"""Networks for tests, as a project defines them. PyTorch is imported when they are built."""

from __future__ import annotations

import os
from pathlib import Path


def plain(features, outputs, hidden=16):
    from torch import nn  # noqa: PLC0415 - not where tests are collected

    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(0.05), nn.Linear(hidden, outputs))


def none(features, outputs):
    del features, outputs


def wide(features, outputs):
    from torch import nn  # noqa: PLC0415 - not where tests are collected

    return nn.Linear(features, outputs + 1)


def raising(features, outputs):
    del outputs
    raise ValueError(f"no network of {features} features")


def dying(features, outputs, flag=""):
    """Ends its process in training when many batches have been seen, once."""
    from torch import nn  # noqa: PLC0415 - not where tests are collected

    class Dying(nn.Sequential):
        def forward(self, rows):
            self.calls = getattr(self, "calls", 0) + self.training
            if self.calls == 25 and flag and not Path(flag).exists():
                Path(flag).touch()
                os._exit(1)
            return super().forward(rows)

    return Dying(nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, outputs))
