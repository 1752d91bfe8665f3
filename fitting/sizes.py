"""Few sizes for arrays whose length the data decide: what is compiled for one data set then serves those a little larger."""

from __future__ import annotations


def few(n: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, … 192, 256, and beyond in eighths of powers of two, at most an eighth too large."""
    if n <= 2:
        return n
    power = 1 << (n - 1).bit_length()
    if n <= 256:
        return 3 * power // 4 if n <= 3 * power // 4 else power
    return eighths(n)


def eighths(n: int) -> int:
    """The next multiple of 4 up to 64, of 8 up to 128, of 16 up to 256, …: at most an eighth too large beyond 32."""
    step = max(4, (1 << max(n - 1, 0).bit_length()) // 16)
    return -(-n // step) * step
