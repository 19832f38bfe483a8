"""Lesson 02: the parameters of a safetensors file, whether it is whole, which shards are missing."""

import json
import math
from functools import partial
from itertools import accumulate, product
from operator import mul
from pathlib import Path

from helpers import models
from helpers.check import Exercise
from helpers.lessons.l02.files import INDEX, NAMES, SINGLE, WHOLE, in_folder, on_file, safetensors

TINY = models.BUNDLED / "qwen3-tiny" / "model.safetensors"
NO_TENSOR = "先去掉 __metadata__：它不是张量。", "leave __metadata__ out: it is no tensor."


# ---------------------------------------------------------------------------------------------- exercise 1


def header_of(path, metadata=False, order="little"):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), order)))
    return header if metadata else {name: entry for name, entry in header.items() if name != "__metadata__"}


def numbers(entry):
    return math.prod(entry["shape"])


def count(path, of=numbers, metadata=False, order="little"):
    return sum(of(entry) for entry in header_of(path, metadata, order).values())


def size(entry):
    return entry["data_offsets"][1] - entry["data_offsets"][0]


def as_text(path):
    with path.open(encoding="utf-8") as file:
        return int.from_bytes(file.read(8), "little")


PRODUCT = "shape 要连乘，不是相加。", "multiply the shape's numbers, do not add them."
EMPTY_SHAPE = "形状为空的张量是 1 个数，不是 0 个。", "a tensor of empty shape is 1 number, not 0."

