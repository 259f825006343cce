"""Exceptions as dotted names: those that `Retry(on=...)` names, and those that were raised.

They are matched by name against the classes that an exception inherits from. Nothing is
imported.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Sequence

from taskq.errors import ConfigError

ExceptionRef = type[BaseException] | str


def class_names(kind: type[BaseException]) -> list[str]:
    """Dotted names of an exception's class and of all that it inherits from, nearest first.

    Also of mixins that are no exceptions themselves: a policy may name one.
    """
    return [_dotted(one) for one in kind.__mro__ if one is not object]


def _dotted(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def given_names(setting: str, given: object) -> tuple[str, ...]:
    """Dotted names for exception classes, one or several.

    Raises:
        TypeError: something that is neither a class nor a text.
        ConfigError: a text that is no dotted name, or no built-in exception.
    """
    if isinstance(given, (str, type)):
        given = (given,)
    if not isinstance(given, Sequence):
        raise TypeError(f"Retry: {setting} is {given!r}: exception classes or names are allowed.")
    return tuple(_name(setting, one) for one in given)


def _name(setting: str, given: object) -> str:
    if isinstance(given, type) and issubclass(given, BaseException):
        return _dotted(given)
    if not isinstance(given, str):
        raise TypeError(
            f"Retry: {setting} has {given!r}: an exception class or a dotted name is allowed."
        )
    if not all(part.isidentifier() or part == "<locals>" for part in given.split(".")):
        raise ConfigError(f"Retry: {setting} has {given!r}, which is no dotted name.")
    module, _, name = given.rpartition(".")
    # Names that other names stand for (IOError, asyncio.TimeoutError) are followed where
    # the module is there anyway.
    loaded = sys.modules.get(module) if module else builtins
    found = getattr(loaded, name, None)
    if isinstance(found, type) and issubclass(found, BaseException):
        return _dotted(found)
    if not module:
        raise ConfigError(
            f"Retry: {setting} has {given!r}, which is no built-in exception: write the class, "
            f'or its dotted name ("package.module.{given}").'
        )
    return given


def is_among(found: Sequence[str], wanted: Sequence[str]) -> bool:
    """Tell whether one of the classes found is wanted.

    `requests.ConnectionError` also means `requests.exceptions.ConnectionError`: packages
    offer their exceptions further up than they define them.
    """
    for want in wanted:
        if want in found:
            return True
        package, _, name = want.rpartition(".")
        start, end = f"{package}.", f".{name}"
        if any(one.startswith(start) and one.endswith(end) for one in found):
            return True
    return False
