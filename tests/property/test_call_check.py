"""The prepared check and Python itself must agree on every call.

Python itself: `Signature.bind` was wrong before 3.12 on `f(a=0, /, **rest)` with `a=`.
"""

from __future__ import annotations

from inspect import Parameter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskq.errors import InvalidArguments
from taskq.signature import CallCheck

NAMES = ("a", "b", "c", "d", "e")
KINDS = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


@st.composite
def sources(draw: st.DrawFn) -> str:
    """The parameters of a function, as source text."""
    count = draw(st.integers(0, len(NAMES)))
    names = list(draw(st.permutations(NAMES)))[:count]
    kinds = sorted(draw(st.lists(st.sampled_from(KINDS), min_size=count, max_size=count)))
    parts: dict[Parameter, list[str]] = {kind: [] for kind in KINDS}  # type: ignore[misc]
    has_default = False
    for name, kind in zip(names, kinds, strict=True):
        wanted = draw(st.booleans())
        if kind is not Parameter.KEYWORD_ONLY:  # after a default, every positional has one
            has_default = wanted = wanted or has_default
        parts[kind].append(f"{name}=0" if wanted else name)  # type: ignore[index]
    only, either, by_name = parts.values()
    text = [*only, *(["/"] if only else []), *either]
    if draw(st.booleans()):
        text.append("*more")
    elif by_name:
        text.append("*")
    return ", ".join([*text, *by_name, *(["**rest"] if draw(st.booleans()) else [])])


CALLS = st.tuples(
    st.lists(st.just(1), max_size=6).map(tuple),
    st.dictionaries(st.sampled_from((*NAMES, "other", "more", "rest")), st.just(1)),
)


@settings(max_examples=300)
@given(source=sources(), call=CALLS)
def test_the_check_agrees_with_python(source, call):
    namespace: dict[str, object] = {}
    exec(f"def fn({source}): pass", namespace)
    fn = namespace["fn"]
    assert callable(fn)
    args, kwargs = call
    checker = CallCheck(fn, "fn")
    try:
        fn(*args, **kwargs)
    except TypeError:
        with pytest.raises(InvalidArguments, match="Nothing was enqueued") as caught:
            checker.check(args, kwargs)
        assert "argument ." not in str(caught.value)  # there is always a reason
    else:
        checker.check(args, kwargs)
