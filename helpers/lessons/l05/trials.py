"""What lesson 05 tries out: requests that go wrong, and problems of unequal length."""

import random
import warnings
from collections.abc import Callable


def outcome(name: str, request: Callable) -> None:
    """Runs a request and prints how it ends: the error that it raises, or the warning that comes with its answer."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            request()
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[-1]}")
        else:
            print(f"{name}: ok. {said[-1].message if said else ''}")


def questions(count: int) -> list[str]:
    """A sum of ten numbers, three products of two, and so on: always the same."""
    draw, found = random.Random(1), []
    for number in range(count):
        size, sign = (10, "+") if number % 4 == 0 else (2, "×")
        numbers = [str(draw.randint(10, 99)) for _ in range(size)]
        found.append(sign.join(numbers) + "=?")
    return found
