"""The app that the files of this folder run; yours is named in its place."""

from taskq import Every, TaskQ

queue = TaskQ()  # TASKQ_REDIS_URL says where


@queue.task(timeout=30)
def thumbnail(path: str, size: int = 256) -> str:
    return f"{path}@{size}"


@queue.task(queue="high")
async def mail(to: str) -> None: ...


@queue.task
def sweep() -> None: ...


queue.schedule("sweep", sweep.call(), Every(seconds=3600))
