from __future__ import annotations

import pytest

from taskq.terminal import safe, safe_line


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\x07\x00b\x7f", "a\\x07\\x00b\\x7f"),
        ("\x9b2J", "\\x9b2J"),
        ("carriage\rreturn", "carriage\\x0dreturn"),
        ("right\u202eto left", "right\\u202eto left"),
        ("\ud800", "\\ud800"),
        (b"\xff\x1b", "\\xff\\x1b"),
        ("gr\u00fc\u00df dich \u4f60\u597d", "gr\u00fc\u00df dich \u4f60\u597d"),
        (12, "12"),
    ],
)
def test_control_characters_become_visible(hostile, shown):
    assert safe(hostile) == shown


def test_lines_stay_and_go():
    assert safe("a\n\tb") == "a\n\tb"
    assert safe_line("a\n\tb") == "a  b"


def test_a_line_is_cut_at_its_width():
    assert safe_line("abcdef", 4) == "abc…"
    assert safe_line("abcd", 4) == "abcd"


def test_what_it_gives_can_always_be_encoded():
    assert safe("".join(map(chr, range(0x11000)))).encode()
