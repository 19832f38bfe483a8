# %% [markdown] lang="zh" key="title"
# # 03 · 注意力，和 Qwen3 改了什么
#
# | | |
# |---|---|
# | 学完能做 | 在纸上算出一行注意力；看懂一个真实的注意力头；写出 Qwen3 的注意力，装进现成的模型；说清 Qwen3 和 Qwen2 的六处差别 |
# | 先修 | 会读 Python；知道矩阵乘法 |
# | 时间 | 60 分钟；标着“选读”的另算 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上 |
# | 模型 | 课程自带的 `qwen3-tiny` |

# %% [markdown] lang="en" key="title"
# # 03 · Attention, and what Qwen3 changed
#
# | | |
# |---|---|
# | You will be able to | work out a row of attention on paper; read a real attention head; write Qwen3's attention, put it into a ready model; name the six ways in which Qwen3 differs from Qwen2 |
# | Prerequisites | you read Python and know matrix multiplication |
# | Time | 60 minutes; what is marked "extra" comes on top |
# | Hardware | any Linux CPU with 4 GB of memory |
# | Model | the bundled `qwen3-tiny` |

# %% key="setup"
import copy

import torch
from torch import nn

from helpers import models, say
from helpers.lessons import l03

torch.set_num_threads(1)
folder = models.find_checkpoint("qwen3-tiny")
print(models.describe(folder))

# %% [markdown] lang="zh" key="need-text"
# ## 下一个数字要看哪里
#
# 模型读到的是一串**词元**（token）：在这里，一个数字、一个符号就是一个词元。它给每个可能的下一个词元打一个分，叫 logit，再把分数最高的接在后面，一个一个往下写。下一格的 `write` 做的就是这件事，别的行不必读懂。
#
# 小模型在算 `37×46`。它已经写到 `37×40=`，接着要写 `1480`。
#
# **先选一个。** 只写出 `1480` 的第一个数字 `1`，至少要看前面哪些数字？
#
# - A. `3`、`7`、`4`、`0`，缺一个都不行
# - B. 只要 `3`
# - C. `3` 和 `4`

# %% [markdown] lang="en" key="need-text"
# ## Where the next digit has to look
#
# A model reads a row of **tokens**: here a digit or a sign is one token. It gives every possible next token a score, its logit, appends the one with the highest score, and so writes one after the other. `write` in the next cell does just that; the other lines need not be understood.
#
# The tiny model works out `37×46`. It has come to `37×40=` and has to write `1480`.
#
# **Choose first.** To write just the first digit of `1480`, the `1`, which earlier digits does one need at least?
#
# - A. `3`, `7`, `4` and `0`, every one of them
# - B. `3` alone
# - C. `3` and `4`

# %% key="write" tags=["raw"]
import transformers

transformers.utils.logging.disable_progress_bar()
model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager"
).requires_grad_(False)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)


def write(model, tokens, most):
    for _ in range(most):
        # zh: 最后一个位置的 logits 里，分数最高的词元
        # en: the token with the highest of the logits at the last place
        next_token = model(tokens).logits[:, -1].argmax(dim=-1, keepdim=True)  # (1, 1)
        tokens = torch.cat((tokens, next_token), dim=1)
        if next_token.item() == tokenizer.eos_token_id:
            break
    return tokens


question = tokenizer.apply_chat_template(
    [{"role": "user", "content": "37×46=?"}], tokenize=False, add_generation_prompt=True
)
begun = question + "<think>\n46=40+6\n37×40="
tokens = tokenizer(begun, return_tensors="pt").input_ids  # (1, seq)
tokens = write(model, tokens, 4)
print(tokenizer.decode(tokens[0]))

# %% [markdown] lang="zh" key="paper-text" facts="1200 2000 1.41 4.11 0.71 2.03 7.14"
# <details><summary>读结果</summary>
#
# C。看到 `3` 和 `4`，就知道是三十几乘四十几：最小是 1200，最大不到 2000，第一个数字总是 `1`。只看 `3` 还不够。写别的数字，要看的地方又不同。
#
# </details>
#
# **注意力**（attention）就是做这件事的：让每个词元从前面的词元里取来它要的东西。
#
# ## 在纸上算一行
#
# 每个词元有三个向量：**查询**（query）说它在找什么，**键**（key）说它这里有什么，**值**（value）是它能给出的内容。为了能用笔算，每个向量只有两个数，数是我们编的：
#
# | 词元 | 查询 | 键 | 值 |
# |---|---|---|---|
# | `4` | (0, 1) | (1, 0) | (4, 0) |
# | `0` | (1, 1) | (0, 1) | (0, 0) |
# | `=` | (2, 0) | (0.5, 1) | (0, 1) |
#
# 拿出纸笔，算 `=` 这一行：
#
# 1. **打分**：`=` 的查询和每个键做点积，得 2、0、1。所有的行一起算，就是矩阵乘法 $QK^T$。
# 2. **缩放**：除以 $\sqrt{d}$，$d$ 是一个向量里有几个数，这里是 2。得 1.41、0、0.71。这叫注意力分数。
# 3. **因果掩码**（causal mask）：不许看后面的词元，所以把后面的分数换成负无穷。`=` 在最后，什么都不用遮。
# 4. **softmax**：对每个分数 $s$ 求 $e^s$，得 4.11、1、2.03；再除以它们的和 7.14，得 0.58、0.14、0.28。这一行加起来是 1，就是权重。
# 5. **取值**：按权重把值加起来，0.58 × (4, 0) + 0.14 × (0, 0) + 0.28 × (0, 1)，约为 (2.30, 0.28)。
#
# `=` 给 `4` 的权重最大，取来的也大半是 `4` 的值。
#
# 下一格用 torch 把三行一起算完，再和 PyTorch 自带的注意力对照。`@` 是矩阵乘法，`key.T` 是转置。`triu(1)` 留下对角线右上方的格子，也就是每个词元后面的词元；`masked_fill` 把那里换成负无穷；`softmax(dim=-1)` 一行一行地算。

