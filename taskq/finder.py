"""From what a user types to the app: `package.module:app`, a module, or a file.

A file is imported under its stem (`hello.py`: "hello"), so that its tasks have the
same names here as in `python hello.py`. The current directory can be imported from.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from taskq.app import TaskQ
from taskq.errors import ConfigError


def find_app(target: str | None, command: str = "taskq worker") -> TaskQ:
    """Import the app that `target` names, and give it that name.

    What the module itself raises while it is imported comes through as it is.

    Args:
        target: "package.module:attribute", "package.module", "file.py" or
            "file.py:attribute"; without an attribute the module's only `TaskQ` is meant.
        command: the command that needs the app, for messages.

    Raises:
        ConfigError: no target, nothing to import by it, or no app there; says what to type.
    """
    if not target:
        raise ConfigError(
            f'Which app? "{command}" needs one: "{command} shop.queue:queue", TASKQ_APP, or '
            'app = "..." under [tool.taskq]. For plain RQ jobs: "taskq worker --rq".'
        )
    path, attribute = _split(target)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if path.endswith(".py"):
        module = _import_file(Path(path), target)
    else:
        module = _import_module(path, target)
    app, name = _pick(module, attribute, target)
    app.name = f"{module.__name__}:{name}"
    return app


def _split(target: str) -> tuple[str, str]:
    """Part the attribute off; the colon after a drive's letter on Windows is none of ours."""
    path, colon, attribute = target.rpartition(":")
    if not colon or not attribute or attribute[0] in "/\\":
        return target, ""
    return path, attribute


def _import_module(name: str, target: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f'Cannot import "{target}". It is no name of a module.')
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise  # the module is there; something that it imports is not
        raise ConfigError(f'Cannot import "{target}". {_hint(target, missing)}') from None


def _hint(target: str, missing: str) -> str:
    """Say what was most likely meant."""
    if target.isidentifier():
        return "Queues are chosen with -q."
    parent, _, last = missing.rpartition(".")
    if target == missing and isinstance(getattr(sys.modules.get(parent), last, None), TaskQ):
        return f'There is no module {missing!r}. An app? "{parent}:{last}"'
    return f"There is no module {missing!r} in {Path.cwd()} nor on Python's path."


def _import_file(file: Path, target: str) -> ModuleType:
    if not file.is_file():
        raise ConfigError(f'Cannot import "{target}". There is no file {file} in {Path.cwd()}.')
    name = file.stem
    if not name.isidentifier():
        raise ConfigError(
            f'Cannot import "{target}". {name!r} is no name for a module: rename the file, with '
            "letters, digits and underscores only."
        )
    loaded = sys.modules.get(name)
    if loaded is not None:
        if _is_same_file(loaded, file):
            return loaded
        raise ConfigError(
            f'Cannot import "{target}". The name {name!r} is taken by another module '
            f"({getattr(loaded, '__file__', None) or 'built in'}): rename the file, or give its "
            'dotted name, like "shop.queue".'
        )
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # what it imports beside itself, as `python hello.py` does
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _is_same_file(module: ModuleType, file: Path) -> bool:
    other: str | None = getattr(module, "__file__", None)
    return other is not None and Path(other).exists() and file.samefile(other)


def _pick(module: ModuleType, attribute: str, target: str) -> tuple[TaskQ, str]:
    """Return the app and the name of its attribute."""
    found = dict(_apps(module))
    if attribute:
        value: object = module
        for part in attribute.split("."):
            value = getattr(value, part, None)
        if isinstance(value, TaskQ):
            return value, attribute
        what = "no such name" if value is None else f"a {type(value).__name__} there, no TaskQ"
        apps = f" Apps there: {_choices(module, found)}." if found else ""
        raise ConfigError(f'No app "{target}": {module.__name__} has {what}.{apps}')
    distinct = {id(app): (app, name) for name, app in reversed(found.items())}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    if not distinct:
        raise ConfigError(
            f'No app in "{target}": {module.__name__} has no TaskQ. Add one: queue = TaskQ().'
        )
    raise ConfigError(
        f'Which app? "{target}" has {len(distinct)}: {_choices(module, found)}. Name one.'
    )


def _apps(module: ModuleType) -> Iterator[tuple[str, TaskQ]]:
    for name, value in vars(module).items():
        if isinstance(value, TaskQ):
            yield name, value


def _choices(module: ModuleType, found: dict[str, TaskQ]) -> str:
    return ", ".join(f'"{module.__name__}:{name}"' for name in found)
