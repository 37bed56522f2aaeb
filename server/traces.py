"""Where an error came from, as far as people need it: frames of code by file, line and function, without values, and what its causes said."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from services.errors import GalleyError

ROOT = Path(__file__).parent.parent
MOST_FRAMES = 20
MOST_CAUSES = 3
LONGEST_MESSAGE = 200
_FOLDERS = (str(ROOT), *map(sysconfig.get_path, ("purelib", "platlib", "stdlib")))
# What every run passes through on its way to its type's code.
_OWN_WAY = ("server/executor.py", "services/task_context.py")


def of(error: BaseException) -> list[str]:
    """Return where *error* was raised, outermost call first, then what caused it; nothing for an error made for people."""
    if isinstance(error, GalleyError):
        return []
    told = _frames(error)
    for cause in _causes(error):
        told.append(f"caused by {type(cause).__name__}: {_message(cause)}")
        told.extend(_frames(cause))
    return told


def _frames(error: BaseException) -> list[str]:
    frames = [
        f"{_place(frame.f_code.co_filename)}:{line} in {frame.f_code.co_qualname}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    while len(frames) > 1 and frames[0].startswith(_OWN_WAY):
        del frames[0]
    half = MOST_FRAMES // 2
    if len(frames) > MOST_FRAMES:
        frames[half:-half] = [f"… {len(frames) - 2 * half} more"]
    return frames


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = {id(error)}
    for _ in range(MOST_CAUSES):
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or id(cause) in seen:
            return
        yield cause
        seen.add(id(cause))
        error = cause


def _place(path: str) -> str:
    """Return a path as it is known inside the project, a package or Python; nobody needs the folders of the machine."""
    inside = [folder for folder in _FOLDERS if path.startswith(folder + "/")]
    return path[len(max(inside, key=len)) + 1 :] if inside else Path(path).name


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the error's own code
        return ""
    return text.replace("\x00", "").encode(errors="replace").decode()[:LONGEST_MESSAGE]
