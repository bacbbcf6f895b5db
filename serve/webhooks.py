"""The endpoints of webhooks. A message is on disk when its response is sent; until then the sender repeats it.

Webhooks authenticate their senders themselves, by the signatures of the messages.
"""

from __future__ import annotations

import logging

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.connectors.webhook.source import Webhook
from pipeline.core.definitions import Feed, Source
from pipeline.core.errors import HeadwaterError
from pipeline.project.project import Project
from serve.http_errors import OverloadError, UnknownError
from serve.request_body import read_body

_LOG = logging.getLogger("headwater.serve")


def webhook_routes(project: Project) -> list[Route]:
    """Return the route of a project's webhooks."""
    sources = project.graph.all_of(Source) + project.graph.all_of(Feed)
    webhooks = {
        each.reader.name: each.reader for each in sources if isinstance(each.reader, Webhook) and not each.reader.keyed
    }
    receivers = {name: webhook.receiver() for name, webhook in webhooks.items()}

    async def receive_message(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in receivers:
            raise UnknownError(f"there is no webhook {name!r}", do="define a source of webhook(…)")
        do = "send smaller messages, or raise most_bytes= of the webhook"
        body = await read_body(request, webhooks[name].most_bytes, do=do)
        try:
            answer = await run_in_threadpool(receivers[name].receive, dict(request.headers), body)
        except HeadwaterError as error:
            _LOG.warning("webhook %s: %s", name, error)
            raise OverloadError("the message could not be stored", do="send it again later") from error
        return JSONResponse(
            {"result": answer.result, **({"problem": answer.problem} if answer.problem else {})}, answer.status
        )

    return [Route("/webhooks/{name}", receive_message, methods=["POST"])]
