"""How an answer differs from the wanted one, in words: another type, length, shape, dtype, NaN, or other values."""

import math
import reprlib
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple


class Short(reprlib.Repr):
    """Values short enough for a hint."""

    def __init__(self):
        super().__init__()
        self.maxstring, self.maxother, self.maxlist, self.maxtuple, self.maxdict = 120, 60, 12, 12, 8

    def repr_Tensor(self, tensor, level: int) -> str:
        return f"tensor{tuple(tensor.shape)}"


SHORT = Short()
KINDS: tuple[tuple[Any, str, str], ...] = (
    (bool, " True 或 False", "True or False"),
    ((int, float), "一个数", "a number"),
    (str, "文本", "a text"),
    (dict, "字典", "a dictionary"),
    ((list, tuple), "列表", "a list"),
)


@dataclass(eq=False)
class Raised:
    """An exception in place of an answer: equal to another of its type, a KeyError to one for the same key."""

    error: BaseException

    def __repr__(self) -> str:
        return type(self.error).__name__

    def __eq__(self, other) -> bool:
        alike = isinstance(other, Raised) and type(self.error) is type(other.error)
        return alike and (not isinstance(self.error, KeyError) or self.error.args == other.error.args)


class Difference(NamedTuple):
    """In Chinese, in English; ``form``: it is no matter of values but of type, length, shape, dtype or NaN."""

    zh: str
    en: str
    form: bool = True


def alike(given, wanted) -> bool:
    return difference(given, wanted) is None


def difference(given: Any, wanted: Any) -> Difference | None:
    """None if both are alike: numbers within 1e-5, lists like tuples."""
    torch = sys.modules.get("torch")  # where nobody imported it, nothing is a tensor
    if torch and isinstance(wanted, torch.Tensor):
        return _of_tensors(given, wanted, torch)
    if getattr(given, "ndim", None) == 0:  # a number of torch or numpy
        given = given.item()
    if given is None or wanted is None or Raised in (type(given), type(wanted)):
        return None if given == wanted else of_values(given, wanted)
    kind, zh, en = next((row for row in KINDS if isinstance(wanted, row[0])), (type(wanted), "", type(wanted).__name__))
    if not isinstance(given, kind):
        if isinstance(wanted, tuple):
            zh, en = f" {len(wanted)} 样", f"{len(wanted)} things"
        return _of_kinds(given, zh or en, en)
    if isinstance(wanted, dict):
        return _of_dicts(given, wanted)
    if isinstance(wanted, list | tuple):
        return _of_lists(given, wanted)
    if isinstance(wanted, float):
        same = math.isclose(given, wanted, rel_tol=1e-5, abs_tol=1e-5)
    else:  # what has no equality of its own, such as a module or a function, is as good as another one
        same = type(wanted).__eq__ is object.__eq__ or given == wanted
    return None if same else of_values(given, wanted)


def of_values(given, wanted) -> Difference:
    given, wanted = SHORT.repr(given), SHORT.repr(wanted)
    return Difference(f"应该得到 {wanted}，得到的是 {given}。", f"{wanted} is wanted, not {given}.", form=False)


def _of_kinds(given, zh: str, en: str) -> Difference:
    name = type(given).__name__
    verb = "are" if en.endswith("s") else "is"
    return Difference(f"应该返回{zh}，得到的是 {name}。", f"{en} {verb} wanted, this is {name}.")


def _of_dicts(given: dict, wanted: dict) -> Difference | None:
    for key in [*wanted, *given]:
        if key not in given:
            return Difference(f"缺少 {key}。", f"{key} is missing.")
        if key not in wanted:
            return Difference(f"{key} 不该在这里。", f"{key} does not belong there.")
        if found := difference(given[key], wanted[key]):
            return Difference(f"{key}：{found.zh}", f"{key}: {found.en}", found.form)
    return None


def _of_lists(given: list | tuple, wanted: list | tuple) -> Difference | None:
    if len(given) != len(wanted):
        if isinstance(wanted, list):
            return of_values(given, wanted)
        return Difference(
            f"应该返回 {len(wanted)} 样，得到 {len(given)} 样。", f"{len(wanted)} things are wanted, not {len(given)}."
        )
    found = [difference(*pair) for pair in zip(given, wanted, strict=True)]
    for number, one in enumerate(found, 1):
        if one and (one.form or hasattr(wanted[number - 1], "shape")):
            return Difference(f"第 {number} 项：{one.zh}", f"item {number}: {one.en}", one.form)
    return of_values(given, wanted) if any(found) else None


def _of_tensors(given, wanted, torch) -> Difference | None:
    if not isinstance(given, torch.Tensor):
        return _of_kinds(given, "张量", "a tensor")
    if given.shape != wanted.shape:
        have, want = tuple(given.shape), tuple(wanted.shape)
        return Difference(f"形状应该是 {want}，得到的是 {have}。", f"the shape should be {want}, it is {have}.")
    if given.is_floating_point() != wanted.is_floating_point():
        have, want = given.dtype, wanted.dtype
        return Difference(f"类型应该是 {want}，得到的是 {have}。", f"the dtype should be {want}, it is {have}.")
    have, want = given.detach().cpu().double(), wanted.detach().cpu().double()
    if (have.isnan() > want.isnan()).any():
        return Difference(
            "结果里有 NaN：是不是除以了 0，给负数开了方，或者 softmax 的一整行都是负无穷？",
            "there is NaN in the result: division by 0, root of a negative number, softmax of minus infinity only?",
        )
    far = ~torch.isclose(have, want, rtol=1e-5, atol=1e-5)
    if not far.any():
        return None
    place = far.nonzero()[0].tolist()
    was, should = (f"{tensor[tuple(place)].item():.4g}" for tensor in (have, want))
    zh_at, en_at = (f"{place} 处", f"at {place} ") if place else ("", "")
    zh, en = f"{zh_at}应该是 {should}，得到的是 {was}。", f"{en_at}it should be {should}, it is {was}."
    return Difference(f"数值还不对，{zh}", f"the values differ: {en}", form=False)
