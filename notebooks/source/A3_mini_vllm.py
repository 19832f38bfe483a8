# %% [markdown] lang="zh" key="title"
# # A3 · 迷你 vLLM：自己写，让 vLLM 来判
#
# | | |
# |---|---|
# | 学完能做 | 一步一步回放真正的 vLLM；按块分配 KV 缓存，从块表里取回键和值；写出连续批处理和分段预填充的调度器，每一步都和 vLLM 相同；用它生成和 vLLM 一样的词元 |
# | 先修 | 第 03 课（KV 缓存）和第 05 课（块表、连续批处理）；会用 Python 的列表和字典 |
# | 时间 | 90 分钟，分两次读：上半是块，下半是调度器；标着“选读”的再加 20 分钟 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上 |
# | 模型 | 课程自带的 `qwen3-tiny`；调度器只数词元和块，换成真正的 Qwen3 也是同样的规则 |

# %% [markdown] lang="en" key="title"
# # A3 · A mini vLLM: write it, and let vLLM grade it
#
# | | |
# |---|---|
# | You will be able to | replay the real vLLM step by step; give out a KV cache in blocks and gather keys and values through a block table; write a scheduler with continuous batching and chunked prefill that does in every step what vLLM does; generate vLLM's own tokens with it |
# | Prerequisites | lessons 03 (KV cache) and 05 (block tables, continuous batching); you use lists and dictionaries in Python |
# | Time | 90 minutes in two sittings, first blocks, then the scheduler; 20 more for what is marked "extra" |
# | Hardware | any Linux CPU with 4 GB of memory |
# | Model | the bundled `qwen3-tiny`; a scheduler only counts tokens and blocks, so its rules are the same with a real Qwen3 |

# %% key="setup"
import torch

from helpers import catalogue, models, qwen, say, schedule
from helpers.checkpoint import Checkpoint
from helpers.engine import close_engine, open_engine
from helpers.lessons import lA3

folder = models.find_checkpoint("qwen3-tiny")
print(models.describe(folder))

# %% [markdown] lang="zh" key="engine-text"
# ## 录一段真正的 vLLM
#
# vLLM 里有一个**调度器**（scheduler）：模型每算一遍，它都先定好这一遍算谁的、算几个词元。这一遍叫一**步**。下面打开一个很小的引擎，好让它忙不过来：
#
# - 最多 4 个请求同时运行（`max_num_seqs`，好比只有 4 个位子），一步最多 48 个词元（`max_num_batched_tokens`）；
# - KV 缓存分成 16 **块**（block），每块 32 个词元。第 0 块 vLLM 自己留着，请求能用的是 15 块；
# - 前缀缓存和异步调度（模型还在算，就先排下一步）都关上，规则就少了两条；用 float32，好让我们自己算的词元能和它比。

# %% [markdown] lang="en" key="engine-text"
# ## Record the real vLLM
#
# Inside vLLM there is a **scheduler**: before each pass of the model it decides whose tokens are in it, and how many. Such a pass is a **step**. The engine below is very small, so that it gets busy:
#
# - at most 4 requests run at once (`max_num_seqs`; think of 4 seats), and a step has at most 48 tokens (`max_num_batched_tokens`);
# - the KV cache is cut into 16 **blocks** of 32 tokens. vLLM keeps block 0 for itself, so requests share 15;
# - prefix caching and async scheduling (the next step is planned while the model computes) are off, which saves two rules; it runs in float32, so that our own tokens can be compared with its.

# %% key="engine"
# zh: 一个词元的键和值占多少字节；float32 是 bf16 的两倍
# en: bytes of a token's keys and values; float32 takes twice as many as bf16
per_token = 2 * catalogue.kv_bytes_per_token(Checkpoint(folder).config)
llm = open_engine(
    folder,
    dtype="float32",
    block_size=32,
    kv_cache_memory_bytes=16 * 32 * per_token,
    max_model_len=256,
    max_num_seqs=4,
    max_num_batched_tokens=48,
    enable_prefix_caching=False,
    async_scheduling=False,
)
tokenizer = llm.get_tokenizer()


def prompt_of(question):
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        tokenize=False,
        add_generation_prompt=True,
    )
    return tokenizer(text).input_ids


rows = []
for a in range(2, 6):
    for b in range(a, 10):
        rows.append(f"{a}×{b}={a * b}")
rows.append("7×8=?")
# zh: 在第几步之前到，问什么，写几个词元
# en: the step before which it comes, the question, how many tokens it writes
arrivals = [
    (0, "37×46=?", 40),
    (0, "23×31=?", 12),
    (0, "5!=?", 24),
    (2, "12+34=?", 30),
    (3, "\n".join(rows), 20),
    (10, "Who are you?", 16),
]
prompts = [prompt_of(question) for step, question, tokens in arrivals]
print([len(prompt) for prompt in prompts])

# %% [markdown] lang="zh" key="record-text"
# 打印的是六个请求的提示词各有几个词元，按到来的次序叫 r0 到 r5。r4 带着一张乘法表，191 个词元。
#
# 下一格一步一步推动引擎，时候一到，就交上新的请求；`schedule.record` 在旁边把调度器的每个决定记下来。每个请求要写几个词元，事先就定好了，写够才停（`ignore_eos`）；所以谁什么时候写完，只看调度。
#
# **先选一个。** r4 在第 3 步之前到，那时四个位子都坐满了；r1 写完 12 个词元，最早离开。r4 会怎样？
#
# - A. 等四个都写完，下一批再进
# - B. r1 一走就坐进去，191 个词元一步读完
# - C. r1 一走就坐进去，分好几步读，别人照样写

# %% [markdown] lang="en" key="record-text"
# Printed are the prompt lengths of six requests, which we call r0 to r5 in the order of their arrival. r4 carries a multiplication table, 191 tokens.
#
# The next cell pushes the engine step by step and hands in a new request when its time has come; beside it, `schedule.record` writes down every decision of the scheduler. Each request writes its full number of tokens (`ignore_eos`), so that when it ends depends on scheduling alone.
#
# **Choose first.** r4 comes before step 3, and all four seats are taken; r1, with 12 tokens to write, is the first to leave. What happens to r4?
#
# - A. It waits until all four are done, and comes with the next batch
# - B. It takes the seat of r1 at once, and its 191 tokens are read in one step
# - C. It takes the seat of r1 at once and is read in several steps, while the others write on

