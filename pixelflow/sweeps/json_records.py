"""The JSON files of a sweep as typed records: a damaged file is named, with what is wrong in it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pixelflow.errors import UserError

REPEAT = "repeat the sweep's command"


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_record(path: Path, kind: Any, remedy: str = REPEAT) -> Any:
    """Reads a JSON file as a value of the type `kind`, such as a dataclass.

    Args:
        path: The file.
        kind: The type.
        remedy: What to do about a damaged file.

    Raises:
        UserError: The file is damaged: it is no JSON, or it does not hold such a value.
        FileNotFoundError: There is no such file.
    """
    try:
        return _adapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"{key}={first['input']!r:.100}: " if key else ""
        raise UserError(f"{path} is damaged: {where}{first['msg']}; {remedy}") from None
