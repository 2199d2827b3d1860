"""The passwords that people choose most, and attackers try first: none of them may be a customer's.

They are the list of zxcvbn (https://github.com/dropbox/zxcvbn), from passwords that leaked: of its 30,000 those that
are long enough to be set at all, some 11,600. OWASP ASVS 5, requirement 6.2.4, asks for 3,000.
"""

import sys
from functools import lru_cache

SHORTEST = 8


def is_common(password: str) -> bool:
    """Whether a password is on the list, whatever its capitals."""
    return password.lower() in _common()


@lru_cache(maxsize=1)
def _common() -> frozenset[str]:
    from zxcvbn import frequency_lists  # noqa: PLC0415 - 12 MB that only a new password needs, and only this once

    common = frozenset(one for one in frequency_lists.FREQUENCY_LISTS["passwords"] if len(one) >= SHORTEST)
    del sys.modules[frequency_lists.__name__]
    return common
