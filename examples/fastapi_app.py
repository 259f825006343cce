"""FastAPI: enqueue and wait without blocking the event loop.

pip install "taskq[worker]" fastapi uvicorn
uvicorn examples.fastapi_app:app            # and: taskq worker examples/fastapi_app.py:queue
curl -X POST 'localhost:8000/thumbnails?path=a.png'
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException

from taskq import JobNotFound, TaskQ

queue = TaskQ()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with queue:  # closes its connections at the end
        yield


app = FastAPI(lifespan=lifespan)


@queue.task
async def thumbnail(path: str, size: int = 256) -> str:
    return f"{path} at {size} px"


@app.post("/thumbnails", status_code=202)
async def start(path: str, size: int = 256) -> dict[str, str]:
    handle = await thumbnail.adelay(path, size=size)
    return {"job": handle.id}


@app.get("/thumbnails/{job_id}")
async def look(job_id: str) -> dict[str, str | None]:
    handle = thumbnail.handle(job_id)
    try:
        status = await handle.astatus()
    except JobNotFound:
        raise HTTPException(404, "no such job") from None
    return {"status": status, "result": await handle if status == "finished" else None}


@app.post("/thumbnails/now")
async def now(path: str) -> dict[str, str]:
    """Wait for it; thousands may."""
    return {"result": await (await thumbnail.adelay(path)).aresult(timeout=10)}


@app.post("/thumbnails/sync")
def sync(path: str) -> dict[str, str]:
    """The same in a plain function, which FastAPI runs in a thread."""
    return {"result": thumbnail.delay(path).result(timeout=10)}
