"""Flask: enqueue in a request, ask for the result in another.

pip install "taskq[worker]" flask
flask --app examples.flask_app run          # and: taskq worker examples/flask_app.py
curl -X POST localhost:5000/thumbnails -d path=a.png
"""

from flask import Flask, request

from taskq import JobNotFound, TaskQ

queue = TaskQ()
app = Flask(__name__)


@queue.task
def thumbnail(path: str, size: int = 256) -> str:
    return f"{path} at {size} px"


@app.post("/thumbnails")
def start():
    handle = thumbnail.delay(request.form["path"], size=int(request.form.get("size", 256)))
    return {"job": handle.id}, 202


@app.get("/thumbnails/<job_id>")
def look(job_id: str):
    handle = thumbnail.handle(job_id)
    try:
        status = handle.status()
    except JobNotFound:
        return {"error": "no such job"}, 404
    return {"status": status, "result": handle.result() if status == "finished" else None}


@app.post("/thumbnails/now")
def now():
    """Wait for it: for short work only, a thread of the server is held meanwhile."""
    return {"result": thumbnail.delay(request.form["path"]).result(timeout=10)}
