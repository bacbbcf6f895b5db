"""Libraries that only some projects need: extras of the package `headwater`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.core.errors import SourceError


@contextmanager
def imports_of(extra: str, what: str) -> Iterator[None]:
    """Raise `SourceError` with the command that installs an extra, if an import inside the context fails.

    `what` is what needs it, as the subject of a sentence.
    """
    try:
        yield
    except ImportError as error:
        raise SourceError(
            f"{what} needs an extra, which is not installed",
            got=f"no module {error.name!r}" if isinstance(error, ModuleNotFoundError) else str(error),
            do=f"pip install 'headwater[{extra}]'",
        ) from error
