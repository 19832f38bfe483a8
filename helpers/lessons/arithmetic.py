"""Arithmetic problems with their steps, which lessons 06, 09 and A1 share.

They are held out by their unordered operands before any phrasing (:func:`held_out`): a test question never occurred in
other words.
"""

import hashlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass


def held_out(*operands: int) -> bool:
    """Whether a problem with these operands, in any order, is kept from training: one in eight, by SHA-256."""
    digest = hashlib.sha256(" ".join(map(str, sorted(operands))).encode()).digest()
    return digest[0] % 8 == 0


def think_product(a: int, b: int) -> str:
    """Partial products with the digits of ``b``: ``46=40+6``, ``37×40=1480``, ``37×6=222``, ``1480+222=1702``."""
    parts = [int(digit) * 10**place for place, digit in reversed(list(enumerate(reversed(str(b))))) if digit != "0"]
    if len(parts) < 2:
        return f"{a}×{b}={a * b}"
    lines = [f"{b}=" + "+".join(map(str, parts))]
    lines += [f"{a}×{part}={a * part}" for part in parts]
    return "\n".join([*lines, f"{a * parts[0]}+{a * parts[1]}={a * b}"])


def think_sum(a: int, b: int) -> str:
    """Column addition from the ones upwards, the carry as a third term: ``7+8=15``, ``2+5+1=8``, ``4+0=4``."""
    width, carry, lines = max(len(str(a)), len(str(b))), 0, []
    for x, y in zip(reversed(str(a).zfill(width)), reversed(str(b).zfill(width)), strict=True):
        total = int(x) + int(y) + carry
        lines.append(f"{x}+{y}" + ("+1" if carry else "") + f"={total}")
        carry = total // 10
    return "\n".join(lines)


def think_difference(a: int, b: int) -> str:
    """Column subtraction for ``a >= b``, borrowing ten where needed: ``3-6+10=7``, ``2-5-1+10=6``, ``9-4-1=4``."""
    borrow, lines = 0, []
    for x, y in zip(reversed(str(a)), reversed(str(b).zfill(len(str(a)))), strict=True):
        digit = int(x) - int(y) - borrow
        step = f"{x}-{y}" + ("-1" if borrow else "") + ("+10" if digit < 0 else "")
        borrow = int(digit < 0)
        lines.append(f"{step}={digit % 10}")
    return "\n".join(lines)


def think_chain(terms: list[int]) -> str:
    """Running totals of a sum of several numbers: ``17+25=42``, ``42+8=50``."""
    totals = [sum(terms[: count + 1]) for count in range(len(terms))]
    return "\n".join(f"{totals[i]}+{terms[i + 1]}={totals[i + 1]}" for i in range(len(terms) - 1))


def think_factorial(n: int) -> str:
    """``n!`` from below: ``1×2=2``, ``2×3=6``, ``6×4=24``."""
    return "\n".join(f"{math.factorial(k - 1)}×{k}={math.factorial(k)}" for k in range(2, n + 1)) or "1!=1"


RESULTS: dict[str, Callable[[tuple[int, ...]], int]] = {
    "×": math.prod,
    "+": sum,
    "chain": sum,
    "-": lambda operands: operands[0] - operands[1],
    "!": lambda operands: math.factorial(operands[0]),
}
THOUGHTS: dict[str, Callable[..., str]] = {
    "×": think_product,
    "+": think_sum,
    "chain": lambda *operands: think_chain(list(operands)),
    "-": think_difference,
    "!": think_factorial,
}


@dataclass(frozen=True)
class Problem:
    """An arithmetic problem: operation (``×``, ``+``, ``-``, ``!``, ``chain``), operands, thought and result."""

    operation: str
    operands: tuple[int, ...]

    @property
    def result(self) -> int:
        return RESULTS[self.operation](self.operands)

    @property
    def thought(self) -> str:
        return THOUGHTS[self.operation](*self.operands)

    @property
    def expression(self) -> str:
        """``37×46``, ``5!`` or ``17+25+8``."""
        if self.operation == "!":
            return f"{self.operands[0]}!"
        return ("+" if self.operation == "chain" else self.operation).join(map(str, self.operands))


def draw_problem(kind: str, rng: random.Random, test: bool) -> Problem:
    """A problem of ``kind`` (``product``, ``short``, ``sum``, ``difference``, ``chain``, ``factorial``).

    Held out (``test``) or not by its operands; factorials 1 to 10 are all of them, so none can be held out.
    """
    while True:
        if kind == "product":
            problem = Problem("×", (rng.randint(10, 99), rng.randint(10, 99)))
        elif kind == "short":
            problem = Problem("×", tuple(rng.sample([rng.randint(2, 9), rng.randint(2, 99)], 2)))
        elif kind == "sum":
            other = rng.randint(100, 999) if test or rng.random() < 0.8 else rng.randint(1, 99)
            problem = Problem("+", tuple(rng.sample([rng.randint(100, 999), other], 2)))
        elif kind == "difference":
            problem = Problem("-", tuple(sorted((rng.randint(100, 999), rng.randint(1, 999)), reverse=True)))
        elif kind == "chain":
            problem = Problem("chain", tuple(rng.randint(1, 99) for _ in range(rng.randint(2, 10))))
        else:
            return Problem("!", (rng.randint(1, 10),))
        if held_out(*problem.operands) == test:
            return problem
