"""How the C library hands out memory where batches and activations are made on a CPU."""

import ctypes
import sys

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:  # whether the C library did as it was told
    """Have glibc keep large freed blocks for the next batch, instead of giving them back and asking anew each time.

    The system clears every page that it hands out: that took a fifth of a training step of `mura_cnn` on two cores, and
    could take five times as long as gathering a batch. The process then stays as large as its largest batch made it.
    Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # Older ones allow no more than 32 MiB, which is most of the gain at small sizes.
    kept = mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_THRESHOLD, 2**25)
    return bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) and kept)