# %% key="record"
from vllm import SamplingParams

from helpers.explorer import ScheduleExplorer


def serve(arrivals, prompts):
    engine, written, step = llm.llm_engine, {}, 0
    last = arrivals[-1][0]
    while step <= last or engine.has_unfinished_requests():
        for number, arrival in enumerate(arrivals):
            arrives, question, tokens = arrival
            if arrives == step:
                params = SamplingParams(
                    temperature=0, max_tokens=tokens, ignore_eos=True
                )
                prompt = {"prompt_token_ids": prompts[number]}
                engine.add_request(str(number), prompt, params)
        for output in engine.step():
            if output.finished:
                written[output.request_id] = list(output.outputs[0].token_ids)
        step += 1
    return [written[str(number)] for number in range(len(arrivals))]


with schedule.record(llm) as trace:
    answers = serve(arrivals, prompts)
# zh: 留给最后一节：四个请求都写得很长，缓存不够用
# en: for the last section: four requests write so much that the cache runs out
long = [(0, "37×46=?", 160), (0, "23×31=?", 150), (0, "5!=?", 140), (0, "12+34=?", 130)]
with schedule.record(llm) as tight:
    long_answers = serve(long, prompts[:4])
close_engine()
print(trace)
print(tight)
chunks = [step.tokens[4] for step in trace.replay() if 4 in step.tokens]
print("r4:", chunks)
ScheduleExplorer(trace, step=12, request=4)

# %% [markdown] lang="zh" key="rules"
# <details><summary>读图</summary>
#
# C。一行是一个请求，横着是步。第 12 步 r1 刚走，r4 就开始了：48 个词元的预算，另外三个各要 1 个，剩下 45 个给它；打印的最后一行是它每一步的词元数：45、45、45、45、11，五步读完，以后一步写一个。r0、r2、r3 一步也没有停。这叫**分段预填充**（chunked prefill）。
#
# </details>
#
# 拖一拖滑块，或者按播放：下面的块池里，谁领到哪一块，什么时候还回去，都看得见。
#
# ## vLLM 的规则，一张卡片
#
# 把录像看上几遍，规则就出来了。对照的是 vLLM 0.32，先来先服务：
#
# | | 规则 |
# |---|---|
# | 1 | 一步的词元总数不超过预算 `max_num_batched_tokens` |
# | 2 | 先排**正在运行**的，照它们开始的次序：每个要算的是“已知的词元减去算过的词元”。在写的，这个差是 1；提示词没读完的，是剩下的那些，预算不够就先算一段 |
# | 3 | 算之前先有块：算过的加上这一步要算的，一共这么多词元要几块（向上取整），缺几块领几块 |
# | 4 | 再看**等待**的，从最早的一个起：有位子、有预算，而且空闲的块放得下它整个提示词，就让它开始，算整个提示词或者预算够的一段；块仍照规则 3，只领这一步要的。它进不来，后面的也都等 |
# | 5 | 算过所有已知词元的请求，多出一个新词元；写够了就离开，块都还回去 |
# | 6 | 规则 3 里块不够时，运行的最后一个离开：块都还回去，回到等待的最前面，以后从头再算，那时它已知的词元（提示词和写过的）都算提示词。这叫**抢占**（preemption） |
#
# 下面照着它写一个迷你 vLLM。上半是规则 3，下半是其余的。
#
# ## 上半：缓存为什么要分块
#
# 最简单的 KV 缓存，是给每个请求留一段连续的位置，长到够它写满上下文，这里是 256 个。缓存一共有 480 个位置（15 块，每块 32 个）。
#
# **先选一个。** 这样留，留出来的位置平均有多少真的装着词元？
#
# - A. 约四分之三
# - B. 约一半
# - C. 约五分之一

# %% [markdown] lang="en" key="rules"
# <details><summary>Reading</summary>
#
# C. A row is a request, steps go from left to right. At step 12 r1 has just left, and r4 starts: of the budget of 48 the other three take 1 each, and 45 are left for it. The last line printed has its tokens in each step: with 45, 45, 45, 45 and 11 it is read in five steps, and then writes one at a time. r0, r2 and r3 never stop. This is **chunked prefill**.
#
# </details>
#
# Drag the slider, or press play: the block pool below shows who gets which block, and when it goes back.
#
# ## vLLM's rules, on a card
#
# Watch the recording a few times, and the rules come out. They are those of vLLM 0.32, first come, first served:
#
# | | Rule |
# |---|---|
# | 1 | A step has no more tokens than the budget, `max_num_batched_tokens` |
# | 2 | Those that **run** come first, in the order in which they started: each has to compute "tokens known minus tokens computed". For a request that writes, this is 1. For one whose prompt is not read yet, it is the rest of the prompt, or as much of it as the budget allows |
# | 3 | Blocks come before computing. Count the tokens computed so far and those of this step together: how many blocks do they need, rounded up? The request takes those it lacks |
# | 4 | Then those that **wait**, from the first on. A request starts if there is a seat, budget left, and free blocks for its whole prompt. Its whole prompt is computed, or the chunk that the budget allows; by rule 3 it takes the blocks of this step only. If it cannot start, those behind it wait, too |
# | 5 | A request whose known tokens are all computed gets one new token. A request that has written all its tokens leaves, and its blocks go back |
# | 6 | Where rule 3 finds too few blocks, the last of those that run leaves: its blocks go back, and it waits again, first in line. Later it is computed anew, with all its known tokens (prompt and written) as its prompt. This is **preemption** |
#
# From here on we write a mini vLLM by this card: rule 3 in the first sitting, the others in the second.
#
# ## First sitting: why a cache has blocks
#
# The simplest KV cache sets aside a contiguous stretch for each request, long enough for a full context, here 256 positions. The whole cache has 480 of them (15 blocks of 32).
#
# **Choose first.** Of the positions set aside that way, what share holds a token, on average?
#
# - A. About three quarters
# - B. About half
# - C. About a fifth