# %% [markdown] lang="en" key="paper-text" facts="1200 2000 1.41 4.11 0.71 2.03 7.14"
# <details><summary>Reading</summary>
#
# C. `3` and `4` tell that it is thirty-something times forty-something: 1200 at least and less than 2000, so the first digit is always `1`. `3` alone is not enough. Other digits need other places.
#
# </details>
#
# That is what **attention** does: each token fetches what it needs from the tokens before it.
#
# ## One row on paper
#
# Each token has three vectors. Its **query** says what it looks for, its **key** what it has, and its **value** is what it hands out. So that a pencil is enough, each vector has two numbers here, and we made them up:
#
# | Token | Query | Key | Value |
# |---|---|---|---|
# | `4` | (0, 1) | (1, 0) | (4, 0) |
# | `0` | (1, 1) | (0, 1) | (0, 0) |
# | `=` | (2, 0) | (0.5, 1) | (0, 1) |
#
# Take a pencil and work out the row of `=`:
#
# 1. **Score**: the dot product of its query with each key: 2, 0, 1. For all rows at once, that is the matrix product $QK^T$.
# 2. **Scale**: divide by $\sqrt{d}$, where $d$ is how many numbers a vector has, here 2: 1.41, 0, 0.71. These are the attention logits.
# 3. **Causal mask**: a token must not see those that come after it, so their scores become minus infinity. `=` is the last one; nothing is hidden from it.
# 4. **Softmax**: for each score $s$ take $e^s$: 4.11, 1, 2.03. Divide by their sum, 7.14: 0.58, 0.14, 0.28. The row adds up to 1; these are the weights.
# 5. **Fetch**: add up the values by their weights: 0.58 × (4, 0) + 0.14 × (0, 0) + 0.28 × (0, 1), about (2.30, 0.28).
#
# `=` gives most weight to `4`, so most of what it gets is the value of `4`.
#
# The next cell does all three rows in torch and compares with PyTorch's own attention. `@` multiplies matrices, `key.T` is the transpose. `triu(1)` keeps what is above the diagonal, for each token those after it; `masked_fill` puts minus infinity there; `softmax(dim=-1)` works row by row.

