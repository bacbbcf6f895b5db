"""The route of models: predictions for the rows of a request."""

from __future__ import annotations

from datetime import timedelta

from anyio import fail_after, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serve.access.authorization import require_scope
from serve.access.gate import context_of
from serve.http_errors import BusyError, OverloadError
from serve.predictions.models import request_of
from serve.predictions.service import PredictionService
from serve.request_body import read_body

MOST_PREDICTIONS = 256
"""How many requests for predictions a process answers at a time, including those that wait for a thread."""
MOST_BODY_BYTES = 8 << 20
_MOST_ID = 200
"""The most characters of an id that a client gives its request."""


def model_routes(predictions: PredictionService, patience: timedelta) -> list[Route]:
    """Return the route of predictions, which may take as long as `patience`.

    Further requests than `MOST_PREDICTIONS` at a time are refused: those that wait are late already.
    """
    in_flight = 0  # changed by the event loop only

    async def predict_rows(request: Request) -> Response:
        nonlocal in_flight
        if in_flight >= MOST_PREDICTIONS:
            got = f"{in_flight:,} requests"
            raise BusyError(
                "the server has as many predictions to make as it may", got=got, do="try again after a second"
            )
        in_flight += 1
        try:
            return await predicted(request)
        finally:
            in_flight -= 1

    async def predicted(request: Request) -> Response:
        context, name = context_of(request.scope), request.path_params["name"]
        require_scope(context.caller, "predict", name)
        context.facts.update(model=name, why="scope predict")
        body = await read_body(request, MOST_BODY_BYTES, do="send fewer rows per request")
        request_id = request.headers.get("x-request-id", "")[:_MOST_ID]
        try:
            with fail_after(patience.total_seconds()):
                return await to_thread.run_sync(
                    lambda: JSONResponse(predictions.answer(name, request_of(body), request_id)),
                    abandon_on_cancel=True,
                )
        except TimeoutError as error:
            got = f"more than {patience.total_seconds():g} s"
            raise OverloadError("the prediction takes too long", got=got, do="send fewer rows, or try later") from error

    return [Route("/v1/models/{name}/predict", predict_rows, methods=["POST"])]
