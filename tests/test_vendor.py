"""What was taken from other projects is what its list says, and each piece came with its licence."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

VENDOR = Path(__file__).parent.parent / "static" / "vendor"
_LINE = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| `([0-9a-f]{64})` \|$", re.MULTILINE)
LISTED = {path: (version, digest) for path, version, _, digest in _LINE.findall((VENDOR / "README.md").read_text())}


def test_every_file_is_the_one_on_the_list() -> None:
    found = {
        str(path.relative_to(VENDOR)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.suffix in (".js", ".css")
    }
    assert found == {path: digest for path, (_, digest) in LISTED.items()}


def test_every_folder_names_its_version_and_holds_its_licence() -> None:
    for folder in (path for path in VENDOR.iterdir() if path.is_dir()):
        assert any(folder.glob("LICENSE*")), folder
        assert re.search(r"-\d+\.\d+\.\d+$", folder.name), folder
    assert all(version in path.split("/")[0] for path, (version, _) in LISTED.items())