# %% key="four-lines"
torch.set_printoptions(precision=2, sci_mode=False)
query = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])  # (seq, d)
key = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 1.0]])
value = torch.tensor([[4.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
future = torch.ones(3, 3, dtype=torch.bool).triu(1)  # (seq, seq)


def attend(query, key, value):
    scores = query @ key.T / 2**0.5  # (seq, seq)
    scores = scores.masked_fill(future, -torch.inf)
    weights = scores.softmax(dim=-1)
    return weights, weights @ value


weights, output = attend(query, key, value)
print(weights, output, sep="\n")
library = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
torch.testing.assert_close(output, library)

# %% [markdown] lang="zh" key="change-text"
# 最后一行就是纸上的那一行。第一行是 1、0、0：`4` 前面没有别的词元，只能看自己。
#
# **先选一个。** 把 `0` 的键改成 (3, 1)，别的都不动。`=` 给 `4` 的权重会怎样？先算 `=` 给 `0` 打几分。
#
# - A. 不变：`4` 的键没有动
# - B. 变小
# - C. 变大

# %% [markdown] lang="en" key="change-text"
# The last row is the one on paper. The first is 1, 0, 0: nothing stands before `4`, so it can look at itself only.
#
# **Choose first.** Change the key of `0` to (3, 1) and nothing else. What happens to the weight that `=` gives to `4`? First work out the score that `=` gives to `0`.
#
# - A. It stays: the key of `4` is the same
# - B. It falls
# - C. It rises

# %% key="change"
other_key = torch.tensor([[1.0, 0.0], [3.0, 1.0], [0.5, 1.0]])
weights, output = attend(query, other_key, value)
print(weights[2], output[2])

# %% [markdown] lang="zh" key="head-text"
# <details><summary>读结果</summary>
#
# B。`0` 的分数（缩放之前）从 0 变成 6，权重却总共只有 1：它多拿，别人就少拿。
#
# 现在你来改：把 `=` 自己的键改成 (5, 1)，再运行一遍，看它最看重谁。
#
# </details>
#
# ## 一个真实的头
#
# 真正的模型里，这三个向量不是编的。模型是一层一层叠起来的。它为每个词元记着一个向量，叫**隐藏状态**（hidden states）。每一层用三个训练出来的矩阵 `q_proj`、`k_proj`、`v_proj` 去乘它，这一步叫投影，得到查询、键和值。
#
# 这样算一遍，叫一个**注意力头**（attention head）。小模型有 5 层，每层 6 个头，各有自己的查询；一个向量有 32 个数。
#
# 下一格画出第 1 层的第 5 个头（都从 0 数起）在写 `1480` 时的权重。`attentions[1][0, 5]` 里的三个数，依次是第几层、第几段文字、第几个头。30 个头里，这一个是**挑出来的**，因为它好懂。
#
# **先选一个。** `=` 要写出 `1`，这个头最看重哪一个？
#
# - A. `4`
# - B. 离它最近的数字 `0`
# - C. `=` 自己

# %% [markdown] lang="en" key="head-text"
# <details><summary>Reading</summary>
#
# B. The score of `0` (before scaling) went from 0 to 6, but there is only 1 to share out: what it gains, the others lose.
#
# Now change it yourself: give `=` the key (5, 1) and run the cell again. What does it look at most?
#
# </details>
#
# ## A real head
#
# In a real model nobody makes these vectors up. A model is a stack of layers, and it keeps a vector for each token, its **hidden state**. Each layer multiplies it by three trained matrices, `q_proj`, `k_proj` and `v_proj`; that is called a projection, and it gives query, key and value.
#
# One such computation is an **attention head**. The tiny model has 5 layers with 6 heads each, every one with queries of its own, and 32 numbers in a vector.
#
# The next cell draws the weights of head 5 in layer 1 (both counted from 0) as it writes `1480`. In `attentions[1][0, 5]` the three numbers are the layer, the text and the head. Of the 30 heads, this one was **picked**, because it is easy to read.
#
# **Choose first.** As `=` is about to write `1`, what does this head look at most?
#
# - A. `4`
# - B. The nearest digit, `0`
# - C. `=` itself

# %% key="head"
attentions = model(tokens, output_attentions=True).attentions
weights = attentions[1][0, 5]  # (seq, seq)
texts = [tokenizer.decode(token) for token in tokens[0]]
for place in range(-5, -1):
    most = weights[place].argmax().item()
    print(texts[place], "->", texts[most], f"{weights[place, most]:.2f}")
l03.head_map(weights, texts, columns=10, rows=4)

# %% [markdown] lang="zh" key="groups-text"
# <details><summary>读图</summary>
#
# A。一行是一个正在写的词元，一列是它能看的词元，条越高，权重越大；“前面其他”是这一行算式之前所有词元的权重之和。写 `1` 时看 `4`，0.97；写 `4` 时看 `3`，0.84；写 `8` 时看 `7`，0.61：它依次去取做乘法要用的数字。写最后的 `0` 时，它最看重上一行 `46=40+6` 里的 `=`，0.34，图上算在“前面其他”里。
#
# 看着哪里，不等于答案从哪里来；这一个头，也说明不了别的头。现在你来改：换一层，换一个头，还好懂吗？
#
# </details>
#
# ## 许多头，共用的键
#
# 每个头看不同的地方。各头取来的值并排放好，再由矩阵 `o_proj` 合成一个向量。
#
# 后面的词元还要看前面词元的键和值，所以都留着，这就是 **KV 缓存**（KV cache）。头越多，要留的越多。**分组查询注意力**（grouped-query attention，[GQA](https://arxiv.org/abs/2305.13245)）让相邻的几个查询头共用一个键和一个值，这样的一对叫一个 KV 头。小模型每层有 6 个查询头，只有 2 个 KV 头。
#
# **先选一个。** 查询头 0、1、2、3、4、5 依次用哪个 KV 头？
#
# - A. 0、0、0、1、1、1
# - B. 0、1、0、1、0、1

# %% [markdown] lang="en" key="groups-text"
# <details><summary>Reading</summary>
#
# A. A row is a token that is writing, a column a token it may see; the taller the bar, the larger the weight. "before" adds up all tokens before this line. Writing `1` it looks at `4`, with 0.97; writing `4` at `3`, 0.84; writing `8` at `7`, 0.61: one after the other, the digits that the product needs. For the last `0` it looks most at the `=` in the line before, `46=40+6`, with 0.34, which the figure counts as "before".
#
# Where a head looks is not yet where the answer comes from, and this one head says nothing of the others. Now change it: take another layer and head. Is it as easy to read?
#
# </details>
#
# ## Many heads, shared keys
#
# Each head looks somewhere else. What the heads fetch is put side by side, and a matrix, `o_proj`, makes one vector of it.
#
# Later tokens look at the keys and values of earlier ones, so they are kept: the **KV cache**. The more heads, the more to keep. **Grouped-query attention** ([GQA](https://arxiv.org/abs/2305.13245)) lets neighbouring query heads share a key and a value; such a pair is called a KV head. The tiny model has 6 query heads in a layer and only 2 KV heads.
#
# **Choose first.** Which KV head do the query heads 0, 1, 2, 3, 4, 5 use, in this order?
#
# - A. 0, 0, 0, 1, 1, 1
# - B. 0, 1, 0, 1, 0, 1

# %% key="groups"
trained = model.model.layers[1].self_attn
print("q_proj:", trained.q_proj.out_features // 32, "× 32")
print("k_proj:", trained.k_proj.out_features // 32, "× 32")
print("v_proj:", trained.v_proj.out_features // 32, "× 32")
print(torch.arange(2).repeat_interleave(3))
# zh: Qwen3-8B：键和值，36 层，8 个 KV 头，每个向量 128 个数，每个数 2 字节
# en: Qwen3-8B: key and value, 36 layers, 8 KV heads, vectors of 128 numbers of 2 bytes
print("Qwen3-8B:", 2 * 36 * 8 * 128 * 2 / 1024, "KiB")

# %% [markdown] lang="zh" key="rope-text"
# <details><summary>读结果</summary>
#
# A，相邻的三个一组，代码里写作 `repeat_interleave`。前三行是投影得到的个数：查询有 6 个头，键和值只有 2 个。Qwen3-8B 有 32 个查询头、8 个 KV 头，每个词元的缓存是 144 KiB，不分组就要 4 倍。
#
# </details>
#
# ## 位置：转一个角度
#
# 点积不知道词元的先后。**旋转位置编码**（rotary position embedding，[RoPE](https://arxiv.org/abs/2104.09864)）把查询和键里的数两两配成一支箭。词元在第几位，就把箭转几步。
#
# **先选一个。** 查询和键一起往后挪 10 位，两支箭的夹角会怎样？
#
# - A. 变大
# - B. 不变

# %% [markdown] lang="en" key="rope-text"
# <details><summary>Reading</summary>
#
# A: three neighbours make a group, which code writes as `repeat_interleave`. The first three lines are how many numbers the projections give: queries have 6 heads, keys and values only 2. Qwen3-8B has 32 query heads and 8 KV heads and caches 144 KiB a token; without groups it would be 4 times as much.
#
# </details>
#
# ## Position: turn by an angle
#
# A dot product does not know which token comes first. **Rotary position embedding** ([RoPE](https://arxiv.org/abs/2104.09864)) pairs up the numbers of a query or key, sees each pair as an arrow, and turns it one step for each position.
#
# **Choose first.** Move a query and a key on by 10 positions together. What happens to the angle between the arrows?
#
# - A. It grows
# - B. It stays the same

# %% key="rope"
from helpers.qwen import apply_rope

l03.rotation()

# %% [markdown] lang="zh" key="qwen3-text"
# <details><summary>读图</summary>
#
# B。右边的两支箭多转了同样的角度，夹角不变，点积也就不变。所以注意力只知道两个词元**相隔**多远。
#
# </details>
#
# ## Qwen3：投影，归一化，旋转
#
# 到这里都是 Qwen2 已有的。Qwen3 在注意力里加了一步，叫 **QK 归一化**（QK-norm）：投影出查询和键之后、旋转之前，每个头各自做一次 **RMS 归一化**（RMSNorm，[Zhang 与 Sennrich，2019](https://arxiv.org/abs/1910.07467)）。它把向量除以自己的均方根，再逐个乘上训练出来的 $w$：
#
# $$\mathrm{RMSNorm}(x) = \frac{x}{\sqrt{\mathrm{mean}(x^2) + \epsilon}} \cdot w$$
#
# $\mathrm{mean}(x^2)$ 是先把每个数平方，再求平均。$\epsilon$ 是防止除以零的小数，代码里叫 `eps`；$w$ 叫 `weight`。值不归一也不旋转。
#
# ### 练习 1 ★☆☆（5 分钟）：RMSNorm
#
# 照公式补全函数。`x` 的形状是 `(..., size)`，最后一维是一个向量；`weight` 的形状是 `(size,)`。
#
# <details><summary>提示</summary>
#
# `x.pow(2)` 逐个平方。`.mean(-1, keepdim=True)` 只在最后一维上求平均；`keepdim=True` 留住这一维，除法才对得上形状。`.sqrt()` 开方。
#
# </details>

# %% [markdown] lang="en" key="qwen3-text"
# <details><summary>Reading</summary>
#
# B. On the right both arrows turned further by the same amount, so the angle is the same, and so is the dot product. Attention thus knows only how far **apart** two tokens are.
#
# </details>
#
# ## Qwen3: project, norm, rotate
#
# All of this Qwen2 had. Qwen3 adds one step to attention, **QK-norm**: after queries and keys are projected and before they are rotated, each head gets an **RMSNorm** of its own ([Zhang and Sennrich, 2019](https://arxiv.org/abs/1910.07467)). It divides a vector by its root mean square and multiplies each number by a trained $w$:
#
# $$\mathrm{RMSNorm}(x) = \frac{x}{\sqrt{\mathrm{mean}(x^2) + \epsilon}} \cdot w$$
#
# $\mathrm{mean}(x^2)$ squares each number first, then takes the mean. $\epsilon$ is a small number against division by zero, `eps` in code; $w$ is `weight`. Values get neither norm nor rotation.
#
# ### Exercise 1 ★☆☆ (5 minutes): RMSNorm
#
# Turn the formula into code. `x` has the shape `(..., size)`, and its last dimension is one vector; `weight` has the shape `(size,)`.
#
# <details><summary>Hint</summary>
#
# `x.pow(2)` squares each number. `.mean(-1, keepdim=True)` takes the mean over the last dimension only; `keepdim=True` keeps that dimension, so that the division fits. `.sqrt()` is the root.
#
# </details>


# %% key="ex1" tags=["exercise"]
def rms_norm(x, weight, eps):
    return ...


# %% key="ex1-solution" tags=["solution"]
def rms_norm(x, weight, eps):  # noqa: F811
    mean_square = x.pow(2).mean(dim=-1, keepdim=True)
    return x / (mean_square + eps).sqrt() * weight


# %% key="ex1-check"
l03.ex1.check(rms_norm)

# %% [markdown] lang="zh" key="ex2-text"
# ### 练习 2 ★★★（15 分钟）：写出 Qwen3 的注意力
#
# - `query` 的形状是 `(batch, heads, seq, head_dim)`：几段文字，几个头，几个词元，一个向量有几个数。`key` 和 `value` 的头少一些。返回的形状和 `query` 相同。
# - `q_norm`、`k_norm` 是训练好的 RMSNorm，当函数用：`q_norm(query)`。
# - `apply_rope(x, cos, sin)` 返回旋转好的 `x`。`cos` 和 `sin` 是各个位置转角的余弦和正弦，已经算好。
#
# 次序：归一化、旋转；把 `key`、`value` 的头补齐；打分、缩放；掩码；softmax；取值。
#
# <details><summary>提示</summary>
#
# - 一组有 `query.shape[1] // key.shape[1]` 个查询头，头在第 1 维：`repeat_interleave(group, dim=1)`。
# - `key.mT` 把最后两维对调；`key.T` 只能用于两维的矩阵。
# - 缩放时，$d$ 是 `head_dim`。
# - 掩码照 `attend` 那样写，只是不再是 3 × 3，词元有几个，它就有几行几列。
#
# </details>

# %% [markdown] lang="en" key="ex2-text"
# ### Exercise 2 ★★★ (15 minutes): write Qwen3's attention
#
# - `query` has the shape `(batch, heads, seq, head_dim)`: how many texts, heads, tokens, and numbers in a vector. `key` and `value` have fewer heads. Return the shape of `query`.
# - `q_norm` and `k_norm` are trained RMSNorms, to be called like functions: `q_norm(query)`.
# - `apply_rope(x, cos, sin)` returns `x` rotated. `cos` and `sin` are the cosines and sines of the angles of all positions, computed already.
#
# The order: norm, rotate; repeat the heads of `key` and `value`; score, scale; mask; softmax; fetch.
#
# <details><summary>Hint</summary>
#
# - A group has `query.shape[1] // key.shape[1]` query heads, and heads are dimension 1: `repeat_interleave(group, dim=1)`.
# - `key.mT` swaps the last two dimensions; `key.T` is for matrices of two dimensions only.
# - In the scale, $d$ is `head_dim`.
# - The mask is as in `attend`, only no longer 3 × 3: it has a row and a column for each token.
#
# </details>


# %% key="ex2" tags=["exercise"]
def attention(query, key, value, q_norm, k_norm, cos, sin):
    return ...


# %% key="ex2-solution" tags=["solution"]
def attention(query, key, value, q_norm, k_norm, cos, sin):  # noqa: F811
    query = apply_rope(q_norm(query), cos, sin)
    key = apply_rope(k_norm(key), cos, sin)
    group = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(group, dim=1)
    value = value.repeat_interleave(group, dim=1)
    scores = query @ key.mT / query.shape[-1] ** 0.5  # (batch, heads, seq, seq)
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    return weights @ value  # (batch, heads, seq, head_dim)


# %% key="ex2-check"
l03.ex2.check(attention)

# %% [markdown] lang="zh" key="plug-text"
# ## 把你的注意力装进去
#
# 下一格把现成模型每一层的注意力换成 `in_layer`。它先投影，再分成一个个头，交给你的函数，最后把各头并起来，乘 `o_proj`。矩阵还是训练好的那些。练习还没解出来时，用的是参考答案。

# %% [markdown] lang="en" key="plug-text"
# ## Put your attention in
#
# The next cell replaces the attention of every layer of the ready model with `in_layer`. It projects, splits into heads, calls your function, joins the heads and multiplies by `o_proj`. The trained matrices stay. As long as the exercise is not solved, the reference answer stands in.


# %% key="plug" tags=["raw"]
def in_layer(trained, hidden_states, cos, sin):
    # (batch, seq, heads * 32) -> (batch, heads, seq, 32)
    query = l03.split_heads(trained.q_proj(hidden_states), 32)
    key = l03.split_heads(trained.k_proj(hidden_states), 32)
    value = l03.split_heads(trained.v_proj(hidden_states), 32)
    output = yours(query, key, value, trained.q_norm, trained.k_norm, cos, sin)
    return trained.o_proj(l03.join_heads(output))


yours = l03.yours_or_ours(attention)
mine = l03.with_attention(model, in_layer)
tokens = tokenizer(question, return_tensors="pt").input_ids
difference = (mine(tokens).logits - model(tokens).logits).abs().max()
assert difference < 1e-4
print(say("logits 相差", "logits differ by"), f"{difference:.0e}")
print(tokenizer.decode(write(mine, tokens, 100)[0]))

# %% [markdown] lang="zh" key="louder-text"
# 差别只剩浮点误差，小模型照样写出 `1702`。Qwen3 的注意力，全部就是这些。
#
# ## QK 归一化防的是什么
#
# 分数太大，softmax 就只看一个词元，别的权重几乎是 0，训练很难再把它们拉回来。[Qwen3 技术报告](https://arxiv.org/abs/2505.09388)第 2 节为 QK 归一化只给了一个理由：让训练稳定。
#
# **先选一个。** 把每一层的 `q_proj` 放大 10 倍，小模型会写出什么？看看 RMSNorm 的公式：$x$ 放大 10 倍，结果会怎样？
#
# - A. 乱码
# - B. 写个不停
# - C. 还是 `1702`

# %% [markdown] lang="en" key="louder-text"
# Only rounding is left, and the tiny model writes `1702` as before. That is all of Qwen3's attention.
#
# ## What QK-norm guards against
#
# With scores too large, the softmax looks at one token only. All other weights are close to 0, and training can hardly bring them back. The [Qwen3 report](https://arxiv.org/abs/2505.09388), section 2, gives one reason for QK-norm: to keep training stable.
#
# **Choose first.** Multiply `q_proj` of every layer by 10. What does the tiny model write? Look at the formula of RMSNorm: with $x$ 10 times as large, what comes out?
#
# - A. Nonsense
# - B. It never stops
# - C. `1702` again

# %% key="louder" tags=["raw"]
weights, _ = attend(10 * query, key, value)
print(say("纸上的那一行：", "the row on paper:"), weights[2])

louder = copy.deepcopy(model)
for layer in louder.model.layers:
    layer.self_attn.q_proj.weight *= 10
print(tokenizer.decode(write(louder, tokens, 100)[0, -11:]))

for name, changed in (("q_proj × 1", model), ("q_proj × 10", louder)):
    layer = changed.model.layers[0]
    hidden_states = layer.input_layernorm(changed.model.embed_tokens(tokens))
    before = l03.split_heads(layer.self_attn.q_proj(hidden_states), 32)
    after = layer.self_attn.q_norm(before)
    # zh: 最长的查询向量有多长，归一化之前和之后
    # en: the length of the longest query vector, before the norm and after it
    print(f"{name}: {before.norm(dim=-1).max():.1f} {after.norm(dim=-1).max():.1f}")

# %% [markdown] lang="zh" key="differences-text"
# <details><summary>读结果</summary>
#
# C。纸上的例子没有归一化：查询放大 10 倍，权重全给了 `4`。小模型里，第 0 层最长的查询向量（每行第一个数）放大了 10 倍，归一化之后（第二个数）却没有变：矩阵再大，分数也不会跟着变大。
#
# </details>
#
# ## 从 Qwen2 到 Qwen3：六处差别
#
# 没有专家的模型叫稠密模型（dense），有专家的叫 MoE，第 04 课讲。
#
# | | Qwen2 / Qwen2.5 | Qwen3 |
# |---|---|---|
# | QK 归一化 | 没有 | 每个头的 q 和 k 各一次，在 RoPE 之前 |
# | q、k、v 的偏置（bias） | 有 | 没有 |
# | `head_dim`，一个头的向量长度 | `hidden_size / num_attention_heads` | `config.json` 里单独给出，都是 128 |
# | KV 头 | 2 到 8 个，随尺寸变 | 稠密模型一律 8 个，MoE 4 个 |
# | 输入和输出共用一份词嵌入（embedding） | 0.5B、1.5B、3B | 0.6B、1.7B、4B |
# | 词表与对话模板 | 没有思考开关 | 新增 `<think>`、`</think>`，一个模板切换思考 |
#
# 偏置是投影之后再加上的一组数。词嵌入是一张表，每个词元一行，那就是它最初的隐藏状态。RoPE、RMSNorm、下面要讲的 SwiGLU 和层的次序都没变。数字出自各尺寸的 `config.json`，附录 A4 里逐个核对。
#
# ## 一整层
#
# 注意力只是一层的一半。另一半是**前馈网络**（feed-forward network），每个词元各算各的。Qwen2 和 Qwen3 用的是 SwiGLU（[Shazeer，2020](https://arxiv.org/abs/2002.05202)），由三个矩阵组成。
#
# 两半之前各有一次 RMSNorm。算出来的东西**加回**原来的隐藏状态，这叫**残差连接**（residual connection）。

# %% [markdown] lang="en" key="differences-text"
# <details><summary>Reading</summary>
#
# C. The example on paper has no norm: with the query 10 times as large, all of the weight goes to `4`. In the tiny model the longest query vector of layer 0 (the first number of a line) is 10 times as long, but after the norm (the second) it is what it was: however large the matrix, the scores do not grow with it.
#
# </details>
#
# ## From Qwen2 to Qwen3: six differences
#
# A model without experts is called dense; one with experts is an MoE, see lesson 04.
#
# | | Qwen2 / Qwen2.5 | Qwen3 |
# |---|---|---|
# | QK-norm | none | once for the q and the k of every head, before RoPE |
# | bias of q, k, v | yes | no |
# | `head_dim`, the length of a head's vectors | `hidden_size / num_attention_heads` | a key of its own in `config.json`, always 128 |
# | KV heads | 2 to 8, depending on size | 8 in every dense model, 4 in the MoE models |
# | input and output share one embedding | 0.5B, 1.5B, 3B | 0.6B, 1.7B, 4B |
# | vocabulary and chat template | no switch for thinking | `<think>` and `</think>` are new, one template switches thinking |
#
# A bias is a row of numbers that is added after a projection. The embedding is a table with a row for each token, which is its first hidden state. RoPE, RMSNorm, SwiGLU (see below) and the order of a layer have not changed. The numbers are from each size's `config.json`; appendix A4 checks them one by one.
#
# ## A whole layer
#
# Attention is half of a layer. The other half is a **feed-forward network**, which works on each token by itself. Qwen2 and Qwen3 use SwiGLU ([Shazeer, 2020](https://arxiv.org/abs/2002.05202)), made of three matrices.
#
# Before each half stands an RMSNorm. What comes out is **added** to the hidden state: a **residual connection**.

# %% key="block"
l03.block()

# %% [markdown] lang="zh" key="block-text"
# 读图：粗线是隐藏状态，两条支路就是那两半。★ 是 Qwen3 改动的地方。
#
# 5 层这样接起来，前面是词嵌入，后面是最后一次 RMSNorm 和输出矩阵，就是整个小模型。
#
# **选读。** 参数的名字也看得出差别：下一格比较 transformers 里的两种注意力。

# %% [markdown] lang="en" key="block-text"
# How to read it: the thick line is the hidden state, the branches are the two halves. ★ is where Qwen3 differs.
#
# 5 such layers in a row, the embedding before them, a last RMSNorm and the output matrix behind them, make the tiny model.
#
# **Extra.** The names of the parameters show the difference, too: the next cell compares the two attentions of transformers.

# %% key="names" tags=["extra"]
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

for kind, config in (
    (Qwen2Attention, transformers.Qwen2Config()),
    (Qwen3Attention, transformers.Qwen3Config()),
):
    # zh: 只要名字，不要数：meta 不占内存
    # en: only the names are wanted: meta takes no memory
    with torch.device("meta"):
        layer = kind(config, layer_idx=0)
    print(kind.__name__)
    for name in layer.state_dict():
        if not name.endswith("proj.weight"):
            print("   ", name)

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - 注意力五步：打分、缩放、掩码、softmax、取值。
# - 头有许多个；几个查询头共用一个 KV 头，缓存就小了。
# - Qwen3 的次序：投影、归一化、旋转。归一化让分数有上限，为的是训练稳定，不是少算一些。
#
# ## 自测
#
# 1. 为什么一行权重加起来是 1？
# 2. 该用 `repeat_interleave` 的地方写成 `repeat`，程序会报错吗？
# 3. KV 缓存里的键，是归一化和旋转之前的，还是之后的？
# 4. `q_norm` 有多少个参数？哪些头共用？
# 5. Qwen3-0.6B 的 `q_proj` 为什么是 2048 × 1024，不是方阵？
#
# <details><summary>答案</summary>
#
# 1. softmax 的最后一步是除以这一行的和。
# 2. 不会，形状一样，只是查询头配错了 KV 头。
# 3. 之后的。前面词元的键不会再变，所以存算好的。
# 4. 一个 `head_dim`，在 Qwen3 里是 128 个；这一层所有的头共用。
# 5. `head_dim` 是单独给出的 128，16 个头共 2048，和 `hidden_size` 1024 无关。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | 输出里有 NaN | 掩码用了 `triu(0)`，第一行什么都不剩 | 用 `triu(1)` |
# | 能运行，答案是乱码 | 头的次序错了，或先旋转后归一化 | 和 transformers 比 logits |
# | `KeyError: 'qwen3'` | transformers 早于 4.51 | 升级，或用课程的环境 |

# %% [markdown] lang="en" key="recap"
# ## Recap
#
# - Attention has five steps: score, scale, mask, softmax, fetch.
# - There are many heads; several query heads share a KV head, which makes the cache smaller.
# - Qwen3's order: project, norm, rotate. The norm puts a bound on the scores, for stable training and not to compute less.
#
# ## Test yourself
#
# 1. Why does a row of weights add up to 1?
# 2. Where `repeat_interleave` belongs, you write `repeat`: does the program fail?
# 3. Are the keys in the KV cache those before norm and rotation, or after?
# 4. How many parameters has `q_norm`, and which heads share them?
# 5. Why is `q_proj` of Qwen3-0.6B 2048 × 1024 and not square?
#
# <details><summary>Answers</summary>
#
# 1. The last step of a softmax divides by the sum of the row.
# 2. No. The shapes are the same, but query heads meet the wrong KV heads.
# 3. After. The key of an earlier token never changes again, so the finished one is kept.
# 4. One `head_dim`, in Qwen3 128; all heads of the layer share them.
# 5. `head_dim` is given as 128, so 16 heads make 2048; the `hidden_size` of 1024 has nothing to do with it.
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | NaN in the output | the mask is `triu(0)`, which leaves nothing of the first row | use `triu(1)` |
# | it runs, but writes nonsense | heads in the wrong order, or the norm after the rotation | compare logits with transformers |
# | `KeyError: 'qwen3'` | transformers older than 4.51 | upgrade, or use the course's environment |

# %% [markdown] lang="zh" key="copy-me-text" tags=["extra"]
# ## 可以直接拿走的代码（选读）
#
# 下一格不依赖本课程，复制到任何地方都能用：给它一个检查点文件夹，它读 `config.json` 和权重文件的头部，报告结构，不把权重读进内存。没有设 `COURSE_MODEL` 时，它只说一句话。

# %% [markdown] lang="en" key="copy-me-text" tags=["extra"]
# ## Code to take away (extra)
#
# The next cell needs nothing of this course and works wherever you paste it: give it a checkpoint's folder, and it reads `config.json` and the headers of the weight files and reports the architecture, without loading the weights. With no `COURSE_MODEL` set, it says one sentence.

# %% key="copy-me" tags=["copy-me", "extra", "raw"]
import json
import os
from pathlib import Path

MODEL = os.environ.get("COURSE_MODEL", "Qwen/Qwen3-8B")


def refusal(config):
    """Why the report below does not hold for this config.json, or None."""
    if not isinstance(config, dict):
        return "its config.json holds no JSON object"
    kind = str(config.get("model_type")).removesuffix("_text")
    # zh: Qwen3 之后的系列：层的种类不同，或者数字放在里面一层
    # en: families after Qwen3: layers of other kinds, or the numbers are nested
    later = {
        "text_config",
        "thinker_config",
        "full_attention_interval",
        "linear_num_value_heads",
    }
    linear = "linear_attention" in str(config.get("layer_types"))
    known = {"qwen2", "qwen2_moe", "qwen3", "qwen3_moe"}
    if kind not in known or later & config.keys() or linear:
        return f"it is a {kind}, and this reads qwen2, qwen3 and their _moe only"
    sizes = ["num_hidden_layers", "num_attention_heads", "hidden_size"]
    for key in ("num_key_value_heads", "head_dim"):
        if config.get(key) is not None:
            sizes.append(key)
    for key in sizes:
        if type(config.get(key)) is not int or config[key] < 1:
            return f"{key} in its config.json is {config.get(key)!r}"
    return None


def header(file):
    """Names of the tensors in a safetensors file; ValueError if it is none."""
    # zh: 前 8 个字节是 JSON 头部的长度，接着就是头部；不是 safetensors 时这个数大得惊人
    # en: 8 bytes with the length of a JSON header; gigantic if the file is something else
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if 8 + length > file.stat().st_size:
            raise ValueError("its header is longer than the file")
        return set(json.loads(opened.read(length))) - {"__metadata__"}


def report(folder):
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        reason = refusal(config)
    except (OSError, ValueError, RecursionError) as error:
        reason = f"its config.json cannot be read ({error})"
    if reason:
        return print(f"{folder} cannot be read: {reason}.")
    tensors = set()
    for file in folder.glob("*.safetensors"):
        try:
            if not file.name.startswith("."):
                tensors |= header(file)
        except (OSError, ValueError, TypeError, RecursionError):
            return print(f"{file} is damaged: download it again.")
    if not tensors:
        return print(
            f"{folder} has no safetensors files: the download may be incomplete."
        )
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or max(1, config["hidden_size"] // heads)
    if config["model_type"] == "qwen3" and not config.get("head_dim"):
        head_dim = 128
    # zh: 键和值两份，bf16 每个数 2 字节
    # en: keys and values, and 2 bytes a number in bf16
    kv_bytes = 2 * config["num_hidden_layers"] * kv_heads * head_dim * 2
    print("architecture:", config.get("architectures"), "|", len(tensors), "tensors")
    print("QKV bias:", any("q_proj.bias" in name for name in tensors))
    print("QK-norm: ", any("q_norm.weight" in name for name in tensors))
    print(f"query width: {heads} x {head_dim} = {heads * head_dim}", end=", ")
    print(f"hidden size: {config['hidden_size']}")
    print(f"KV cache: {kv_bytes / 1024:g} KiB a token with {kv_heads} KV heads")


if Path(MODEL, "config.json").is_file():
    report(Path(MODEL))
else:
    print(f"No config.json in {MODEL}: set COURSE_MODEL to a checkpoint's folder.")

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - [附录 A4](../zh/A4_attention_in_depth.ipynb)：RoPE 和 SwiGLU 细讲，亲手装出整个模型，数参数；有 QK 归一化和没有的，各训练一遍
# - [Attention Is All You Need](https://arxiv.org/abs/1706.03762)；[GQA](https://arxiv.org/abs/2305.13245)；[RoPE](https://arxiv.org/abs/2104.09864)
# - [Qwen3 技术报告](https://arxiv.org/abs/2505.09388)，第 2 节是结构；[Qwen2 技术报告](https://arxiv.org/abs/2407.10671)
#
# 下一课：把前馈网络换成许多专家（expert），看每个词元去了哪里。

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - [Appendix A4](../en/A4_attention_in_depth.ipynb): RoPE and SwiGLU in depth, the whole model put together by hand, its parameters counted, and trainings with and without QK-norm
# - [Attention Is All You Need](https://arxiv.org/abs/1706.03762); [GQA](https://arxiv.org/abs/2305.13245); [RoPE](https://arxiv.org/abs/2104.09864)
# - [Qwen3 report](https://arxiv.org/abs/2505.09388), section 2 for the architecture; [Qwen2 report](https://arxiv.org/abs/2407.10671)
#
# Next: the feed-forward network becomes many experts, and we watch where each token goes.
