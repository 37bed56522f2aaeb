"""Passwords: Argon2id, in threads of their own so that the event loop goes on (one hash takes about 100 ms and 64 MiB)."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from services.errors import Fault, Invalid

MIN_LENGTH, MAX_LENGTH = 8, 256  # characters
_HASHER = PasswordHasher()  # the first recommendation of RFC 9106 for little memory
_THREADS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="argon2")
# Checked for users that do not exist, so that they take as long as those that do.
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$2eRduCCVQvErQ4CENoYc2g$THGSAm5z0kX1n4F2k66LQQlcbNPqc4/1JdCd5HBeTvA"


def check_new(password: str) -> None:
    """Raises: Invalid when *password* is too short or too long to become one."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        message = f"must have {MIN_LENGTH} to {MAX_LENGTH} characters"
        raise Invalid(f"the password {message}", faults=(Fault("/password", message),))


async def hash_password(password: str) -> str:
    """Return the Argon2id hash of *password*, with its salt and parameters."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, _HASHER.hash, _bytes(password))


async def matches(stored: str | None, password: str) -> bool:
    """Whether *password* is the one in *stored*; takes as long when there is no such user (None)."""
    if len(password) > MAX_LENGTH:
        return False
    right = await asyncio.get_running_loop().run_in_executor(_THREADS, _verify, stored or _NOBODY, password)
    return right and stored is not None


def _verify(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, _bytes(password))
    except (VerificationError, InvalidHashError):
        return False


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")
