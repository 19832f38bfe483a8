"""Appendix A3, exercises 1 and 2: the blocks of a request, a paged gather."""

from functools import partial

from helpers.check import Exercise
from helpers.lessons.lA3.scheduler import grow

# ---------------------------------------------------------------------------------------------- exercise 1


def grown(function, free, table, tokens, block_size):
    """What it returns, and both lists behind it, by name: a hint says which of them is wrong."""
    free, table = list(free), list(table)
    return {"return": function(free, table, tokens, block_size), "free": free, "table": table}


def take(
    free,
    table,
    tokens,
    block_size,
    count=lambda tokens, size, have: -(-tokens // size) - have,
    end=0,
    half=False,
    spare=0,
    put=None,
):
    """count: blocks that are missing. end: where they are taken. half: also where they do not suffice. spare: blocks
    that have to stay free. put: where in the table, in place of its end."""
    missing = count(tokens, block_size, len(table))
    if missing > len(free) - spare:
        if half:
            table += free
            free.clear()
        return False
    for _ in range(missing):
        table.insert(len(table) if put is None else put, free.pop(end))
    return True


def while_it_shrinks(free, table, tokens, block_size):
    missing = -(-tokens // block_size) - len(table)
    if missing > len(free):
        return False
    for block in free:
        if missing > 0:
            table.append(block)
            free.remove(block)
            missing -= 1
    return True


def copies(free, table, tokens, block_size):
    missing = -(-tokens // block_size) - len(table)
    table += free[:missing] if missing <= len(free) else []
    return missing <= len(free)


def nested(free, table, tokens, block_size):
    missing = -(-tokens // block_size) - len(table)
    if missing > len(free):
        return False
    table.append(free[:missing])
    del free[:missing]
    return True


def ids(free, table, tokens, block_size):
    missing = -(-tokens // block_size) - len(table)
    if missing > len(free):
        return False
    new = [free.pop(0) for _ in range(missing)]
    table += new
    return new


ex1 = Exercise(
    right=grow,
    ask=grown,
    cases={
        "tokens=1": ([4, 9, 2], [], 1, 32),
        "tokens=32": ([4, 9, 2], [], 32, 32),
        "tokens=33": ([4, 9, 2], [7], 33, 32),
        "tokens=96": ([4, 9, 2], [], 96, 32),
        "tokens=40": ([4, 9, 2], [7, 5], 40, 32),
        "tokens=100": ([4, 9], [7], 100, 32),
        "free=[]": ([], [7], 33, 32),
    },
    start=("先算 tokens 个词元一共要几块（向上取整），再减去块表里已有的。",
           "first: how many blocks do so many tokens need, rounded up? Then take off those in the table."),
    mistakes=[
        (partial(take, count=lambda tokens, size, have: tokens // size - have),
         "向下取整了：33 个词元要 2 块，最后一块不必填满。",
         "this rounds down: 33 tokens need 2 blocks, the last of which need not be full."),
        (partial(take, count=lambda tokens, size, have: tokens // size + 1 - have),
         "正好填满时多领了一块：32 个词元只要 1 块。",
         "one too many where a block is full: 32 tokens need 1 block."),
        (partial(take, count=lambda tokens, size, have: -(-tokens // size)),
         "块表里已有的块没有减掉：tokens 是总数，不是新来的。",
         "the blocks in the table are not taken off: tokens is the total, not what is new."),
        (partial(take, count=lambda tokens, size, have: tokens - have * size),
         "这是缺的词元数，不是块数：除以 block_size，向上取整。",
         "this counts missing tokens, not blocks: divide by block_size and round up."),
        (partial(take, count=lambda tokens, size, have: tokens - have),
         "一个词元领了一块：一块放 block_size 个，要除，向上取整。",
         "this takes a block for each token: a block has block_size of them; divide and round up."),
        (partial(take, end=-1), "块要从 free 的开头拿：free.pop(0)。",
         "take blocks from the front of free: free.pop(0)."),
        (partial(take, half=True), "块不够时什么都不要动：先数清楚，再拿。",
         "where there are too few, change nothing: count first, then take."),
        (partial(take, spare=1), "空闲的块正好够，也是够：只有缺的比空闲的多，才返回 False。",
         "just enough free blocks are enough: return False only where more are missing than free."),
        (lambda free, table, tokens, size: grow(list(free), list(table), tokens, size),
         "free 和 table 都没有变：table = … 只是另起一个列表，要用 append 和 pop 在原来的列表上改。",
         "neither free nor table has changed: table = … makes another list; change the given ones by append and pop."),
        (nested, "列表里套了列表：table 里要的是一个个编号，append 一次放一个。",
         "a list inside a list: table holds single ids, so append them one by one."),
        (partial(take, count=lambda tokens, size, have: min(1, -(-tokens // size) - have)),
         "只领了一块：缺几块就领几块。", "this takes a single block: take as many as are missing."),
        (lambda *case: take(*case) or True, "不够时要返回 False，这里总是返回 True。",
         "return False where there are too few: this always returns True."),
        (partial(take, put=0), "领到的块要接到 table 的末尾：append，不要插到前面。",
         "append the blocks to the end of the table, do not insert them in front."),
        (while_it_shrinks, "隔一个漏一个：一边走 free，一边从里面删；改用 free.pop(0)。",
         "every other one is left out, as you go through free and remove from it: use free.pop(0)."),
        (copies, "拿走的块还留在 free 里：别人会再领到它。",
         "the blocks are still in free: somebody else would get them, too."),
        (ids, "够了就返回 True，不是块的列表。", "return True where there were enough, not the list of blocks."),
        (lambda free, table, tokens, size: take(free, table, tokens, size) or None,
         "不够时要返回 False，不是什么都不返回。", "return False where there are too few, not nothing at all."),
        (lambda free, table, tokens, size: None if take(free, table, tokens, size) else False,
         "够的时候要返回 True：return 写在循环之后。", "return True where there were enough, behind the loop."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 2


def gather(pool, table, length):
    import torch

    return torch.cat([pool[block] for block in table], dim=1)[:, :length]


def of_neighbours(pool, table, length):
    return gather(pool, range(table[0], table[0] + len(table)), length)


def reshaped(pool, table, length):
    """Blocks put beside each other without a turn: heads and tokens are mixed up."""
    return pool[list(table)].reshape(pool.shape[1], -1, pool.shape[3])[:, :length]


def along_heads(pool, table, length):
    import torch

    return torch.cat([pool[block] for block in table], dim=0)[:length]


def along_head_dim(pool, table, length):
    import torch

    return torch.cat([pool[block] for block in table], dim=-1)[:, :length]


def stacked(pool, table, length):
    return pool[list(table)]


def each_cut(pool, table, length):
    import torch

    return torch.cat([pool[block][:, :length] for block in table], dim=1)


def gather_cases():
    import torch

    pool = torch.randn(8, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    tables = {"table=[5, 2, 6]": ([5, 2, 6], 10), "table=[3]": ([3], 2), "table=[1, 2]": ([1, 2], 8)}
    return {name: (pool, *case) for name, case in tables.items()}


ALL_OF_IT = (
    "最后一块没有填满，结果只要前 length 个词元；词元是第二维：[:, :length]。",
    "the last block is not full, keep the first length tokens only; tokens are the second dimension: [:, :length].",
)

ex2 = Exercise(
    right=gather,
    cases=gather_cases,
    start=("照块表的次序取出 pool[block]，沿词元那一维接起来，只留前 length 个。",
           "take pool[block] in the order of the table, join them along the tokens' dimension, keep the first length."),
    mistakes=[
        (lambda pool, table, length: gather(pool, table, None), *ALL_OF_IT),
        (each_cut, "length 是所有块一共的词元数：先接起来，再截。",
         "length counts the tokens of all blocks: join first, then cut."),
        (lambda pool, table, length: gather(pool, sorted(table), length),
         "次序要照块表，不照编号。", "the order is that of the table, not that of the ids."),
        (lambda pool, table, length: gather(pool, table[::-1], length), "次序倒了。", "the order is reversed."),
        (of_neighbours, "块不一定相邻：每一块都要查块表。",
         "blocks need not be neighbours: look each one up in the table."),
        (lambda pool, table, length: gather(pool, range(len(table)), length),
         "拿的是前几块：编号要从块表里查。", "these are the first blocks of the pool: take the ids in the table."),
        (lambda pool, table, length: gather(pool, table[-1:], length),
         "只剩最后一块：每一块都先收进列表，循环之后再接起来。",
         "only the last block is left: put each into a list, and join them behind the loop."),
        (reshaped, "头和词元混在一起了：用 torch.cat(…, dim=1)，不要直接 reshape。",
         "heads and tokens got mixed: use torch.cat(…, dim=1), not a plain reshape."),
        (along_heads, "接在头那一维上了：词元是 dim=1。", "joined along the heads: the tokens are dim=1."),
        (lambda pool, table, length: along_heads(pool, table, None)[:, :length],
         "接在头那一维上了：torch.cat 要写明 dim=1，不写就是 dim=0。",
         "joined along the heads: give torch.cat its dim=1, it takes dim=0 otherwise."),
        (along_head_dim, "接在 head_dim 上了：词元是 dim=1。", "joined along head_dim: the tokens are dim=1."),
        (stacked, "块还叠着：用 torch.cat 沿 dim=1 接起来。",
         "the blocks are still stacked: join them with torch.cat along dim=1."),
        (lambda pool, table, length: gather(pool, [block - 1 for block in table], length),
         "块的编号不用减 1：pool[block] 就是这一块。", "do not take 1 off an id: pool[block] is the block."),
    ],
)  # fmt: skip
