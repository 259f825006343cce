"""Each guarantee names the tests that hold it, and these exist."""

from __future__ import annotations

import ast
import re

from tests.support import ROOT

PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_each_guarantee_has_tests():
    sections = re.split(r"^### ", PAGE.partition("## Measured")[0], flags=re.MULTILINE)[1:]
    assert [one.split()[0] for one in sections] == [f"G{n}" for n in range(1, 15)]
    for section in sections:
        assert NAMED.search(section), section.splitlines()[0]


def test_the_named_tests_exist():
    missing = []
    for path, name in set(NAMED.findall(PAGE)):
        file = ROOT / path
        tree = ast.parse(file.read_text(encoding="utf-8")) if file.exists() else ast.Module([], [])
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        if not any(isinstance(node, functions) and node.name == name for node in tree.body):
            missing.append(f"{path}::{name}")
    assert missing == []
