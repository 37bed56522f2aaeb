"""Run a program as another user. Called as `python -I -S unprivileged.py UID GID CAPABILITY PROGRAM ARGUMENT …`.

PostgreSQL refuses to run as root, so that embedded.py starts it through this file when Galley itself runs as root. With the
capability `search` the program may also pass through folders that are closed to its user (a clone in /root, say): no
folder's permissions are changed, and what it may write stays what its user may write. With `none` it gets nothing.

It is a script, not a module: it imports nothing of ours, because it runs once per start and gives way to PROGRAM.
"""

from __future__ import annotations

import ctypes
import os
import sys

CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def become(uid: int, gid: int, *, search: bool) -> None:
    """Give up root for good; with `search`, keep the one right to pass through and read any folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    if search:
        _check(libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if search:
        bit = 1 << CAP_DAC_READ_SEARCH
        sets = (_Sets * 2)(_Sets(bit, bit, bit), _Sets(0, 0, 0))
        _check(libc.capset(ctypes.byref(_Header(CAPABILITY_VERSION_3, 0)), sets))
        _check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main(arguments: list[str]) -> None:
    """Change user, then become the program. Exit code 77: this system does not allow it."""
    uid, gid, capability, program = int(arguments[0]), int(arguments[1]), arguments[2], arguments[3]
    os.chdir("/")
    try:
        become(uid, gid, search=capability == "search")
        os.execv(program, arguments[3:])  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        sys.exit(77)


if __name__ == "__main__":
    main(sys.argv[1:])
