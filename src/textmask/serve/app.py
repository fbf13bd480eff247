"""The HTTP application: routes over the service. This is the only file that uses FastAPI.

Upload an image once and segment any number of prompts: masks as PNG, run lengths, overlay or DICOM. Folders are
segmented by background jobs. The names of the route functions are the operation ids of the OpenAPI description, which
generated clients call: they stay as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Query, Request, Response, UploadFile
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from starlette.exceptions import HTTPException
from starlette.routing import Route

from textmask import __version__
from textmask.data.phantom import PhantomConfig, make_phantom
from textmask.io.images import png_bytes
from textmask.serve.bodies import job_body
from textmask.serve.guard import OPEN_PATHS, Guard
from textmask.serve.problems import PROBLEM_TYPE, STATUSES, Problem, problem_body
from textmask.serve.schemas import (
    CapabilitiesBody,
    HealthBody,
    ImageBody,
    JobBody,
    JobRequest,
    MaskBody,
    MaskQuery,
    MaskRequest,
    ProblemBody,
)
from textmask.serve.segmenter import Segmenter
from textmask.serve.service import USE, Service, ServiceOptions
from textmask.serve.store import ID_PATTERN
from textmask.serve.telemetry import TEXT

STATIC = Path(__file__).parent / "static"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
Id = Annotated[str, PathParameter(pattern=ID_PATTERN, description="Id of the image or the job.")]
Index = Annotated[
    int, Query(ge=0, le=100_000, description="Slice or frame of a file that contains several.")
]
Slice = Annotated[
    Annotated[int, Field(ge=0, le=100_000)] | SkipJsonSchema[None],
    Query(description="Slice or frame; default: the one chosen with the upload."),
]
Parameters = Annotated[MaskQuery, Query()]
BINARY = {"type": "string", "format": "binary"}
TAGS = [
    {"name": "images", "description": "Upload an image once, for any number of prompts."},
    {"name": "masks", "description": "Segment an uploaded image by a prompt or a report."},
    {"name": "jobs", "description": "Segment a folder on the machine of the service."},
    {"name": "operation", "description": "What the service is, and whether it is running."},
]
ALWAYS = (400, 401, 403, 422)  # statuses of every route


class Served(Guard):
    """The guarded ASGI application and the service behind it."""

    service: Service


def create_app(segmenter: Segmenter, options: ServiceOptions | None = None) -> Served:
    """Create the ASGI application for a trained run.

    Args:
        segmenter: the run.
        options: of the service; None means the defaults.

    Raises:
        ConfigError: the audit log cannot be opened.
    """
    options = options or ServiceOptions()
    service = Service(segmenter, options)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        expiring = asyncio.create_task(_expire(service))
        yield
        expiring.cancel()
        await asyncio.to_thread(service.stop)

    app = FastAPI(
        title="textmask",
        version=__version__,
        description=f"Text-guided medical image segmentation: a mask from an image and a prompt. {USE}",
        lifespan=lifespan,
        docs_url=None,  # the page would load scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        openapi_tags=TAGS,
        generate_unique_id_function=lambda route: route.name,
    )

    _handle_errors(app)
    _add_images(app, service)
    _add_masks(app, service)
    _add_jobs(app, service)
    _add_operation(app, service)
    _add_page(app)
    app.openapi = lambda: _openapi(app, options.token is not None)  # type: ignore[method-assign]

    served = Served(
        app, options.limits, (*LOOPBACK, *options.hosts), options.token, service.metrics.request
    )
    served.service = service
    return served


def _add_images(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/images", status_code=201, tags=["images"], responses=_may(408, 413, 415, 429, 503)
    )
    async def upload_image(
        request: Request,
        file: Annotated[UploadFile, File(description="The image file.")],
        index: Index = 0,
    ) -> ImageBody:
        """Upload an image once, for any number of prompts."""
        return await service.open_image(file.file, index, _who(request))

    @app.delete("/v1/images/{id}", status_code=204, tags=["images"], responses=_may(404, 503))
    async def delete_image(request: Request, id: Id) -> Response:
        """Remove an image."""
        service.forget(id, _who(request))
        return Response(status_code=204)

    @app.get(
        "/v1/images/{id}/picture.png",
        tags=["images"],
        response_class=Response,
        responses=_file("image/png", 404, 429, 503),
    )
    async def get_picture(id: Id, index: Slice = None) -> Response:
        """The image as 8-bit PNG, before it is resized for the network."""
        await service.decode(id, index)
        data = await service.readers.run(lambda: service.picture(id, index))
        return Response(data, media_type="image/png")


def _add_masks(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/images/{id}/masks",
        tags=["masks"],
        response_model_exclude_unset=True,
        responses=_may(404, 408, 413, 415, 429, 503),
    )
    async def segment_image(request: Request, id: Id, wanted: MaskRequest) -> MaskBody:
        """Segment a prompt: the mask, what the parser understood, and warnings."""
        await service.decode(id, wanted.index)
        return await service.workers.run(lambda: service.mask_body(id, wanted, _who(request)))

    async def one_part(
        request: Request, id: str, wanted: MaskQuery, part: str, media_type: str
    ) -> Response:
        service.image(id)
        data = await service.workers.run(lambda: service.mask_file(id, wanted, part, _who(request)))
        return Response(data, media_type=media_type)

    @app.get(
        "/v1/images/{id}/mask.png",
        tags=["masks"],
        response_class=Response,
        responses=_file("image/png", 404, 429, 503),
    )
    async def get_mask_png(request: Request, id: Id, wanted: Parameters) -> Response:
        """The mask as PNG of 0 and 255, in the size of the image."""
        return await one_part(request, id, wanted, "png", "image/png")

    @app.get(
        "/v1/images/{id}/overlay.png",
        tags=["masks"],
        response_class=Response,
        responses=_file("image/png", 404, 429, 503),
    )
    async def get_overlay_png(request: Request, id: Id, wanted: Parameters) -> Response:
        """The image with the mask tinted."""
        return await one_part(request, id, wanted, "overlay", "image/png")

    @app.get(
        "/v1/images/{id}/mask.dcm",
        tags=["masks"],
        response_class=Response,
        responses=_file("application/dicom", 404, 415, 429, 503),
    )
    async def get_mask_dicom(request: Request, id: Id, wanted: Parameters) -> Response:
        """The mask as DICOM SEG, only for uploaded DICOM images."""
        return await one_part(request, id, wanted, "seg", "application/dicom")


def _add_jobs(app: FastAPI, service: Service) -> None:
    @app.post("/v1/jobs", status_code=202, tags=["jobs"], responses=_may(404, 408, 413, 429, 503))
    async def create_job(request: Request, wanted: JobRequest) -> JobBody:
        """Segment a folder below the jobs folder in the background."""
        return job_body(await asyncio.to_thread(service.add_job, wanted, _who(request)))

    @app.get("/v1/jobs/{id}", tags=["jobs"], responses=_may(404))
    async def get_job(id: Id) -> JobBody:
        """Progress of a job."""
        return job_body(service.job(id))

    @app.delete("/v1/jobs/{id}", status_code=204, tags=["jobs"], responses=_may(404))
    async def cancel_job(id: Id) -> Response:
        """Cancel and remove a job; results that are already written stay."""
        service.job(id)
        service.jobs.remove(id)
        return Response(status_code=204)


def _add_operation(app: FastAPI, service: Service) -> None:
    @app.get("/v1/capabilities", tags=["operation"], responses=_may())
    async def get_capabilities() -> CapabilitiesBody:
        """The model of this service and what it accepts."""
        return service.capabilities()

    @app.get("/healthz", tags=["operation"], responses=_may())
    async def get_health() -> HealthBody:
        """Whether the process is running."""
        return HealthBody(status="ok")

    @app.get("/readyz", tags=["operation"], responses=_may(503))
    async def get_readiness() -> HealthBody:
        """Whether the service accepts prompts."""
        if not service.ready:
            raise Problem(
                503, "not_ready", "the model is still warming up, or the service is stopping."
            )
        return HealthBody(status="ready")

    @app.get("/metrics", tags=["operation"], response_class=Response, responses=_file("text/plain"))
    async def get_metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(service.metrics.text(), headers={"Content-Type": TEXT})


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", media_type="text/html")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> FileResponse:
        return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")

    @app.get("/example.png", include_in_schema=False)
    async def example() -> Response:
        return Response(await asyncio.to_thread(_example_png), media_type="image/png")

    app.mount("/static", StaticFiles(directory=STATIC), name="static")


@cache
def _example_png() -> bytes:
    """A synthetic radiograph, so that the page can be tried without an image."""
    return png_bytes(make_phantom(PhantomConfig(size=(448, 448)), seed=1).image)


def _handle_errors(app: FastAPI) -> None:
    def response(status: int, code: str, message: str, headers: Any = None) -> JSONResponse:
        return JSONResponse(problem_body(status, code, message), status, headers, PROBLEM_TYPE)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error, Problem):
            return response(error.status_code, error.code, error.message, error.headers)
        codes = {400: "malformed", 404: "no_such_route", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "refused")
        headers = {"Allow": _allowed(app, request)} if error.status_code == 405 else error.headers
        return response(error.status_code, code, str(error.detail), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # the values are not repeated, because they may identify a patient
        found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:10]]
        return response(422, "invalid", "; ".join(found))

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        kind = type(error).__name__
        return response(500, "internal", f"unexpected {kind}; see the log of the service.")


def _allowed(app: FastAPI, request: Request) -> str:
    """Methods of all routes of a path."""
    methods: set[str] = set()
    for route in app.routes:
        if isinstance(route, Route) and route.path_regex.match(request.url.path):
            methods.update(route.methods or ())
    if "GET" in methods:
        methods.add("HEAD")  # see Guard
    return ", ".join(sorted(methods))


def _may(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented error responses of a route."""
    schema = {"$ref": "#/components/schemas/ProblemBody"}
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*ALWAYS, *statuses}):
        found[status] = {
            "description": STATUSES[status],
            "content": {PROBLEM_TYPE: {"schema": schema}},
        }
        if status == 429:
            found[status]["headers"] = {
                "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}
            }
    return found


def _file(media_type: str, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documented responses of a route that returns a file."""
    schema = {"type": "string"} if media_type == "text/plain" else BINARY
    return {
        200: {"description": "The file.", "content": {media_type: {"schema": schema}}},
        **_may(*statuses),
    }


def _openapi(app: FastAPI, token: bool) -> dict[str, Any]:
    """The OpenAPI description, with the schema of error responses and, if needed, the token."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        parts = schema.setdefault("components", {}).setdefault("schemas", {})
        parts["ProblemBody"] = ProblemBody.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            parts.pop(name, None)
        # generated clients upload a file only under this older name of "binary"
        parts["Body_upload_image"]["properties"]["file"].update(BINARY)

        if token:
            schema["components"]["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"}
            }
            for path, methods in schema["paths"].items():
                for operation in methods.values():
                    operation["security"] = [] if path in OPEN_PATHS else [{"bearer": []}]
    return app.openapi_schema or {}


async def _expire(service: Service) -> None:
    """Evict unused images even if there are no requests."""
    while True:
        await asyncio.sleep(30)
        service.images.expire()


def _who(request: Request) -> str:
    return request.client.host if request.client else "unknown"
