"""
Keys pasted as text, one on each line: the value alone, `name,value`, `name: value` or `NAME=value`, with a note after
` #`. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LINES = 10_000
#: A longer line is taken as it is: no key looks like that.
_MAX_LINE_CHARS = 9000
#: As in a file of environment variables.
_ASSIGNED = re.compile(r"(?:export\s+)?(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>[^=].{7,})")
_QUOTES = ('"', "'", "`")


@dataclass(frozen=True, slots=True)
class PastedKey:
    """
    line   -- counted from 1
    value  -- as pasted; it may be no key at all
    name, note -- empty where the line has none
    """

    line: int
    value: str
    name: str = ""
    note: str = ""


def read_paste(text: str) -> list[PastedKey]:
    """The keys of a paste, in its order. Blank lines and lines that are only a note are left out."""
    numbered = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [_read_line(number, line) for number, line in numbered if line and not line.startswith("#")]


def _read_line(number: int, line: str) -> PastedKey:
    if len(line) > _MAX_LINE_CHARS:
        return PastedKey(number, line)
    content, _, note = line.partition(" #")
    content = content.strip().rstrip(",;").rstrip()
    assigned = _ASSIGNED.fullmatch(content)
    name, value = (assigned["name"], assigned["value"]) if assigned else _named(content)
    return PastedKey(number, _bare(value), _bare(name).rstrip(":"), note.strip(" #"))


def _named(content: str) -> tuple[str, str]:
    """
    Name and value, which has no blanks, with a comma, a semicolon, a tab, or a colon and a blank between them; no name
    where they are not so. Looks at each character once or twice: a pattern that tries every place takes minutes for
    a paste that was made for it.
    """
    last = content.split()[-1] if content.strip() else ""
    before = content[: len(content) - len(last)]
    place = max(last.rfind(","), last.rfind(";"))
    if place >= 0:
        name, value = (before + last[:place]).rstrip(), last[place + 1 :]
    else:
        name, value = before.rstrip(), last
        if "\t" not in before[len(name) :]:
            name = name[:-1].rstrip() if name.endswith((",", ";", ":")) else ""
    return (name, value) if name and value else ("", content)


def _bare(text: str) -> str:
    """Without the quotation marks around it."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
        return text[1:-1].strip()
    return text
