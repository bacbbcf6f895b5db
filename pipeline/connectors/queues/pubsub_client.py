"""Pulls messages of a Pub/Sub subscription, which are acknowledged by the caller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from google.api_core.exceptions import (
    Cancelled,
    DeadlineExceeded,
    Forbidden,
    GoogleAPIError,
    NotFound,
    Unauthenticated,
)
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud.pubsub_v1 import SubscriberClient

from pipeline.connectors.queues.queue_log import QueueMessage
from pipeline.core.clients import message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError

if TYPE_CHECKING:
    from pipeline.connectors.queues.pubsub import PubSubSubscription

_MOST = 1000
_PULL_S = 5.0
"""A pull that ends while the server sends messages delays them until their deadline, so it may take a time."""
_ANSWER_S = 20.0


class PubSubPuller:
    """A client that pulls from one subscription."""

    def __init__(self, source: PubSubSubscription) -> None:
        """Connect; raise `SourceError` without credentials."""
        self._source, self._place = source, Place(source.uri)
        with self._translated_errors():
            self._client = SubscriberClient()

    def close(self) -> None:
        """End the connection; what was not acknowledged is delivered again after its deadline."""
        self._client.close()

    def receive(self, timeout_s: float) -> Sequence[QueueMessage]:
        """Return the messages that have come."""
        request = {"subscription": self._source.name, "max_messages": _MOST}
        wait_s = min(_PULL_S, max(timeout_s, self._source.options.idle_s))
        with self._translated_errors():
            try:
                answer = self._client.pull(request=request, timeout=wait_s, retry=None)
            except (DeadlineExceeded, Cancelled):  # here, or at the server
                return []
        return [
            QueueMessage(
                each.message.data,
                {
                    "id": each.message.message_id,
                    "attributes": dict(each.message.attributes),
                    "published_at": each.message.publish_time.isoformat(),
                    "key": each.message.ordering_key or None,
                },
                each.ack_id,
            )
            for each in answer.received_messages
        ]

    def acknowledge(self, messages: Sequence[QueueMessage]) -> None:
        """Acknowledge messages."""
        request = {"subscription": self._source.name, "ack_ids": [each.token for each in messages]}
        with self._translated_errors():
            self._client.acknowledge(request=request, timeout=_ANSWER_S, retry=None)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except NotFound as error:
            problem = f"the subscription {self._source.name!r} does not exist"
            raise SourceError(problem, got=message_of(error), place=self._place) from error
        except (Forbidden, Unauthenticated, DefaultCredentialsError) as error:
            do = "check the application default credentials (gcloud auth application-default login) and the role"
            raise SourceError("Pub/Sub refuses the client", got=message_of(error), do=do, place=self._place) from error
        except (GoogleAPIError, GoogleAuthError) as error:
            got = message_of(error)
            raise SourceUnavailableError("Pub/Sub does not answer", got=got, place=self._place) from error