# %% key="waste"
held = in_blocks = set_aside = 0
for step in trace.replay():
    for request, blocks in step.tables.items():
        held += step.computed[request] + step.tokens.get(request, 0)
        in_blocks += 32 * len(blocks)
        set_aside += 256
print(say("连续的缓存，用到：", "contiguous, in use:"), f"{held / set_aside:.0%}")
print(say("分成块的缓存，用到：", "in blocks, in use:"), f"{held / in_blocks:.0%}")
lA3.reserved(trace, 256)

# %% [markdown] lang="zh" key="ex1-text" facts="211"
# <details><summary>读图</summary>
#
# C，21%。红线是按整段预留要的位置：4 个请求要 4 × 256 个，而缓存只有 480 个（虚线），其实连第二个请求都放不下。蓝线是领到的块，绿色是真装着词元的位置：浪费的只是每个请求最后一块的空格。
#
# </details>
#
# 现在你来改：把两处 256 都改成 211，刚好够最长的 r4（191 + 20）。用到的仍然只有四分之一左右：别的请求短得多。
#
# ### 练习 1 ★☆☆（5 分钟）：领块
#
# `free` 是空闲块的编号，`table` 是一个请求的块表，两个都是列表，你的函数直接改它们。让块表放得下一共 `tokens` 个词元（包括已经放着的）：还缺几块，就从 `free` 的开头拿几块，接到 `table` 的末尾，返回 `True`。空闲的块不够时，什么也不动，返回 `False`。
#
# 新请求的块表是空的，所以这一个函数既管分配，也管追加。归还更简单，用不着练习：`free += table`，再清空 `table`。
#
# <details><summary>提示</summary>
#
# 向上取整是 `math.ceil(tokens / block_size)`，也可以写成 `-(-tokens // block_size)`。先数够不够，再动手拿；拿第一个是 `free.pop(0)`。
#
# </details>

# %% [markdown] lang="en" key="ex1-text" facts="211"
# <details><summary>Reading</summary>
#
# C, 21%. The red line is what whole stretches would take: 4 × 256 positions for 4 requests, where the cache has 480 (dashed); not even a second request would fit. Blue are the blocks given out, green the positions that hold a token: all that is wasted is the rest of each request's last block.
#
# </details>
#
# Now change it: put 211 for 256 in both places, just enough for the longest request, r4 (191 + 20). Still only about a quarter is in use, as the others are much shorter.
#
# ### Exercise 1 ★☆☆ (5 minutes): take blocks
#
# `free` holds the ids of free blocks, `table` is the block table of a request; both are lists, and your function changes them in place. Make room in the table for `tokens` tokens in all, those it holds already included: take as many blocks as are still missing from the front of `free`, append them to `table` and return `True`. If too few are free, change nothing and return `False`.
#
# A new request has an empty table, so this one function allocates and appends. Giving back is simpler and no exercise: `free += table`, then empty `table`.
#
# <details><summary>Hint</summary>
#
# Rounding up is `math.ceil(tokens / block_size)`, or `-(-tokens // block_size)`. Count first whether there are enough, then take; `free.pop(0)` takes the first.
#
# </details>


# %% key="ex1" tags=["exercise"]
def grow(free, table, tokens, block_size):
    return ...


