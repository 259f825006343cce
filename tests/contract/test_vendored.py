"""Files of others in the package: unchanged, with their licences."""

from __future__ import annotations

import hashlib
import re

from tests.support import ROOT

STATIC = ROOT / "dashboard" / "static"
OURS = {"taskq.css", "taskq.js", "icon.svg", "VENDORED.txt"}


def test_each_is_listed_with_its_hash():
    text = (STATIC / "VENDORED.txt").read_text()
    listed = dict(re.findall(r"^(\S+)\n(?: .*\n)* +sha256 (\w+)$", text, re.MULTILINE))
    files = {path.name: path for path in STATIC.iterdir() if path.name not in OURS}
    assert set(files) == set(listed)
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name
    assert text.count("Licence of ") == 2


def test_ours_ask_nobody_else():
    for name in ("taskq.css", "taskq.js", "icon.svg"):
        text = (STATIC / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"^\s*//.*$|(?<=[;{ ])//.*$", "", text, flags=re.MULTILINE), name
