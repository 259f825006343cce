"""What may become a task, and what it is called.

A task's name is the import path of its function, because stock RQ imports what the
name says. So only what an import can reach is accepted: no lambda, no local function,
no method. Everything refused here says why and what to do instead.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from taskq.errors import ConfigError

Mode = Literal["asyncio", "thread", "generator", "process"]

_MAIN = ("__main__", "__mp_main__")
"""The program itself, and what multiprocessing's spawned children call it."""

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
"""A dotted path of identifiers."""

_ITERATORS = (
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
)

_ITERATOR_TEXT = re.compile(r"^(?:\w+\.)*(?:Async)?(?:Iterator|Generator)\b")


def check_function(fn: object) -> types.FunctionType | Callable[..., Any]:
    """Return the function that `fn` is, a staticmethod taken apart.

    Raises:
        ConfigError: no function that an import could find again.
    """
    if isinstance(fn, staticmethod):
        fn = fn.__func__
    reason = _unreachable(fn)
    if reason:
        raise ConfigError(
            f"{_shown(fn)} cannot be a task: it {reason}. A worker finds a task by importing it: "
            "define a function at the top of a module."
        )
    assert callable(fn)
    if reason := _iterates(fn):
        raise ConfigError(f"{_shown(fn)} cannot be a task: it {reason}")
    return fn


def _unreachable(fn: object) -> str:
    """Why no import could find `fn` again; "" where one can."""
    if isinstance(fn, (classmethod, types.MethodType)):
        return "is a method"
    if isinstance(fn, type):
        return "is a class"
    qualname = _qualname(fn)
    if isinstance(fn, functools.partial) or not callable(fn) or not qualname:
        return f"is no function but an object of type {type(fn).__name__}"
    if "<lambda>" in qualname:
        return "is a lambda"
    if "<locals>" in qualname:
        return "is defined inside another function (a decorator without functools.wraps?)"
    if "." in qualname and _first_parameter(fn) in ("self", "cls"):
        return "is a method"
    return ""


def _iterates(fn: Callable[..., Any]) -> str:
    """Why the result of `fn` could not be stored: it is an iterator; "" where it is none."""
    if yields(fn):
        return ""
    returned = getattr(fn, "__annotations__", {}).get("return")
    if isinstance(returned, str):
        iterates = _ITERATOR_TEXT.match(returned) is not None
    else:
        iterates = (typing.get_origin(returned) or returned) in _ITERATORS
    if iterates:
        return (
            "is annotated as returning an iterator, which no result can hold. "
            "Return a list, or yield the items: then it is a generator task."
        )
    return ""


def yields(fn: Callable[..., Any]) -> bool:
    """Whether `fn` is a generator function, `def` or `async def`."""
    return inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)


def mode_of(fn: Callable[..., Any], wanted: str | None) -> Mode:
    """Return how a worker runs `fn`: what its author wants, else by looking at it.

    Raises:
        ConfigError: a mode that does not fit, or that this version does not have.
    """
    is_async = inspect.iscoroutinefunction(fn)
    if yields(fn):
        if wanted in (None, "generator"):
            return "generator"
        raise ConfigError(
            f"{getattr(fn, '__qualname__', fn)}: it yields, so it runs as a generator task; "
            f"leave mode={wanted!r} out."
        )
    if wanted is None:
        return "asyncio" if is_async else "thread"
    name = getattr(fn, "__qualname__", repr(fn))
    if wanted == "process" and is_async:
        raise ConfigError(
            f"{name}: mode='process' runs a plain function in a child process, and this is an "
            "async def. Leave mode out, or make it a plain def."
        )
    if wanted == "generator":
        raise ConfigError(
            f"{name}: mode='generator' is for functions with a yield, and this has none. "
            "Leave mode out."
        )
    if wanted in ("thread", "process") and not is_async:
        return "thread" if wanted == "thread" else "process"
    if wanted == "asyncio":
        return "asyncio"  # a plain function may return an awaitable
    if wanted == "thread":
        raise ConfigError(f"{name}: an async def runs on the event loop; leave mode='thread' out.")
    raise ConfigError(f"{name}: mode={wanted!r}: must be 'asyncio', 'thread' or 'process'.")


def module_name(module: str) -> str:
    """Return the name under which a worker imports `module`.

    The program itself is called `__main__` while it runs; a worker imports the same
    file by its stem (`python hello.py`: "hello") or by the path that was given
    (`python -m shop.queue`: "shop.queue"). An interactive session, and a program whose
    file is no module (`python tool`), stay "__main__": no worker can import them.
    """
    if module not in _MAIN:
        return module
    main = sys.modules.get(module)
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in _MAIN:
        return str(spec.name)
    file = Path(getattr(main, "__file__", None) or "")
    return file.stem if file.suffix == ".py" and file.stem.isidentifier() else "__main__"


def check_name(name: object, what: str = "name") -> str:
    """Return `name` if it is a dotted path.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise ConfigError(
        f"{what}={name!r}: a task's name is a dotted path, like 'shop.images.thumbnail'."
    )


def body_of(fn: Callable[..., Any]) -> types.CodeType | None:
    """Return the code of the module body that is defining `fn` now, if one is.

    Two functions of one name in the same run of a module are a mistake; the same name
    again in another run is a reload, or a notebook's cell run twice. The code object
    tells them apart: each run of a body has its own.
    """
    namespace = getattr(fn, "__globals__", None)
    frame: types.FrameType | None = sys._getframe(1)  # noqa: SLF001 - inspect.stack reads files
    while frame is not None:
        if frame.f_globals is namespace and frame.f_code.co_name == "<module>":
            return frame.f_code
        frame = frame.f_back
    return None


def _shown(fn: object) -> str:
    return _qualname(fn) or repr(fn)


def _qualname(fn: object) -> str:
    """The name of `fn` within its module; "" where it has no module or no name of its own."""
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    return name if isinstance(name, str) and isinstance(module, str) and module else ""


def _first_parameter(fn: Callable[..., Any]) -> str | None:
    try:
        return next(iter(inspect.signature(fn).parameters), None)
    except ValueError:  # some functions written in C
        return None