# %% key="ex1-solution" tags=["solution"]
def grow(free, table, tokens, block_size):  # noqa: F811
    missing = -(-tokens // block_size) - len(table)
    if missing > len(free):
        return False
    for _ in range(missing):
        table.append(free.pop(0))
    return True


# %% key="ex1-check"
lA3.ex1.check(grow)

# %% [markdown] lang="zh" key="ex2-text"
# ## 从块表里取回来
#
# 块省了地方，代价是一个请求的键和值散在各处。注意力要的是排好次序的一整段，所以每次都得照着块表去取。
#
# ### 练习 2 ★☆☆（5 分钟）：按块表收集
#
# `pool` 是一层里所有块的键（值也一样），形状 `(num_blocks, kv_heads, block_size, head_dim)`。`table` 是这个请求的块表。把它前 `length` 个词元的键按次序收集起来返回，形状 `(kv_heads, length, head_dim)`。一个循环就够。
#
# <details><summary>提示</summary>
#
# `pool[block]` 是 `(kv_heads, block_size, head_dim)`。照块表的次序收进一个列表，`torch.cat(..., dim=1)` 沿词元接起来，最后截到 `length`。
#
# </details>

# %% [markdown] lang="en" key="ex2-text"
# ## Gather through the table
#
# Blocks save room, and the price is that a request's keys and values lie all over the cache. Attention wants them in one piece and in order, so each time they are gathered by the block table.
#
# ### Exercise 2 ★☆☆ (5 minutes): gather by the block table
#
# `pool` holds the keys (or the values) of all blocks in a layer, `(num_blocks, kv_heads, block_size, head_dim)`. `table` is the request's block table. Return the keys of its first `length` tokens, in order, `(kv_heads, length, head_dim)`. One loop is enough.
#
# <details><summary>Hint</summary>
#
# `pool[block]` is `(kv_heads, block_size, head_dim)`. Collect these in a list in the order of the table, join them along the tokens with `torch.cat(..., dim=1)`, and cut at `length`.
#
# </details>


# %% key="ex2" tags=["exercise"]
def gather(pool, table, length):
    return ...


# %% key="ex2-solution" tags=["solution"]
def gather(pool, table, length):  # noqa: F811
    pieces = []
    for block in table:
        pieces.append(pool[block])
    return torch.cat(pieces, dim=1)[:, :length]


# %% key="ex2-check"
lA3.ex2.check(gather)

# %% [markdown] lang="zh" key="paged-text"
# ## 同样的 logits
#
# 课程的模型把新的键和值交给 `cache.update`，拿回从头到现在的全部。下面的 `PagedCache` 把它们写进块里，再用你的 `gather` 取出来（练习还没解出来时，用参考答案）。两个请求共用一份 `memory`，块是故意打乱的；每读一段，都和课程的连续缓存 `KVCache` 比 logits。
#
# **先选一个。** 块散成这样，logits 会差多少？
#
# - A. 完全一样，或者只差浮点误差
# - B. 差一点，每多一块差得更多
# - C. 块不挨着的地方全错

# %% [markdown] lang="en" key="paged-text"
# ## The same logits
#
# The course's model hands new keys and values to `cache.update` and gets back all of them, from the first token on. `PagedCache` below writes them into blocks and collects them with your `gather` (the reference answer stands in until the exercise is solved). Two requests share one `memory`, and their blocks are scattered on purpose. After each piece their logits are compared with those of the course's contiguous `KVCache`.
#
# **Choose first.** With blocks scattered like this, by how much do the logits differ?
#
# - A. Not at all, or by rounding only
# - B. A little, and more with every block
# - C. They are wrong wherever blocks are no neighbours


# %% key="paged"
# zh: memory 的形状是 (2, layers, num_blocks, kv_heads, block_size, head_dim)，2 是键和值；
# zh: max_length 是这张块表放得下几个词元，模型要问
# en: memory is (2, layers, num_blocks, kv_heads, block_size, head_dim), 2 for keys and
# en: values; the model asks max_length how many tokens the table has room for
class PagedCache:
    def __init__(self, memory, table, length=0):
        self.memory, self.table, self.length = memory, table, length
        self.max_length = len(table) * memory.shape[4]

    def update(self, layer, key, value):
        size = self.memory.shape[4]
        # zh: 新的键是 (1, kv_heads, 词元数, head_dim)：一个词元一个词元地写进它的块
        # en: new keys are (1, kv_heads, tokens, head_dim): each token goes into its block
        for place in range(key.shape[2]):
            position = self.length + place
            block, slot = self.table[position // size], position % size
            self.memory[0, layer, block, :, slot] = key[0, :, place]
            self.memory[1, layer, block, :, slot] = value[0, :, place]
        end = self.length + key.shape[2]
        keys, values = self.memory[:, layer]
        keys = my_gather(keys, self.table, end)  # (kv_heads, end, head_dim)
        values = my_gather(values, self.table, end)
        return keys[None], values[None]  # (1, kv_heads, end, head_dim) each


my_gather = lA3.yours_or_ours("gather", lA3.ex2, gather)
torch.set_num_threads(1)
model = qwen.load_model(folder, torch.float32)
config = model.config
heads, head_dim = config.num_key_value_heads, config.head_dim
memory = torch.zeros(2, config.num_hidden_layers, 16, heads, 32, head_dim)
# zh: r4 的六块和 r0 的一块
# en: six blocks of r4, one of r0
scattered = {4: [9, 2, 14, 5, 11, 3], 0: [7]}
furthest = 0.0
for request, blocks in scattered.items():
    paged = PagedCache(memory, blocks)
    contiguous = qwen.KVCache(model, 1, 256)
    for piece in torch.tensor([prompts[request]]).split(48, dim=1):
        logits = model(piece, cache=paged)  # (1, seq, vocab)
        difference = (logits - model(piece, cache=contiguous)).abs().max().item()
        furthest = max(furthest, difference)
assert furthest < 1e-4
print(say("logits 最多相差不到 1e-4", "logits differ by less than 1e-4"))

# %% [markdown] lang="zh" key="batch-text"
# <details><summary>读结果</summary>
#
# A。块放在哪里，对算出来的数毫无影响；次序由块表管。vLLM 的内核不先收集成一段，而是边算边照块表去读，省下这次复制，结果一样。
#
# </details>
#
# 现在你来改：在上一格最后那个循环的开头加一行 `if paged.length == 96: blocks[0], blocks[1] = blocks[1], blocks[0]`，r4 读完两段、填满三块时就对调两个编号。断言还成立吗？再把 0 和 1 换成 2 和 3 试试。
#
# <details><summary>读结果</summary>
#
# 对调两个填满的块，没有关系：每个键自己带着位置（第 03 课的 RoPE），注意力又是对所有键求和。把填满的块和没写过的对调，断言就失败：读过的词元少了整整一块，新的又写在它上面。
#
# </details>
#
# 上半到此为止，可以歇一歇。
#
# ## 下半：一批一批来，差多少
#
# 调度器是一个函数，每一步调用一次：
#
# - `waiting` 和 `running` 是请求的列表，先来的在前；
# - `request.known` 是已知的词元数（还没开始的请求，就是提示词的长度），`request.computed` 是其中算过的，`request.blocks` 是块表；
# - `pool.grow(request, tokens)` 就是练习 1：让它的块放得下一共 `tokens` 个词元，块不够就返回 `False`；`pool.blocks_for(tokens)` 说要几块，`pool.free` 是空闲的块，`pool.release(request)` 归还；
# - `settings` 里有 `max_num_batched_tokens` 和 `max_num_seqs`；
# - 返回一个字典：请求 → 这一步算几个词元，不算的不写。谁开始，函数就把谁从 `waiting` 移到 `running` 的末尾。
#
# 其余的由课程来做（规则 5）：这一步算完以后，它改 `known` 和 `computed`，请写完的离开。
#
# 先看一个最简单的：凑一批，全部写完才放下一批。同样的请求在同样的步到来，`lA3.beside` 找出第一个和 vLLM 不同的步，把两边并排画出来。
#
# **先选一个。** vLLM 用了 40 步，它要几步？
#
# - A. 约 45 步
# - B. 约 55 步
# - C. 约 70 步

# %% [markdown] lang="en" key="batch-text"
# <details><summary>Reading</summary>
#
# A. Where blocks lie makes no difference to what is computed; the table keeps the order. vLLM's kernels do not gather first: they read by the block table as they compute, which saves the copy and gives the same result.
#
# </details>
#
# Now change it: put `if paged.length == 96: blocks[0], blocks[1] = blocks[1], blocks[0]` at the start of the last loop in the cell above. When two pieces of r4 are read and three blocks are full, it swaps two ids. Does the assertion still hold? Then try 2 and 3 in place of 0 and 1.
#
# <details><summary>Reading</summary>
#
# Two full blocks may change places: each key carries its own position (RoPE, lesson 03), and attention sums over all keys. A full block and one not yet written may not: one block of the tokens read so far is then missing, and new ones are written over it.
#
# </details>
#
# This is the end of the first sitting, a good place for a break.
#
# ## Second sitting: one batch after the other
#
# A scheduler is a function that is called once a step:
#
# - `waiting` and `running` are lists of requests, the first to come in front;
# - `request.known` is how many tokens are known (before a request starts, the length of its prompt), `request.computed` how many of them are computed, `request.blocks` the block table;
# - `pool.grow(request, tokens)` is exercise 1: afterwards the request's blocks hold `tokens` tokens in all; it returns `False` if too few are free. `pool.blocks_for(tokens)` tells how many blocks that takes, `pool.free` lists the free ones, `pool.release(request)` gives a request's blocks back;
# - `settings` has `max_num_batched_tokens` and `max_num_seqs`;
# - it returns a dictionary: request -> tokens in this step, without those that compute nothing. A request that starts is moved by the function from `waiting` to the end of `running`.
#
# The rest (rule 5) is done for you: after the step the course updates `known` and `computed`, and takes out whoever is done.
#
# First a plain one: fill a batch, and start the next when all of it is done. The same requests come before the same steps, and `lA3.beside` finds the first step that is not vLLM's and draws both.
#
# **Choose first.** vLLM takes 40 steps. How many does this one take?
#
# - A. About 45
# - B. About 55
# - C. About 70


# %% key="batch"
def batch_at_a_time(waiting, running, pool, settings):
    if not running:
        while waiting and len(running) < settings.max_num_seqs:
            running.append(waiting.pop(0))
    step = {}
    budget = settings.max_num_batched_tokens
    for request in running:
        tokens = min(request.known - request.computed, budget)
        if tokens > 0:
            pool.grow(request, request.computed + tokens)
            step[request] = tokens
            budget -= tokens
    return step


done = lA3.run(batch_at_a_time, trace.settings, trace.requests)
ours, theirs = len(done.steps), len(trace)
print(say(f"{ours} 步；vLLM：{theirs} 步", f"{ours} steps; vLLM: {theirs}"))
lA3.beside(batch_at_a_time, trace)

# %% [markdown] lang="zh" key="ex3-text"
# <details><summary>读图</summary>
#
# C，70 步：第一批里 r0 最长，40 步；第二批里 r3 最长，30 步。上面一张是它的，下面一张是 vLLM 的。第 2 步就不同了：r3 到了，位子还空着一个，vLLM 马上让它开始，一批一批来的却要它等到前三个都写完。
#
# </details>
#
# ## 连续批处理
#
# ### 练习 3 ★★★（15 分钟）：写一步
#
# 照卡片写规则 1 到 4。抢占先不管：这份录像里块一直够用，`pool.grow` 总会成功。检查先用几个小例子，再用这份录像里的请求；`lA3.beside` 再拿你的每一步和 vLLM 的比。
#
# <details><summary>提示</summary>
#
# 两个循环。第一个走 `running`：`tokens = min(request.known - request.computed, budget)`，领块，记进字典，从预算里减掉；预算用完就停。第二个 `while`：有人等、有预算、有位子时看 `waiting[0]`，空闲的块不够它整个提示词就停，否则 `running.append(waiting.pop(0))`，再像第一个循环那样领块、记、减。
#
# </details>

# %% [markdown] lang="en" key="ex3-text"
# <details><summary>Reading</summary>
#
# C: 70. The longest of the first batch, r0, takes 40 steps, and that of the second, r3, 30. The upper figure is its own, the lower one vLLM's. Step 2 differs already: r3 has come, a seat is free, and vLLM lets it start at once, while batch after batch it has to wait until the first three are done.
#
# </details>
#
# ## Continuous batching
#
# ### Exercise 3 ★★★ (15 minutes): write a step
#
# Write rules 1 to 4 of the card. Leave preemption aside: in this recording there are always enough blocks, and `pool.grow` succeeds. The check takes a few small cases first, then the requests of this recording; `lA3.beside` then holds each of your steps against vLLM's.
#
# <details><summary>Hint</summary>
#
# Two loops. The first goes through `running`: `tokens = min(request.known - request.computed, budget)`, take blocks, write it into the dictionary, take it off the budget; stop when that is used up. The second is a `while`: as long as somebody waits, with budget and a seat left, look at `waiting[0]`; stop if the free blocks do not hold its whole prompt, else `running.append(waiting.pop(0))`, and take blocks, write and take off as in the first loop.
#
# </details>


# %% key="ex3" tags=["exercise"]
def schedule_step(waiting, running, pool, settings):
    return ...


# %% key="ex3-solution" tags=["solution"]
def schedule_step(waiting, running, pool, settings):  # noqa: F811
    step = {}
    budget = settings.max_num_batched_tokens
    for request in running:
        tokens = min(request.known - request.computed, budget)
        if tokens == 0:
            break
        pool.grow(request, request.computed + tokens)
        step[request] = tokens
        budget -= tokens
    while waiting and budget and len(running) < settings.max_num_seqs:
        request = waiting[0]
        if pool.blocks_for(request.known) > len(pool.free):
            break
        tokens = min(request.known, budget)
        pool.grow(request, tokens)
        running.append(waiting.pop(0))
        step[request] = tokens
        budget -= tokens
    return step


# %% key="ex3-check"
lA3.ex3.check(schedule_step, trace)
lA3.beside(schedule_step, trace)

# %% [markdown] lang="zh" key="mini-text"
# ## 装起来：vLLM 的词元，一个不差
#
# 调度器定好一步，模型照着算，算出来的键和值放进块里：三样东西合在一起，就是一个推理引擎。下一格把你的调度器、块和 `gather` 装起来（没写完的用参考答案），喂给它同样的请求，再和 vLLM 写出的词元比。为了好读，它把一步里的请求一个一个地算；vLLM 把它们并成一次，模型只跑一遍。

# %% [markdown] lang="en" key="mini-text"
# ## Put together: vLLM's tokens, every one
#
# The scheduler decides a step, the model computes it, keys and values go into blocks: the three together are an inference engine. The next cell joins your scheduler, the blocks and your `gather` (with reference answers for what is not solved yet), feeds it the same requests and compares what it writes with vLLM's tokens. To be readable it computes the requests of a step one by one; vLLM computes them all in one pass of the model.


# %% key="mini"
def mini_vllm(schedule_step, trace, prompts):
    pool, waiting, running = lA3.Pool(trace.settings), [], []
    texts = [list(prompt) for prompt in prompts]
    requests = []
    for number, entry in enumerate(trace.requests):
        requests.append(lA3.Request(number, len(prompts[number]), entry.outputs))
    index = 0
    while any(request.to_write for request in requests):
        for request in requests:
            if trace.requests[request.number].arrived == index:
                waiting.append(request)
        step = schedule_step(waiting, running, pool, trace.settings)
        for request, tokens in step.items():
            text = texts[request.number]
            end = request.computed + tokens
            piece = torch.tensor([text[request.computed : end]])  # (1, tokens)
            cache = PagedCache(memory, request.blocks, request.computed)
            logits = model(piece, cache=cache)  # (1, tokens, vocab)
            if end == request.known:
                text.append(logits[0, -1].argmax().item())
        lA3.finish(step, running, pool)
        index += 1
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


my_step = lA3.yours_or_ours("schedule_step", lA3.ex3, schedule_step, trace)
ours = mini_vllm(my_step, trace, prompts)
total = sum(len(written) for written in ours)
print(total, say("个词元，全部相同：", "tokens, all equal:"), ours == answers)
assert ours == answers

# %% [markdown] lang="zh" key="budget-text"
# 六个请求，142 个词元，和真正的 vLLM 一个不差。（每个请求写几个是定好的，所以换一种调度，写出来的词元还是这些；可是只要有一块取错，词元就不一样了。）
#
# ## 两个旋钮
#
# 调度器是自己写的，旋钮就可以随便拧。下一格先换预算，再换位子，数一数一共几步、最大的一步有几个词元。
#
# **先选一个。** 预算从 48 加到 256，191 个词元的提示词一步就能读完。总步数会怎样？
#
# - A. 少一半
# - B. 少几步
# - C. 一步也不少

# %% [markdown] lang="en" key="budget-text"
# Six requests, 142 tokens, every one that of the real vLLM. (How many each one writes is fixed, so every scheduler gives these tokens, only in other steps. With one wrong block they would differ.)
#
# ## Two knobs
#
# The best of having one's own scheduler is that all its knobs turn. The next cell changes the budget, then the seats, and counts all steps and the tokens of the largest.
#
# **Choose first.** With the budget at 256 instead of 48, the prompt of 191 tokens is read in a single step. What happens to the number of steps?
#
# - A. Half of them go
# - B. A few go
# - C. Not one goes

# %% key="budget"
from dataclasses import replace


def count(**changes):
    settings = replace(trace.settings, **changes)
    steps = lA3.run(my_step, settings, trace.requests).steps
    largest = max(sum(step.tokens.values()) for step in steps)
    return f"{len(steps):3} {largest:4}"


print(say("预算、步数、最大的一步", "budget, steps, largest step"))
for budget in (16, 24, 48, 256):
    print(f"{budget:4}", count(max_num_batched_tokens=budget))
print(say("位子、步数、最大的一步", "seats, steps, largest step"))
for seats in (1, 2, 4, 8):
    print(f"{seats:4}", count(max_num_seqs=seats))

# %% [markdown] lang="zh" key="tight-text"
# <details><summary>读结果</summary>
#
# C。r0 要写 40 个词元，一步一个，少于 40 步谁也做不到。预算大，好处不在少走几步，而在长提示词一步就读完，首个词元来得早；代价是 194 个词元的那一步很久，正在写的人都得等它，词元间隔突然变长。预算小，每一步都短，但长提示词要读许多步，首个词元来得晚。有了分段预填充，你才能在两头之间选。位子也是一个旋钮：只有 1 个，就是一个写完再写下一个，145 步；4 个以后再加，步数也不会更少，因为 r0 一个就要 40 步。
#
# </details>
#
# 现在你来改：把 `count` 里的 `trace.requests` 换成 `[replace(entry, prompt=200) for entry in trace.requests]`，六个提示词就都这么长。这时哪一个旋钮能省步数？
#
# <details><summary>答案</summary>
#
# 预算：从 48 加到 256，步数少了，因为读提示词要的步数少了。位子从 2 加到 8，一步也不省：每个提示词要 7 块，15 块只放得下两个请求。
#
# </details>
#
# 第 08 课的服务器上，这两个旋钮就是 `--max-num-seqs` 和 `--max-num-batched-tokens`。
#
# ## 缓存不够时：抢占（选读）
#
# 第二份录像里，四个请求一起写，每个都要写一百多个词元，15 块装不下。
#
# **先选一个。** 第 85 步，r3 被请走，块都还了回去。它已经写的词元呢？
#
# - A. 丢了，从头再写
# - B. 文字留着，键和值以后重新算
# - C. 键和值先搬到别处，以后搬回来

# %% [markdown] lang="en" key="tight-text"
# <details><summary>Reading</summary>
#
# C. r0 writes 40 tokens, one a step, and nobody can do that in fewer than 40 steps. What a large budget gives is not fewer steps: a long prompt is read in one, and its first token comes early. The price is that step of 194 tokens: it takes long, and all who write wait for it, a jump in the inter-token latency. With a small budget every step is short, but a long prompt takes many, and its first token comes late. Chunked prefill lets you choose a point between the two. Seats are a knob, too: with 1, one request after the other, 145 steps; beyond 4 the steps get no fewer, as r0 alone takes 40.
#
# </details>
#
# Now change it: in `count`, put `[replace(entry, prompt=200) for entry in trace.requests]` for `trace.requests`, and each of the six prompts is that long. Which knob saves steps now?
#
# <details><summary>Answer</summary>
#
# The budget: from 48 to 256 there are fewer steps, as prompts are read in fewer of them. Seats from 2 to 8 save not one: a prompt takes 7 blocks, and 15 blocks hold two such requests.
#
# </details>
#
# On the server of lesson 08 these two knobs are `--max-num-seqs` and `--max-num-batched-tokens`.
#
# ## When the cache runs out: preemption (extra)
#
# In the second recording four requests write at once, well over a hundred tokens each, and 15 blocks do not hold them.
#
# **Choose first.** At step 85 r3 is sent away, and its blocks go back. What of the tokens that it has written?
#
# - A. They are lost, and it writes anew
# - B. The text stays, its keys and values are computed again later
# - C. Its keys and values are moved elsewhere, and moved back later

# %% key="tight" tags=["extra"]
for step in tight.replay():
    if step.preempted or step.resumed:
        print(step.index, step.tokens, step.preempted, step.resumed)
ScheduleExplorer(tight, step=85, request=3)

# %% [markdown] lang="zh" key="ex4-text"
# <details><summary>读图</summary>
#
# B。打印的是：步、各请求的词元数、谁被抢占、谁恢复。r3 在第 140 步恢复，把提示词和写过的词元一起当作一段长提示词再读一遍，先读 46 个，是那一步剩下的预算；第 146 步它又被请走一次。重算要花时间，所以缓存太小，引擎会变慢，却不会出错。
#
# </details>
#
# ### 练习 4 ★★☆（10 分钟，选读）：请最后一个离开
#
# 从练习 3 的函数抄起，加上规则 6：`pool.grow` 返回 `False` 时，`running` 的最后一个离开，再试一次；要走的可能正是缺块的那个自己。离开的请求归还它的块，`computed` 归 0，回到 `waiting` 的最前面，这一步什么也不算。
#
# <details><summary>提示</summary>
#
# 第一个循环走 `list(running)`，这样走的同时可以删；轮到的请求若已不在 `running` 里，就停。`while not pool.grow(...)` 里面：`last = running.pop()`，归还，归 0，`waiting.insert(0, last)`；`last` 就是它自己时用 `break`。循环之后，它还在 `running` 里才记进字典。
#
# </details>

# %% [markdown] lang="en" key="ex4-text"
# <details><summary>Reading</summary>
#
# B. Printed are the step, the tokens of each request, who is preempted and who resumes. r3 resumes at step 140: its prompt and what it has written are read again like one long prompt, 46 tokens first, which is what that step's budget has left; at step 146 it is sent away once more. Computing again takes time, so an engine with too small a cache gets slower, but never wrong.
#
# </details>
#
# ### Exercise 4 ★★☆ (10 minutes, extra): send the last one away
#
# Begin with your function of exercise 3 and add rule 6: where `pool.grow` returns `False`, the last of `running` leaves, and you try again. The last may be the very request that needs the block. A request that leaves gives its blocks back, has `computed` set to 0, goes to the front of `waiting` and computes nothing in this step.
#
# <details><summary>Hint</summary>
#
# Let the first loop go through `list(running)`, so that you may remove from the list meanwhile; stop at a request that is no longer in `running`. Inside `while not pool.grow(...)`: `last = running.pop()`, give back, set to 0, `waiting.insert(0, last)`, and `break` if `last` is the request itself. After that loop, write it into the dictionary only if it is still in `running`.
#
# </details>


# %% key="ex4" tags=["exercise", "extra"]
def with_preemption(waiting, running, pool, settings):
    return ...


# %% key="ex4-solution" tags=["solution"]
def with_preemption(waiting, running, pool, settings):  # noqa: F811
    step = {}
    budget = settings.max_num_batched_tokens
    for request in list(running):
        tokens = min(request.known - request.computed, budget)
        if tokens == 0 or request not in running:
            break
        while not pool.grow(request, request.computed + tokens):
            last = running.pop()
            pool.release(last)
            last.computed = 0
            waiting.insert(0, last)
            if last is request:
                break
        if request in running:
            step[request] = tokens
            budget -= tokens
    while waiting and budget and len(running) < settings.max_num_seqs:
        request = waiting[0]
        if pool.blocks_for(request.known) > len(pool.free):
            break
        tokens = min(request.known, budget)
        pool.grow(request, tokens)
        running.append(waiting.pop(0))
        step[request] = tokens
        budget -= tokens
    return step


# %% key="ex4-check" tags=["extra"]
lA3.ex4.check(with_preemption, tight)
lA3.beside(with_preemption, tight)

# %% [markdown] lang="zh" key="cost-text"
# **先选一个（选读）。** 缓存从 24 块减到 12 块，同样的四个请求，步数会怎样？
#
# - A. 不变：只是多等一等
# - B. 多出一半左右
# - C. 翻三倍以上

# %% [markdown] lang="en" key="cost-text"
# **Choose first (extra).** With 12 blocks instead of 24, for the same four requests, what happens to the number of steps?
#
# - A. It stays the same: they only wait a little
# - B. It grows by about half
# - C. It more than triples

# %% key="cost" tags=["extra"]
my_step = lA3.yours_or_ours("with_preemption", lA3.ex4, with_preemption, tight)
assert mini_vllm(my_step, tight, prompts[:4]) == long_answers
print(say("块、步数、抢占、算过的词元", "blocks, steps, preemptions, tokens computed"))
for blocks in (10, 12, 16, 24):
    settings = replace(tight.settings, num_blocks=blocks)
    done = lA3.run(my_step, settings, tight.requests)
    computed = sum(sum(step.tokens.values()) for step in done.steps)
    away = sum(len(step.preempted) for step in done.trace.replay())
    print(f"{blocks:3} {len(done.steps):4} {away:2} {computed:5}")

# %% [markdown] lang="zh" key="recap"
# <details><summary>读结果</summary>
#
# B：246 步对 160 步。24 块时没有人被请走，633 个词元各算一遍；12 块时多算了三百多个。断言说的是：有了抢占，迷你 vLLM 的词元还是和 vLLM 的一个不差。服务器的日志里常见抢占，就该少放几个请求进来，或者给缓存更多显存。
#
# </details>
#
# ## 小结
#
# - 调度器在模型每算一遍之前定好：谁的、几个词元。它只数词元和块，和权重无关。
# - 块让缓存的浪费只剩每个请求的最后一块；块表管次序，块放在哪里不影响结果。
# - 连续批处理：先排正在运行的，剩下的预算马上给等待的；一个位子也不白空着。
# - 分段预填充：长提示词按预算分几步读，别人照样写。
# - 抢占：块不够时，最后来的先让，以后重算；慢，但不会错。
#
# ## 自测
#
# 1. 一个请求已知 100 个词元，每块 32 个，要几块？连提示词一起数，算到第几个词元时要领下一块？
# 2. 预算 48，三个请求在写，一个 100 个词元的提示词进来，这一步它算几个？
# 3. 为什么等待的第一个进不来时，不让后面短的先进？
# 4. 被抢占的请求恢复后，写出来的词元会和没被抢占时不同吗？
# 5. 预算开到很大，谁受益，谁吃亏？
#
# <details><summary>答案</summary>
#
# 1. 4 块，放得下 128 个；算第 129 个词元时要领。
# 2. 45 个：先给在写的各 1 个。
# 3. 先来先服务：不然长提示词可能永远等不到。
# 4. 不会，只要算得够精确：同样的词元重新算出同样的键和值。
# 5. 刚到的长提示词受益，首个词元来得早；正在写的吃亏，那一步变长。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | 检查说“预算只有……” | 忘了从预算里减掉 | 每排一个请求，就减一次 |
# | 检查说“块只放得下……” | `pool.grow` 传了这一步的词元数 | 它要的是总数：`computed + tokens` |
# | 第一个长提示词之后就卡住 | 放不下就整个不排 | 先算一段：`min(..., budget)` |
# | 运行的请求隔一个漏一个 | 一边走 `running`，一边从里面删 | 走 `list(running)` |
# | 打开引擎时报 `No common block size` | CPU 上的 vLLM 只收 32 的倍数 | `block_size=32` |
#
# ## 延伸阅读
#
# - vLLM 0.32 的调度器：[`scheduler.py`](https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/v1/core/sched/scheduler.py)，`schedule` 一个方法；你现在读得懂它的主干
# - 连续批处理：[Orca（Yu 等，2022）](https://www.usenix.org/conference/osdi22/presentation/yu)；分页：[PagedAttention（Kwon 等，2023）](https://arxiv.org/abs/2309.06180)；分段预填充：[Sarathi-Serve（Agrawal 等，2024）](https://arxiv.org/abs/2403.02310)
# - 更大的自制引擎：[nano-vllm](https://github.com/GeeeekExplorer/nano-vllm)、[tiny-llm](https://github.com/skyzh/tiny-llm)

# %% [markdown] lang="en" key="recap"
# <details><summary>Reading</summary>
#
# B: 246 steps against 160. With 24 blocks nobody is sent away, and 633 tokens are computed once each; with 12, more than three hundred are computed again. What the assertion says: with preemption, too, every token of the mini vLLM is that of vLLM. Where a server's log tells of preemptions again and again, let fewer requests in, or give the cache more memory.
#
# </details>
#
# ## Recap
#
# - Before each pass of the model the scheduler decides whose tokens are in it, and how many. It counts tokens and blocks and knows no weights.
# - With blocks, all that a cache wastes is the rest of each request's last block; the block table keeps the order, and where blocks lie changes no result.
# - Continuous batching: those that run come first, and what is left of the budget goes at once to those that wait; no seat stays empty.
# - Chunked prefill: a long prompt is read over several steps, as the budget allows, while the others write on.
# - Preemption: where blocks run out, the last to come makes room and is computed again later; slow, but never wrong.
#
# ## Test yourself
#
# 1. A request knows 100 tokens, blocks have 32: how many blocks? At which token does it need the next one?
# 2. The budget is 48, three requests write, and a prompt of 100 tokens comes in. How many tokens of the prompt does this step compute?
# 3. The first in line does not fit: why is a shorter one behind it not let in?
# 4. A request was preempted and has resumed. Does it write other tokens than it would have?
# 5. With a very large budget, who gains, and who loses?
#
# <details><summary>Answers</summary>
#
# 1. 4 blocks, which hold 128; it needs the next one for token 129.
# 2. 45: those that write get 1 each before it.
# 3. First come, first served: otherwise a long prompt might wait for ever.
# 4. No, as long as the arithmetic is exact enough: the same tokens give the same keys and values again.
# 5. A long prompt that has just come gains, its first token is early; those that write lose, as that step is long.
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | the check says "the budget is ..." | nothing was taken off the budget | take off what each request gets |
# | the check says "its blocks have room for ..." | `pool.grow` was given the tokens of this step | it wants the total: `computed + tokens` |
# | nothing moves behind the first long prompt | what does not fit is left out as a whole | compute a chunk: `min(..., budget)` |
# | every other running request is left out | you go through `running` and remove from it | go through `list(running)` |
# | the engine does not open: `No common block size` | vLLM on a CPU takes multiples of 32 only | `block_size=32` |
#
# ## Further reading
#
# - The scheduler of vLLM 0.32: [`scheduler.py`](https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/v1/core/sched/scheduler.py), one method, `schedule`; you can now read the trunk of it
# - Continuous batching: [Orca (Yu et al., 2022)](https://www.usenix.org/conference/osdi22/presentation/yu); paging: [PagedAttention (Kwon et al., 2023)](https://arxiv.org/abs/2309.06180); chunked prefill: [Sarathi-Serve (Agrawal et al., 2024)](https://arxiv.org/abs/2403.02310)
# - Larger engines to build: [nano-vllm](https://github.com/GeeeekExplorer/nano-vllm), [tiny-llm](https://github.com/skyzh/tiny-llm)
