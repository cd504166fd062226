"""Files that are whole or absent, whatever kills the process that writes them."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_or_absent(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path``, of the same suffix, to write to; without an error it takes the place of ``path``."""
    path = Path(path)
    beside = path.with_name(f".{os.getpid()}-{threading.get_ident()}.{path.name}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def refuse_source(out: str | Path, source: str | Path) -> None:
    """ValueError where a file that is to be written is the one that it is made from."""
    if Path(out).resolve() == Path(source).resolve():
        raise ValueError(f"{out}: this is the source itself, which would be lost; give another name to write to.")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with whole_or_absent(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON, whole or not at all; NaN is not JSON and raises ValueError."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
