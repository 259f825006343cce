"""Models from plain data, by annotation: dataclasses, named tuples, Enums, pydantic models.

JSON carries a model as what it contains. The annotation of a parameter, or of a result,
names the class, so nothing that a payload says is ever imported or called. What an
annotation says nothing about stays as it was decoded, and so does a value that is not of
the form that the model is written in: annotations are no checks.

In a union the first member that fits makes the value; a union that also names the plain
type (`User | dict`) leaves it as it is.
"""

from __future__ import annotations

import builtins
import collections.abc
import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from taskq.errors import PayloadError

Rebuild = Callable[[Any], Any]

_SEQUENCES = frozenset(
    {
        list,
        set,
        frozenset,
        collections.abc.Sequence,
        collections.abc.MutableSequence,
        collections.abc.Iterable,
        collections.abc.Collection,
        collections.abc.Set,
        collections.abc.MutableSet,
    }
)
_MAPPINGS = frozenset({dict, collections.abc.Mapping, collections.abc.MutableMapping})
_COLLECTED = (list, tuple, set, frozenset)


def rebuilder(annotation: Any) -> Rebuild | None:
    """Return what turns a decoded value into what `annotation` names.

    Args:
        annotation: resolved (no text), as `typing.get_type_hints` gives it.

    Returns:
        A function that raises PayloadError where the value cannot be what the annotation
        names; None, the usual case, where there is nothing to do.
    """
    return _rebuilder(annotation, {})


def _rebuilder(annotation: Any, known: dict[type, Rebuild]) -> Rebuild | None:
    """See `rebuilder`; `known` holds the classes on the way here, which may refer to themselves."""
    annotation = _bare(annotation)
    origin = typing.get_origin(annotation)
    args = typing.get_args(annotation)
    if origin is typing.Union or origin is types.UnionType:
        return _of_union(args, known)
    if origin in _SEQUENCES:
        return _of_items(_rebuilder(args[0], known))
    if origin in _MAPPINGS:
        return _of_mapping(_rebuilder(args[0], known), _rebuilder(args[1], known))
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return _of_items(_rebuilder(args[0], known))
        return _of_places([_rebuilder(arg, known) for arg in args])
    kind = annotation if origin is None else origin  # Page[User]: what Page says
    return _of_class(kind, known) if isinstance(kind, type) else None


def _bare(annotation: Any) -> Any:
    """The annotation without Annotated, NewType and names for types."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = annotation.__origin__
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # Python 3.12
            annotation = annotation.__value__
        else:
            return annotation


def _of_class(kind: type, known: dict[type, Rebuild]) -> Rebuild | None:
    if kind in known:
        return known[kind]
    if issubclass(kind, Enum):
        return _Member(kind)
    if hasattr(kind, "__pydantic_core_schema__") and hasattr(kind, "model_validate"):
        return _PydanticModel(kind)
    if dataclasses.is_dataclass(kind):
        return _DataClass(kind, known)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _NamedTuple(kind, known)
    return None


def _of_items(item: Rebuild | None) -> Rebuild | None:
    if item is None:
        return None

    def rebuild(value: Any) -> Any:
        kind = type(value)
        return kind([item(one) for one in value]) if kind in _COLLECTED else value

    return rebuild


def _of_mapping(key: Rebuild | None, item: Rebuild | None) -> Rebuild | None:
    if key is None and item is None:
        return None
    of_key, of_item = key or _same, item or _same

    def rebuild(value: Any) -> Any:
        if type(value) is not dict:
            return value
        return {of_key(k): of_item(v) for k, v in value.items()}

    return rebuild


def _of_places(places: list[Rebuild | None]) -> Rebuild | None:
    if not any(places):
        return None
    rebuilders = [place or _same for place in places]

    def rebuild(value: Any) -> Any:
        kind = type(value)
        if kind not in (list, tuple) or len(value) != len(rebuilders):
            return value
        return kind([of(one) for of, one in zip(rebuilders, value)])

    return rebuild


def _of_union(members: tuple[Any, ...], known: dict[type, Rebuild]) -> Rebuild | None:
    rebuilders: list[Rebuild] = []
    plain: list[Any] = []
    for member in members:
        rebuild_one = _rebuilder(member, known)
        if rebuild_one is None:
            plain.append(typing.get_origin(member) or member)
        else:
            rebuilders.append(rebuild_one)
    if not rebuilders or Any in plain or object in plain:
        return None
    # TypedDict and protocols are no types to ask for, but a dict may be meant for one.
    stay = tuple(kind if _can_be_asked(kind) else dict for kind in plain)

    def rebuild(value: Any) -> Any:
        if isinstance(value, stay):
            return value
        failure: PayloadError | None = None
        for one in rebuilders:
            try:
                rebuilt = one(value)
            except PayloadError as error:
                failure = failure or error
            else:
                if rebuilt is not value:
                    return rebuilt
        if failure is not None:
            raise failure
        return value

    return rebuild


def _can_be_asked(kind: Any) -> bool:
    """Tell whether `isinstance` works with `kind`."""
    try:
        isinstance(None, kind)
    except TypeError:
        return False
    return True


def _same(value: Any) -> Any:
    return value


def _hints(kind: type) -> dict[str, Any]:
    """Resolve a class's annotations; one that cannot be (TYPE_CHECKING) costs only itself."""
    try:
        return typing.get_type_hints(kind)
    except Exception:  # noqa: BLE001 - whatever a user's annotation raises
        hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        namespace = vars(sys.modules.get(base.__module__, builtins))
        for name, hint in inspect.get_annotations(base).items():
            alone = types.SimpleNamespace(__annotations__={name: hint})
            try:
                hints |= typing.get_type_hints(alone, globalns=namespace)
            except Exception:  # noqa: BLE001, S112 - see above
                continue
    return hints


