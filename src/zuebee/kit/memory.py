"""Memory that was needed for a while goes back to the system."""

import ctypes


def give_back() -> bool:
    """Hand freed memory back to the system; False where the C library does not know how.

    glibc keeps what small pieces leave behind in the middle of its heap until it is asked. That takes some ten
    milliseconds for a hundred megabytes.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    trim(ctypes.c_size_t(0))
    return True