ex1 = Exercise(
    right=count,
    cases={"model.safetensors": (WHOLE,), "qwen3-tiny": (TINY,)},
    ask=on_file,
    start=("读 8 个字节得到 JSON 的长度，读 JSON，把每个张量 shape 的连乘加起来。",
           "8 bytes give the length of the JSON; read it, then add up the product of each tensor's shape."),
    mistakes=[
        (partial(count, metadata=True), *NO_TENSOR),
        (partial(count, of=size, metadata=True), *NO_TENSOR),
        (partial(count, of=lambda entry: 1), "这是张量的个数。", "this counts tensors."),
        (lambda path: len(header_of(path, True)), "这是 JSON 的条目数。", "this counts the entries of the JSON."),
        (partial(count, of=lambda entry: sum(entry["shape"])), *PRODUCT),
        (partial(count, of=lambda entry: numbers(entry) * bool(entry["shape"])), *EMPTY_SHAPE),
        (partial(count, of=lambda entry: entry["shape"][0] * entry["shape"][1]),
         "shape 不一定有两个数，也可能是一个，或者空的：用 math.prod(shape)。",
         "a shape need not have two numbers, it may have one or none: use math.prod(shape)."),
        (lambda path: sum(accumulate(map(numbers, header_of(path).values()), mul)),
         "连乘的结果没有清零：每个张量都要从 1 重新乘起。", "the product goes on: start from 1 for each tensor."),
        (partial(count, of=size), "这是字节数：不同类型的参数占的字节数不同，用 shape 算。",
         "these are bytes, which differ by dtype: use shape."),
        (lambda path: count(path, of=size) // 2, "这是字节数的一半，只有 bf16 才对；用 shape 算。",
         "half of the bytes is right for bf16 only: use shape."),
        (lambda path: path.stat().st_size // 2, "文件里还有文件头，也不是每种类型都占 2 字节。",
         "the file has a header too, and not every dtype takes 2 bytes."),
        (lambda path: count(TINY), "每个文件都得到同一个数：打开 path，不要用上面那一格的 header。",
         "every file gets the same number: open path instead of using the header of the cell above."),
        (partial(count, order="big"), "长度读错了：字节序是小端，int.from_bytes(..., \"little\")。",
         "the length is misread: its bytes are little-endian, int.from_bytes(..., \"little\")."),
        (lambda path: numbers(next(iter(header_of(path).values()))), "只算了第一个张量：return 要写在循环之后。",
         "this counts the first tensor only: return after the loop."),
        (lambda path: numbers(list(header_of(path).values())[-1]), "只剩最后一个张量的：用 += 加上去，不用 =。",
         "only the last tensor is left: add with +=, not =."),
        (lambda path: json.loads(path.read_bytes()[8:]),
         "前 8 个字节不是 JSON，它们说明 JSON 有多长，再后面是权重：先读 8 个字节，再只读那么多。",
         "the first 8 bytes are no JSON but say how long it is, and weights follow: read 8 bytes, then just as many."),
        (as_text, "文件里不全是文字：用 open(path, \"rb\") 打开，读到的才是字节。",
         "the file is not all text: open(path, \"rb\") reads bytes."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 2


def is_whole(path, start=8, end=max, metadata=False, careful=True, broken=False, fits=int.__eq__, offset=1):
    """With a header that cannot be read: ``broken``, or the exception if that is None."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if careful and 8 + length > size:
            return bool(broken)
        try:
            header = json.loads(file.read(length))
        except ValueError:
            if broken is None:
                raise
            return broken
    if not metadata:
        header.pop("__metadata__", None)
    return fits(size, start + length + end(entry["data_offsets"][offset] for entry in header.values()))


EXACTLY = ("多出 4 个字节的文件应该返回 False：正好才算，用 ==，不用 >=。",
           "a file with 4 bytes too many gives False: exactly right means ==, not >=.")  # fmt: skip
ALL_COUNTED = ("完整的文件应该返回 True：有没有算上前 8 个字节和 JSON？",
               "a whole file gives True: are the 8 bytes and the JSON counted?")  # fmt: skip
CUT_HEADER = ("文件头被截断、只剩 40 个字节的文件要返回 False，现在是 {given}。",
              "a file cut in its header, of which 40 bytes are left, gives False, not {given}.")  # fmt: skip

ex2 = Exercise(
    right=is_whole,
    cases={
        "model.safetensors": (WHOLE,),
        # Short of the largest end are by 24 that of the last entry, by 20 that of the first, by 16 the largest start.
        **{f"model.safetensors {extra:+}": (safetensors(extra=extra),) for extra in (-1, -60, -8, -24, -20, -16, 4)},
        **{f"model.safetensors[:{left}]": (WHOLE[:left],) for left in (40, 8, 3, 0)},
        "502.html": (b"<!DOCTYPE html><title>502 Bad Gateway</title>",),
        "9 + <!DOCTYPE": ((9).to_bytes(8, "little") + b"<!DOCTYPE",),
    },
    ask=on_file,
    start=("正好的大小 = 8 + JSON 的长度 + 最大的 data_offsets[1]。",
           "the right size is 8 + the length of the JSON + the largest data_offsets[1]."),
    mistakes=[
        (partial(is_whole, start=0), *ALL_COUNTED),
        (lambda path: is_whole(path, end=lambda ends: max(ends) - int.from_bytes(path.read_bytes()[:8], "little")),
         "完整的文件应该返回 True：大小是 8 + JSON 的长度 + 最大的一个结束位置，不把结束位置相加。",
         "a whole file gives True: its size is 8 + the length of the JSON + the largest end, not the sum of the ends."),
        (partial(is_whole, end=lambda ends: list(ends)[-1]),
         "完整的文件应该返回 True：结束位置取最大的，不是最后一项的。",
         "a whole file gives True: take the largest end, not the last entry's."),
        (partial(is_whole, end=lambda ends: list(ends)[0]), "完整的文件应该返回 True：结束位置取最大的，不是第一项的。",
         "a whole file gives True: take the largest end, not the first entry's."),
        (partial(is_whole, offset=0), "data_offsets 是开始和结束：要最大的结束位置 data_offsets[1]。",
         "data_offsets are a start and an end: take the largest end, data_offsets[1]."),
        (partial(is_whole, broken=None), "JSON 读不出来时要返回 False，不要报错：接住 json.loads 的 ValueError。",
         "where the JSON cannot be read, return False and raise nothing: catch the ValueError of json.loads."),
        *[(partial(is_whole, fits=lambda size, end: True, careful=careful),
           "只看了文件头：后面的张量少了字节，也要返回 False。",
           "only the header is checked: a file whose tensors are short of bytes gives False too.")
          for careful in (True, False)],
        *[
            (partial(is_whole, metadata=True, careful=careful, broken=broken), *NO_TENSOR)
            for careful, broken in ((True, False), (False, False), (False, None))
        ],
        (partial(is_whole, careful=False, broken=None), *CUT_HEADER),
        *[(partial(is_whole, careful=careful, broken=True), *CUT_HEADER) for careful in (True, False)],
        (partial(is_whole, careful=False),
         "根本不是 safetensors 的文件要返回 False：它前 8 个字节的“长度”大得惊人，先和文件的大小比，再读。",
         "a file that is no safetensors at all, with a gigantic length in its 8 bytes, gives False: compare the length "
         "with the file's size before you read."),
        *[(partial(is_whole, fits=lambda size, end: size >= end, careful=careful), *EXACTLY)
          for careful in (True, False)],
        (Path.exists, "少了 1 个字节的文件应该返回 False。", "a file short of 1 bytes gives False."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 3


def absent(folder, names):
    return [name for name in names if not (folder / name).is_file()]


def missing_shards(folder, alone=(SINGLE,), names=dict.values, choose=absent, result=lambda found: sorted(set(found))):
    """alone: what to expect without an index; None: nobody thought of that."""
    if alone is not None and not (folder / INDEX).is_file():
        return result(choose(folder, alone))
    return result(choose(folder, names(json.loads((folder / INDEX).read_text())["weight_map"])))


SORTED_LIST = "要一个排好序的列表：sorted(...)。", "a sorted list is wanted: sorted(...)."
ONCE = "同一片出现了多次：先放进集合去重。", "a shard appears more than once: put them into a set first."
TENSORS = "这些是张量名（键），要的是文件名（值）。", "these are tensors (keys); the file names are the values."
THERE = "已经在的也列出来了：只要不存在的。", "files that are there are listed too: only the missing ones."
NO_INDEX = "没有索引时不要报错：应有的是 model.safetensors。", "without the index, expect model.safetensors."
PRESENT = "条件反了：这些是已经在的，要的是不存在的。", "the wrong way round: these are there; list the missing ones."
NOTHING_MISSING = "model.safetensors 在，什么都不缺。", "model.safetensors is there, so nothing is missing."
HALF = ".incomplete 只是半个文件，那一片也算缺少。", ".incomplete is half a file: that shard is missing too."

ex3 = Exercise(
    right=missing_shards,
    cases={
        f"{INDEX}, 2/4": (INDEX, *NAMES[:2], f"{NAMES[2]}.incomplete"),
        f"{INDEX}, 4/4": (INDEX, *NAMES),
        "config.json": ("config.json",),
        f"config.json, {SINGLE}": ("config.json", SINGLE),
    },
    ask=in_folder,
    start=("weight_map 的值是文件名：去重，留下不存在的，排序。",
           "the values of weight_map are file names: each once, those that are not there, sorted."),
    mistakes=[
        *[
            (partial(missing_shards, alone=alone, **wrong), *hint)
            for alone, (wrong, hint) in product(
                ((SINGLE,), None),
                (
                    ({"result": set}, SORTED_LIST),
                    ({"result": lambda found: list(dict.fromkeys(found))}, SORTED_LIST),
                    ({"result": list}, ONCE),
                    ({"result": sorted}, ONCE),
                    ({"names": dict.keys}, TENSORS),
                    ({"choose": lambda folder, names: names}, THERE),
                    ({"choose": lambda folder, names: {*names} - {*absent(folder, names)}}, PRESENT),
                    ({"choose": lambda folder, names: [n for n in names if not list(folder.glob(n + "*"))]}, HALF),
                ),
            )
        ],
        (partial(missing_shards, alone=None), *NO_INDEX),
        (partial(missing_shards, alone=()),
         "没有索引也没有 model.safetensors，应该返回 ['model.safetensors']，得到的是 {given}。",
         "with neither an index nor model.safetensors, ['model.safetensors'] is wanted, not {given}."),
        (lambda folder: missing_shards(folder, alone=()) or [SINGLE], *NOTHING_MISSING),
        (lambda folder: missing_shards(folder) if (folder / INDEX).is_file() else [SINGLE], *NOTHING_MISSING),
    ],
)  # fmt: skip