def _fields(kind: type, known: Mapping[type, Rebuild]) -> dict[str, Rebuild]:
    """Rebuilders of the fields that need one."""
    found = {}
    for name, hint in _hints(kind).items():
        rebuild = _rebuilder(hint, dict(known))
        if rebuild is not None:
            found[name] = rebuild
    return found


def _failed(kind: type, error: Exception) -> PayloadError:
    reason = str(error)[:500].rstrip(".")
    return PayloadError(f"Cannot make {kind.__name__} from the payload: {reason}.")


class _Member:
    """Makes an Enum's member from its value."""

    def __init__(self, kind: type[Enum]) -> None:
        self._kind = kind

    def __call__(self, value: Any) -> Any:
        if value is None or isinstance(value, self._kind):
            return value
        try:
            return self._kind(value)
        except (ValueError, TypeError, KeyError) as error:  # _missing_ is the user's
            raise _failed(self._kind, error) from error


class _DataClass:
    """Makes a dataclass from a dict of its fields."""

    def __init__(self, kind: type, known: dict[type, Rebuild]) -> None:
        self._kind = kind
        parts: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(kind)
        self._init = {part.name for part in parts if part.init}
        self._later = {part.name for part in parts if not part.init}
        self._rebuilders = _fields(kind, {**known, kind: self})

    def __call__(self, value: Any) -> Any:
        if type(value) is not dict:
            return value
        unknown = value.keys() - self._init - self._later
        if unknown:
            listed = ", ".join(sorted(unknown)[:5])
            raise _failed(self._kind, ValueError(f"it has no field {listed}"))
        content = dict(value)
        for name, rebuild in self._rebuilders.items():
            if name in content:
                content[name] = rebuild(content[name])
        later = {name: content.pop(name) for name in self._later if name in content}
        try:
            made = self._kind(**content)
            for name, one in later.items():
                object.__setattr__(made, name, one)  # also where the class is frozen
        except Exception as error:  # __post_init__ is the user's
            raise _failed(self._kind, error) from error
        return made


class _NamedTuple:
    """Makes a named tuple from a tuple."""

    def __init__(self, kind: Any, known: dict[type, Rebuild]) -> None:
        self._kind = kind
        found = _fields(kind, {**known, kind: self})
        self._rebuilders = [found.get(name, _same) for name in kind._fields]

    def __call__(self, value: Any) -> Any:
        if type(value) is not tuple:
            return value
        if len(value) != len(self._rebuilders):
            expected = len(self._rebuilders)
            raise _failed(self._kind, ValueError(f"it has {expected} fields, not {len(value)}"))
        return self._kind(*(of(one) for of, one in zip(self._rebuilders, value)))


class _PydanticModel:
    """Makes a pydantic model (version 2) from what its model_dump gave."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._is_root = bool(getattr(kind, "__pydantic_root_model__", False))

    def __call__(self, value: Any) -> Any:
        if value is None or isinstance(value, self._kind):
            return value
        if type(value) is not dict and not self._is_root:
            return value
        try:
            return self._kind.model_validate(value)
        except Exception as error:  # validators are the user's
            raise _failed(self._kind, error) from error
