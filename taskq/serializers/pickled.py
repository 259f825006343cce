"""Pickle, for those who ask for it: any Python object, and any code of who can write.

Never reached unless "pickle" is accepted.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from taskq.errors import PayloadError
from taskq.serializers.unfit import Unfit, article

FIRST_BYTE = 0x80  # of protocol 2 and later; RQ writes the highest


def encode(value: Any) -> bytes:
    """Pickle one value.

    Raises:
        Unfit: it cannot be pickled.
    """
    try:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # objects take part in being pickled and may raise anything
        raise _unfit(error, value, ()) from error


def encode_call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Pickle RQ's four parts of a call: name, no instance, arguments, keyword arguments.

    Raises:
        Unfit: an argument cannot be pickled; its path is the index or name.
    """
    try:
        return pickle.dumps(
            (name, None, tuple(args), dict(kwargs)), protocol=pickle.HIGHEST_PROTOCOL
        )
    except Exception as error:  # see above
        for where, value in [*enumerate(args), *kwargs.items()]:
            try:
                pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
            except Exception as own:
                raise _unfit(own, value, (where,)) from own
        raise _unfit(error, args, ()) from error


def decode(data: bytes) -> Any:
    """Unpickle: this may run code.

    Raises:
        PayloadError: whatever went wrong in it.
    """
    try:
        return pickle.loads(data)  # noqa: S301  # only where the app accepts pickle
    except Exception as error:  # unpickling runs constructors, which may raise anything
        raise PayloadError(
            f"it cannot be unpickled: {type(error).__name__}: {str(error)[:300]}."
        ) from error


def _unfit(error: Exception, value: object, path: tuple[Any, ...]) -> Unfit:
    reason = f"{type(error).__name__}: {str(error)[:300]}".rstrip(".")
    return Unfit(
        path, f"is {article(value)}, which cannot be pickled ({reason}). {{Pass}} an id instead."
    )
