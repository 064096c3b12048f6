"""How a measured number is printed, wherever it is: decimals, thousands, and no negative zero."""


def fixed(value: float, digits: int, sign: bool = False) -> str:
    """`1,234.50`; with `sign` also `+0.12`. What rounds to zero is zero, of whichever side."""
    return f"{value:{'+' if sign else ''}z,.{digits}f}"
