# %% [markdown] lang="zh" key="title"
# # A5 · Qwen3 之后
#
# | | |
# |---|---|
# | 学完能做 | 看一眼 `config.json`，说出它是 Qwen3 还是后来的系列；算出新结构的缓存；写出一个线性注意力层；说清本课程的哪些话对后来的模型不再成立 |
# | 先修 | 第 03 课；共享专家一节用到[附录 A2](../zh/A2_experts_in_depth.ipynb) |
# | 时间 | 主线 40 分钟；标着“选读”的再加 5 分钟 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；不用 vLLM |
# | 模型 | 现场用随机权重搭的小模型，只看结构，不下载 |

# %% [markdown] lang="en" key="title"
# # A5 · After Qwen3
#
# | | |
# |---|---|
# | You will be able to | tell from a `config.json` whether a model is Qwen3 or a later family; work out the cache of the new structure; write a linear-attention layer; say which statements of this course no longer hold for later models |
# | Prerequisites | lesson 03; for the shared expert, [appendix A2](../en/A2_experts_in_depth.ipynb) |
# | Time | 40 minutes for the main path; 5 more for what is marked "extra" |
# | Hardware | any Linux CPU with 4 GB of memory; no vLLM |
# | Model | small ones with random weights, built here for their structure; nothing is downloaded |

# %% key="setup"
import torch
import transformers
from torch.nn import functional as F

from helpers import catalogue
from helpers.lessons import lA5

# zh: 不提示“没有装快速内核”：这里用的正是看得懂的慢实现
# en: no hint that fast kernels are missing: the slow, readable code is what we want
transformers.logging.set_verbosity_error()
close = {"atol": 1e-5, "rtol": 0}

# %% [markdown] lang="zh" key="timeline"
# 这门课讲的是 2025 年 4 月的 Qwen3。名字里带 Qwen 的模型一直在出，别处的教程也常把它们混着讲。这一课写于 2026 年 11 月 27 日，结论要么由代码格当场算出，要么写明出处；代码对照的是 transformers 5.19.0。
#
# ## 后来出了什么
#
# 只列公开权重的语言模型，不列嵌入、语音和单独的视觉分支：
#
# | 日期 | 模型 | 变了什么 | 出处 |
# |---|---|---|---|
# | 2025-07-21 到 08-06 | Qwen3-2507：235B-A22B、30B-A3B、4B | Instruct 和 Thinking 分成两组权重 | [Qwen3](https://github.com/QwenLM/Qwen3) |
# | 2025-07 | Qwen3-Coder | 从不思考；工具调用另有格式 | [Qwen3-Coder](https://github.com/QwenLM/Qwen3-Coder) |
# | 2025-09-11 | Qwen3-Next-80B-A3B | 新结构：线性注意力为主 | [Qwen3.6](https://github.com/QwenLM/Qwen3.6) |
# | 2026-02-16 到 03-02 | Qwen3.5：397B-A17B 到 0.8B，共八种 | 同样的结构，加上看图 | [Qwen3.6](https://github.com/QwenLM/Qwen3.6) |
# | 2026-04-16、04-22 | Qwen3.6：35B-A3B、27B | 结构不变，模板变了 | [Qwen3.8](https://github.com/QwenLM/Qwen3.8) |
# | 2026-08-12、08-14 | Qwen3.8：2.4T-A95B、27B | 结构不变，模板又变了 | [Qwen3.8](https://github.com/QwenLM/Qwen3.8) |
# | 2026-08 | Qwen3.8-Flash-Next：125B-A6B | 自称 Qwen4 结构的预览 | [vLLM 的配方](https://github.com/vllm-project/recipes/blob/main/models/Qwen/Qwen3.8-Flash-Next.yaml) |
#
# ## 看配置，认系列
#
# 名字靠不住，`config.json` 靠得住。先看两处：数字在最外层，还是包在 `text_config` 里；`layer_types` 里有没有 `full_attention` 以外的层。下一格打印 transformers 里各个系列的默认配置。

# %% [markdown] lang="en" key="timeline"
# This course is about Qwen3 of April 2025. Models called Qwen have kept coming, and tutorials elsewhere mix them up. This lesson was written on 27 November 2026; what it says is computed by a cell or comes with its source, and the code it compares with is transformers 5.19.0.
#
# ## What came after
#
# Language models with open weights only, without embeddings, speech and separate vision models:
#
# | Date | Model | What changed | Source |
# |---|---|---|---|
# | 2025-07-21 to 08-06 | Qwen3-2507: 235B-A22B, 30B-A3B, 4B | Instruct and Thinking became two sets of weights | [Qwen3](https://github.com/QwenLM/Qwen3) |
# | 2025-07 | Qwen3-Coder | never thinks; tool calls in a format of their own | [Qwen3-Coder](https://github.com/QwenLM/Qwen3-Coder) |
# | 2025-09-11 | Qwen3-Next-80B-A3B | a new structure: mostly linear attention | [Qwen3.6](https://github.com/QwenLM/Qwen3.6) |
# | 2026-02-16 to 03-02 | Qwen3.5: from 397B-A17B to 0.8B, eight sizes | the same structure, and it sees images | [Qwen3.6](https://github.com/QwenLM/Qwen3.6) |
# | 2026-04-16, 04-22 | Qwen3.6: 35B-A3B, 27B | the same structure, another template | [Qwen3.8](https://github.com/QwenLM/Qwen3.8) |
# | 2026-08-12, 08-14 | Qwen3.8: 2.4T-A95B, 27B | the same structure, yet another template | [Qwen3.8](https://github.com/QwenLM/Qwen3.8) |
# | 2026-08 | Qwen3.8-Flash-Next: 125B-A6B | calls itself a preview of Qwen4's structure | [vLLM's recipe](https://github.com/vllm-project/recipes/blob/main/models/Qwen/Qwen3.8-Flash-Next.yaml) |
#
# ## Tell the family from its config
#
# A name tells little, a `config.json` a lot. Look at two things: whether the numbers stand at the top level or inside `text_config`, and whether `layer_types` holds more than `full_attention`. The next cell prints the default config of each family in transformers.

# %% key="family"
from collections import Counter

for name in ("qwen3", "qwen3_next", "qwen3_5", "qwen3_5_moe", "qwen4_exp"):
    config = transformers.AutoConfig.for_model(name).to_dict()
    if "text_config" in config:
        where, text = "text_config", config["text_config"]
    else:
        where, text = "-", config
    kinds = dict(Counter(text["layer_types"]))
    print(f"{name:<11} {where:<11} {text['vocab_size']:,}", kinds)

# %% [markdown] lang="zh" key="family-read" facts="3.5 3.6 3.8"
# 读输出：依次是 `model_type`、数字在哪里、词表大小、各种层的个数。Qwen3 只有全注意力层；从 `qwen3_next` 起，每四层有三层是 `linear_attention`。旧的配置文件里没有 `layer_types`，就看 `full_attention_interval`；Qwen3 的 `config.json` 里两个都可以没有。`qwen4_exp` 的第四层又换了一种，叫 `indexed_attention`，这一课不讲。3.5、3.6 和 3.8 共用 `qwen3_5` 或 `qwen3_5_moe` 这两个名字，只有对话模板分得开它们。
#
# ## 四层里只有一层留着键和值
#
# 搭一个八层的小模型，权重随机；看的是缓存里有什么。**线性注意力**层不逐个记住词元，只留一份大小固定的**递归状态**，读一个词元就更新一次。状态有两部分：每个头一个矩阵，还有最近几个词元的输入，给一个小卷积用（下面的选读一节讲它们怎么算）。`cache_bytes` 用公式算出两部分各多大，再和真的缓存比。
#
# **先选一个。** 提示词从 64 个词元变成 200 个，缓存会怎样？
#
# - A. 八层都变大，约为原来的三倍
# - B. 两层变大，六层不变
# - C. 都不变

# %% [markdown] lang="en" key="family-read" facts="3.5 3.6 3.8"
# How to read it: the columns are `model_type`, where the numbers stand, the size of the vocabulary, and how many layers of each kind. Qwen3 has full-attention layers only; from `qwen3_next` on, three of every four are `linear_attention`. An older file without `layer_types` has `full_attention_interval`; Qwen3's `config.json` needs neither. In `qwen4_exp` every fourth layer is of yet another kind, `indexed_attention`, which this lesson leaves out. 3.5, 3.6 and 3.8 share the names `qwen3_5` and `qwen3_5_moe`; only the chat template tells them apart.
#
# ## One layer in four keeps keys and values
#
# We build a small model of eight layers with random weights and look at what its cache holds. A **linear attention** layer does not remember tokens one by one: it keeps a **recurrent state** of fixed size, and every token that it reads updates it. The state has two parts: a matrix for each head, and the inputs of the last few tokens for a small convolution (the extra section below says how they are used). `cache_bytes` works out the size of both by formula and compares it with the real cache.
#
# **Choose first.** The prompt grows from 64 tokens to 200. What happens to the cache?
#
# - A. All eight layers grow, to about three times the size
# - B. Two layers grow, six stay as they are
# - C. Nothing grows

# %% key="tiny"
sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64}
sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
sizes |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
sizes |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_hidden_layers": 8}


def tiny(name, **more):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **sizes, **more)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model.requires_grad_(False)


model = tiny("qwen3_5_text")
print(*model.config.layer_types, sep="\n")


# %% key="cache"
# zh: number：一个数占几个字节；columns：卷积记住几列输入
# en: number: the bytes of a number; columns: how many columns of input are kept
def cache_bytes(config, number=2, columns=3):
    # zh: 没有 layer_types，就都是全注意力层
    # en: without layer_types, all of them are full-attention layers
    kinds = getattr(config, "layer_types", None) or []
    linear = kinds.count("linear_attention")
    full = config.num_hidden_layers - linear
    token = 2 * full * config.num_key_value_heads * config.head_dim * number
    if not linear:
        return token, 0
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    convolution = columns * (2 * keys + values) * number
    # zh: 状态是 float32，每个数 4 字节
    # en: the state is float32, 4 bytes a number
    return token, linear * (convolution + values * config.linear_key_head_dim * 4)


for tokens in (8, 64, 200):
    layers = model(torch.randint(64, (1, tokens))).past_key_values.layers
    kv = state = 0
    for kind, layer in zip(model.config.layer_types, layers, strict=True):
        if kind == "full_attention":
            kv += layer.keys.nbytes + layer.values.nbytes
        else:
            state += layer.conv_states[0].nbytes + layer.recurrent_states[0].nbytes
    print(f"{tokens:>3}: {kv:>7,} + {state:,}")
    per_token, per_sequence = cache_bytes(model.config, number=4, columns=4)
    assert (kv, state) == (tokens * per_token, per_sequence)

# %% [markdown] lang="zh" key="cache-read"
# <details><summary>答案和读法</summary>
#
# B。左边是两个全注意力层的键和值，随词元数增长；右边是六个线性层的状态，8 个词元时就是 12,288 字节，到 200 个还是。按第 03 课的公式，当作每层都有 KV 去算，KV 会算成四倍。
#
# </details>
#
# ## 换成真实的尺寸
#
# 同一个公式，代入公开的配置。27B 的尺寸出自 [Qwen3.6-27B 的 `config.json`](https://huggingface.co/Qwen/Qwen3.6-27B/blob/main/config.json)，3.8 的 27B 同样是[64 层里有 16 层全注意力](https://github.com/vllm-project/recipes/blob/main/models/Qwen/Qwen3.8-27B.yaml)；35B-A3B 就是 transformers 的默认配置。键、值和卷积按 bf16，状态按 float32；vLLM 只留 3 列卷积输入（`MambaStateShapeCalculator`）。
#
# vLLM 把缓存切成一样大的块。一块要装得下一个线性层的状态，所以块变大了。下一格打印三列：每个词元的 KV、每条序列的状态、一块的词元数。
#
# **先选一个。** 同是 1,000 个词元，Qwen3-8B 和 27B，谁的缓存大？
#
# - A. 8B，它每个词元占得多
# - B. 27B，它另有一份固定的状态

# %% [markdown] lang="en" key="cache-read"
# <details><summary>Answer, and how to read it</summary>
#
# B. On the left are keys and values of the two full-attention layers, which grow with the tokens; on the right the states of the six linear layers, 12,288 bytes at 8 tokens and still at 200. The formula of lesson 03, in which every layer has KV, would give four times the KV.
#
# </details>
#
# ## At real sizes
#
# The same formula with published configs. The sizes of 27B come from the [`config.json` of Qwen3.6-27B](https://huggingface.co/Qwen/Qwen3.6-27B/blob/main/config.json); 27B of 3.8 likewise has [16 full-attention layers out of 64](https://github.com/vllm-project/recipes/blob/main/models/Qwen/Qwen3.8-27B.yaml); 35B-A3B is the default config of transformers. Keys, values and convolution count as bf16, the state as float32; vLLM keeps only 3 columns of the convolution's input (`MambaStateShapeCalculator`).
#
# vLLM cuts its cache into blocks of one size. A block has to hold the state of a linear layer, so the blocks are large. The next cell prints three columns: KV for each token, state for each sequence, tokens of a block.
#
# **Choose first.** At 1,000 tokens, which cache is larger?
#
# - A. That of Qwen3-8B, which takes more for each token
# - B. That of 27B, which has a fixed state besides

# %% key="sizes"
import math

configs = {}
for name in ("Qwen3-8B", "Qwen3-30B-A3B"):
    known = catalogue.CATALOGUE[f"Qwen/{name}"].config
    configs[name] = transformers.AutoConfig.for_model(**known)
# zh: 其余用到的数和默认值相同，比如 4 个 KV 头
# en: the other numbers that count are the defaults, such as 4 KV heads
dense = transformers.Qwen3_5TextConfig(num_hidden_layers=64, linear_num_value_heads=48)
sparse = transformers.Qwen3_5MoeTextConfig()
configs |= {"Qwen3.6-27B": dense, "Qwen3.5-35B-A3B": sparse}
cached = {}
for name, config in configs.items():
    token, state = cache_bytes(config)
    cached[name] = token, state
    block = 16
    if state:
        # zh: 一个线性层的状态 ÷ 一个全注意力层每个词元的字节，向上取 16 的倍数；
        # zh: 线性层的个数是全注意力层的三倍，所以除以 3
        # en: state of a linear layer ÷ bytes a token in a full one, up to a multiple of
        # en: 16; by 3, as there are three linear layers to each full one
        block = 16 * math.ceil(state / token / 3 / 16)
    print(f"{name:<15} {token:>7,} B  {state / 2**20:>5.1f} MiB  {block:>5,}")
# zh: 到多少个词元，两者一样大
# en: the number of tokens at which both are equal
small, _ = cached["Qwen3-8B"]
large, state = cached["Qwen3.6-27B"]
print(f"8B = 27B: {state / (small - large):,.0f}")

# %% key="figure"
lA5.cache_over_context(cached)

# %% [markdown] lang="zh" key="figure-read" facts="40,960 262,144"
# <details><summary>答案和读法</summary>
#
# B。27B 的每条序列，状态就占 146.8 MiB，所以 1,000 个词元时比 8B 大。到 1,879 个词元两者相等，再长就是 8B 大。
#
# 图的两个轴都是对数。实线是 Qwen3，画到它配置里的上限 40,960 个词元；虚线是后来的，画到 262,144。短而多的对话占不到便宜：27B 一块就是 784 个词元，不是 16 个。
#
# </details>
#
# ## 线性注意力层在算什么（选读）
#
# 这种层叫 Gated DeltaNet（[论文](https://arxiv.org/abs/2412.06464)）。每个头有一个矩阵 $S$，可以用键去查值。每读一个词元，做三步：
#
# 1. 旧内容按衰减 $\alpha$ 变淡。
# 2. 用新的键 $k$ 查出旧值，把它和新值 $v$ 的差按比例 $\beta$ 加进 $S$。
# 3. 用查询 $q$ 查出输出。
#
# $$S \leftarrow \alpha S,\qquad S \leftarrow S + k\,\beta\,(v - S^\top k)^\top,\qquad o = S^\top q / \sqrt{d}$$
#
# 下面照着写一层。查询和键先过一个只看前几个词元的卷积，再归一到长度 1；没有 softmax，也没有 RoPE。

# %% [markdown] lang="en" key="figure-read" facts="40,960 262,144"
# <details><summary>Answer, and how to read it</summary>
#
# B. With 27B the state alone takes 146.8 MiB for each sequence, so at 1,000 tokens its cache is larger than that of 8B. At 1,879 tokens both are equal, and beyond that 8B is larger.
#
# Both axes are logarithmic. Solid lines are Qwen3 and end at 40,960 tokens, the limit in its configs; dashed ones are later models and end at 262,144. Many short conversations gain nothing: one block of 27B is 784 tokens, not 16.
#
# </details>
#
# ## What a linear-attention layer computes (extra)
#
# Such a layer is called Gated DeltaNet ([paper](https://arxiv.org/abs/2412.06464)). Each head has a matrix $S$, in which values are looked up by key. For every token, three steps:
#
# 1. Old entries fade by the decay $\alpha$.
# 2. The new key $k$ looks up the old value. Its difference from the new value $v$ is added to $S$, scaled by $\beta$.
# 3. The query $q$ looks up the output.
#
# $$S \leftarrow \alpha S,\qquad S \leftarrow S + k\,\beta\,(v - S^\top k)^\top,\qquad o = S^\top q / \sqrt{d}$$
#
# Here is one layer written that way. Queries and keys first pass a convolution that sees the last few tokens, then get length 1; there is no softmax, and no RoPE.


# %% key="delta" tags=["extra"]
def delta_net(layer, x):  # (seq, hidden) -> (seq, hidden)
    mixed = F.pad(layer.in_proj_qkv(x).T, (layer.conv_kernel_size - 1, 0))
    mixed = F.silu(F.conv1d(mixed, layer.conv1d.weight, groups=len(mixed))).T
    heads = mixed.reshape(len(x), -1, layer.head_k_dim)
    q, k, v = heads.split([layer.num_k_heads, layer.num_k_heads, layer.num_v_heads], 1)
    copies = layer.num_v_heads // layer.num_k_heads
    q = F.normalize(q, dim=-1).repeat_interleave(copies, 1)
    k = F.normalize(k, dim=-1).repeat_interleave(copies, 1)
    decay = layer.A_log.exp() * F.softplus(layer.in_proj_a(x) + layer.dt_bias)
    alpha, beta = (-decay).exp(), layer.in_proj_b(x).sigmoid()  # (seq, heads)
    S = torch.zeros(v.shape[1], v.shape[2], v.shape[2])
    outputs = []
    for t in range(len(x)):
        S = alpha[t, :, None, None] * S
        error = v[t] - torch.einsum("hkv,hk->hv", S, k[t])
        S = S + torch.einsum("hk,h,hv->hkv", k[t], beta[t], error)
        outputs.append(torch.einsum("hkv,hk->hv", S, q[t]))
    o = torch.stack(outputs) / layer.head_k_dim**0.5  # (seq, heads, head_dim)
    return layer.out_proj(layer.norm(o, layer.in_proj_z(x).view_as(o)).flatten(1))


x = torch.randn(100, 32)
layer = model.model.layers[0].linear_attn
torch.testing.assert_close(delta_net(layer, x), layer(x[None])[0], **close)
print("S:", layer.num_v_heads, "×", layer.head_k_dim, "×", layer.head_v_dim)

# %% [markdown] lang="zh" key="norm-text"
# 100 个词元的输出和 transformers 相差不到 1e-5。真正运行时提示词按 64 个一段并行算，结果相同；只有逐个生成时才像上面这样一步一步来。
#
# ## 全注意力层也变了
#
# 先看 RMSNorm。Qwen3 的公式是 `x * w`。后来的模型是 `x * (1 + w)`，权重存的是与 1 的差。
#
# **先选一个。** 把后来模型的权重装进 Qwen3 的公式，输出会怎样？
#
# - A. 几乎一样
# - B. 小得多
# - C. 报错

# %% [markdown] lang="en" key="norm-text"
# For 100 tokens the output is within 1e-5 of that of transformers. A real engine computes a prompt in parallel, 64 tokens at a time, with the same result; only generation goes step by step like this.
#
# ## Full attention has changed too
#
# RMSNorm first. Qwen3's formula is `x * w`. Later models use `x * (1 + w)` and store the difference from 1.
#
# **Choose first.** Put the weights of a later model into Qwen3's formula. What comes out?
#
# - A. Almost the same
# - B. Something far smaller
# - C. An error

# %% key="norm"
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_5 import modeling_qwen3_5

for norm in (modeling_qwen3.Qwen3RMSNorm(4), modeling_qwen3_5.Qwen3_5RMSNorm(4)):
    print(f"{type(norm).__name__:<15}", norm.weight.tolist())
x, norm = torch.randn(100, 32), model.model.norm
right = F.rms_norm(x, (32,), 1 + norm.weight, 1e-6)
wrong = F.rms_norm(x, (32,), norm.weight, 1e-6)
torch.testing.assert_close(norm(x), right, **close)
mean, mean_of_wrong = right.square().mean().sqrt(), wrong.square().mean().sqrt()
print(f"{mean:.2f} {mean_of_wrong:.2f}")

# %% [markdown] lang="zh" key="norm-read"
# <details><summary>答案和读法</summary>
#
# B。Qwen3 的权重从 1 开始，公式是 `x * w`；后来的从 0 开始，公式是 `x * (1 + w)`，查询和键的归一化也一样。最后一行是两种算法的均方根：对的在 1 左右，错的只剩四分之一左右，而且不会报错。只有 DeltaNet 里面的那个归一化仍是 `x * w`。
#
# </details>
#
# 注意力本身有两处不同。RoPE 只转每个头的前四分之一。`q_proj` 宽了一倍：多出的一半过 sigmoid，成为**输出阀门**，在 `o_proj` 之前和输出相乘。下面整层重写一遍。

# %% [markdown] lang="en" key="norm-read"
# <details><summary>Answer, and how to read it</summary>
#
# B. Qwen3's weights start at 1 and its formula is `x * w`; later ones start at 0 and the formula is `x * (1 + w)`, for the norms of queries and keys as well. The last line is the root mean square either way: about 1 when right, about a quarter of that when wrong, and nothing complains. Only the norm inside DeltaNet still is `x * w`.
#
# </details>
#
# Attention itself differs in two places. RoPE turns only the first quarter of each head. And `q_proj` is twice as wide: its second half goes through a sigmoid and becomes the **output valve**, which the output is multiplied by before `o_proj`. Here is the whole layer again.

# %% key="attention"
from helpers.qwen import apply_rope


def gated_attention(layer, x, cos, sin):  # cos, sin: (seq, head_dim / 4)
    q, valve = layer.q_proj(x).view(len(x), -1, 2 * layer.head_dim).chunk(2, dim=-1)
    k = layer.k_proj(x).view(len(x), -1, layer.head_dim)
    v = layer.v_proj(x).view(len(x), -1, layer.head_dim)
    q = layer.q_norm(q).transpose(0, 1)  # (heads, seq, head_dim)
    k = layer.k_norm(k).transpose(0, 1)
    v = v.transpose(0, 1)
    turned = cos.shape[-1]
    for part in (q, k):
        part[..., :turned] = apply_rope(part[..., :turned], cos, sin)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return layer.o_proj(out.transpose(0, 1).flatten(1) * valve.flatten(1).sigmoid())


layer = model.model.layers[3].self_attn
cos, sin = model.model.rotary_emb(x, torch.arange(100)[None])
causal = torch.full((100, 100), -torch.inf).triu(1)[None, None]
[expected], _ = layer(x[None], (cos, sin), causal)
torch.testing.assert_close(gated_attention(layer, x, cos[0], sin[0]), expected, **close)
print("RoPE:", cos.shape[-1], "/", layer.head_dim)
print("q_proj:", layer.q_proj.out_features, "| o_proj:", layer.o_proj.in_features)

# %% [markdown] lang="zh" key="attention-read"
# 读输出：每个头 16 维，只转 4 维；`q_proj` 的输出是 128 维，`o_proj` 的输入是 64 维，差的一半就是阀门。
#
# ## 共享专家回来了
#
# 第 04 课说 Qwen3-MoE 没有共享专家，那只对 Qwen3 成立。后来的 MoE 每层都有一个，结构和附录 A2 里 Qwen2-MoE 的那个相同：

# %% [markdown] lang="en" key="attention-read"
# How to read it: of a head's 16 dimensions 4 are turned; `q_proj` puts out 128 dimensions and `o_proj` takes 64, and the half between them is the valve.
#
# ## The shared expert is back
#
# Lesson 04 says that Qwen3-MoE has no shared expert, and that holds for Qwen3 only. In a later MoE every layer has one, built like that of Qwen2-MoE in appendix A2:

# %% key="shared"
experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
moe = tiny("qwen3_5_moe_text", **experts, shared_expert_intermediate_size=16)
block = moe.model.layers[0].mlp
_, routing_weights, chosen = block.gate(x)
routed = block.experts(x, chosen, routing_weights)
valve = block.shared_expert_gate(x).sigmoid()  # (tokens, 1)
whole = routed + valve * block.shared_expert(x)
torch.testing.assert_close(whole, block(x[None])[0], **close)
print(f"valve: {valve.min():.2f} ... {valve.max():.2f}")

# %% [markdown] lang="zh" key="later"
# 读输出：阀门因词元而异，有的几乎关上，有的几乎全开。选中专家的权重仍归一到和为 1。
#
# ## 模板和工具
#
# 这一节没有运行，各条都有出处：
#
# - 2507 的 Thinking 和 3.5 以后的模型，提示词末尾就写好了 `<think>`，模型只写 `</think>`（[Qwen3](https://github.com/QwenLM/Qwen3)、[vLLM 的配方](https://github.com/vllm-project/recipes/blob/main/models/Qwen/Qwen3.8-27B.yaml)）。3.5 里 2B 及以下默认不思考，4B 及以上默认思考；3.6 多了 `preserve_thinking`，3.8 默认打开它，历史里的思考就留着；3.8 还多了 `reasoning_effort`（[TRL 收集的模板](https://github.com/huggingface/trl/blob/main/trl/chat_templates/README.md)）。
# - 软开关 `/think`、`/no_think` 在 3.5 里不受支持（[模型卡](https://huggingface.co/Qwen/Qwen3.5-27B)）。
# - 工具调用写成 XML，vLLM 要用 `--tool-call-parser qwen3_coder`，`hermes` 认不出（[3.8-27B](https://github.com/vllm-project/recipes/blob/main/models/Qwen/Qwen3.8-27B.yaml)、[Coder](https://github.com/vllm-project/recipes/blob/main/models/Qwen/Qwen3-Coder-480B-A35B-Instruct.yaml)）；Next 仍用 [`hermes`](https://github.com/vllm-project/recipes/blob/main/models/Qwen/Qwen3-Next-80B-A3B-Instruct.yaml)。
#
# ## 不再成立的话
#
# | 课 | 对 Qwen3 成立 | 后来 | 依据 |
# |---|---|---|---|
# | [03](../zh/03_architecture.ipynb) | KV = 2 × 层数 × KV 头 × `head_dim` × 字节 | 只数全注意力层，另加每条序列一份状态 | 上面算过 |
# | 03 | RMSNorm 是 `x * w` | `x * (1 + w)` | 上面算过 |
# | 03 | RoPE 转整个头 | 转四分之一 | 上面算过 |
# | 03 | 注意力的输出直接进 `o_proj` | 先过输出阀门 | 上面算过 |
# | 03 | 配置的数字在最外层，词表 151,936 | 3.5 起常包在 `text_config` 里，词表 248,320 | 上面算过 |
# | [04](../zh/04_moe_routing.ipynb) | MoE 没有共享专家 | 有一个，带阀门 | 上面算过 |
# | [05](../zh/05_offline_generation.ipynb) | GPU 上 vLLM 一块 16 个词元 | 几百个，27B 是 784 个 | 上面算过 |
# | [06](../zh/06_thinking.ipynb) | 模型自己写 `<think>`；有软开关；历史不带思考 | 提示词里写好；没有；3.8 默认带 | 上一节 |
# | [07](../zh/07_openai_server.ipynb) | 工具用 `hermes` | Coder 和 3.5 起用 `qwen3_coder` | 上一节 |
# | 全课 | 只有文字；Apache 2.0 | 3.5 起能看图（2.4T 除外）；3.8 的许可证看权重旁的文件 | [Qwen3.8](https://github.com/QwenLM/Qwen3.8) |
#
# 本课程的代码只运行 Qwen2、Qwen3 和两者的 MoE。

# %% [markdown] lang="en" key="later"
# How to read it: the valve differs from token to token, from almost shut to almost open. The weights of the chosen experts still add up to 1.
#
# ## Template and tools
#
# Nothing was run for this section; every point has its source:
#
# - In 2507's Thinking and from 3.5 on, the prompt already ends with `<think>` and the model writes only `</think>` ([Qwen3](https://github.com/QwenLM/Qwen3), [vLLM's recipe](https://github.com/vllm-project/recipes/blob/main/models/Qwen/Qwen3.8-27B.yaml)). In 3.5, 2B and smaller do not think by default, 4B and larger do; 3.6 adds `preserve_thinking`, and 3.8 turns it on by default, so thoughts stay in the history; 3.8 also adds `reasoning_effort` ([templates collected by TRL](https://github.com/huggingface/trl/blob/main/trl/chat_templates/README.md)).
# - The soft switches `/think` and `/no_think` are not supported in 3.5 ([model card](https://huggingface.co/Qwen/Qwen3.5-27B)).
# - Tool calls are XML and need vLLM's `--tool-call-parser qwen3_coder`; `hermes` does not recognise them ([3.8-27B](https://github.com/vllm-project/recipes/blob/main/models/Qwen/Qwen3.8-27B.yaml), [Coder](https://github.com/vllm-project/recipes/blob/main/models/Qwen/Qwen3-Coder-480B-A35B-Instruct.yaml)); Next still uses [`hermes`](https://github.com/vllm-project/recipes/blob/main/models/Qwen/Qwen3-Next-80B-A3B-Instruct.yaml).
#
# ## What no longer holds
#
# | Lesson | True for Qwen3 | Later | Ground |
# |---|---|---|---|
# | [03](../en/03_architecture.ipynb) | KV = 2 × layers × KV heads × `head_dim` × bytes | full-attention layers only, and a state for each sequence | computed above |
# | 03 | RMSNorm is `x * w` | `x * (1 + w)` | computed above |
# | 03 | RoPE turns the whole head | a quarter of it | computed above |
# | 03 | what attention puts out goes straight to `o_proj` | through an output valve first | computed above |
# | 03 | the config's numbers stand at the top level, vocabulary 151,936 | from 3.5 on mostly inside `text_config`, vocabulary 248,320 | computed above |
# | [04](../en/04_moe_routing.ipynb) | MoE has no shared expert | it has one, with a valve | computed above |
# | [05](../en/05_offline_generation.ipynb) | on a GPU, a block of vLLM's has 16 tokens | hundreds, 784 for 27B | computed above |
# | [06](../en/06_thinking.ipynb) | the model writes `<think>` itself; soft switches; no thoughts in the history | the prompt holds it; none; 3.8 keeps them by default | the section above |
# | [07](../en/07_openai_server.ipynb) | `hermes` for tools | `qwen3_coder` for Coder and from 3.5 on | the section above |
# | all | text only; Apache 2.0 | images from 3.5 on (not 2.4T); for 3.8 see the licence beside the weights | [Qwen3.8](https://github.com/QwenLM/Qwen3.8) |
#
# This course's code runs Qwen2, Qwen3 and the MoE models of both, and nothing later.

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - 认系列看 `config.json`：`text_config`、`model_type`、`layer_types`；同名的几代再看模板。
# - 四层里三层是线性注意力：缓存等于一份固定的状态，加上四分之一的层的 KV。
# - Gated DeltaNet 每读一个词元，就按误差改一次状态。
# - 归一化、RoPE、输出阀门、共享专家都变了；装错权重往往不报错，只是结果不对。
#
# ## 自测
#
# 1. 一个 `config.json` 最外层没有 `num_hidden_layers`，去哪里找？
# 2. 40 层、每四层一层全注意力、2 个 KV 头、`head_dim` 256，bf16：每个词元多少字节 KV？
# 3. 为什么线性层的缓存不随长度增长？付出的代价是什么？
# 4. 一段旧代码用 `x * w` 加载 Qwen3.5 的归一化，会报错吗？
# 5. 换到 Qwen3.8-27B，第 07 课的启动命令要改哪个参数？
#
# <details><summary>答案</summary>
#
# 1. `text_config` 里。
# 2. 10 层：2 × 10 × 2 × 256 × 2 = 20,480 字节，另加每条序列一份状态。
# 3. 它只留一个矩阵，新内容改在旧内容上；代价是记不住每个词元的原样，所以仍留四分之一的全注意力层。
# 4. 不会：形状都对，数值错。
# 5. `--tool-call-parser` 从 `hermes` 改成 `qwen3_coder`。
#
# </details>

# %% [markdown] lang="en" key="recap"
# ## Recap
#
# - A `config.json` tells the family: `text_config`, `model_type`, `layer_types`; where generations share a name, the template does.
# - Three of four layers are linear attention: the cache is a fixed state plus the KV of a quarter of the layers.
# - Gated DeltaNet corrects its state by the error, once for every token that it reads.
# - Norm, RoPE, output valve and shared expert changed; weights in the wrong formula rarely raise, they just give wrong results.
#
# ## Test yourself
#
# 1. A `config.json` has no `num_hidden_layers` at the top level. Where do you look?
# 2. 40 layers, one in four with full attention, 2 KV heads, `head_dim` 256, bf16: how many bytes of KV does a token take?
# 3. Why does the cache of a linear layer not grow with length? What is the price?
# 4. Older code loads the norms of Qwen3.5 with `x * w`. Does it raise?
# 5. Which flag of lesson 07's command changes for Qwen3.8-27B?
#
# <details><summary>Answers</summary>
#
# 1. Inside `text_config`.
# 2. 10 layers: 2 × 10 × 2 × 256 × 2 = 20,480 bytes, and a state for each sequence.
# 3. It keeps one matrix, and new content is written over old; the price is that no token is kept as it was, which is why a quarter of the layers still has full attention.
# 4. No: all shapes fit, the numbers are wrong.
# 5. `--tool-call-parser` goes from `hermes` to `qwen3_coder`.
#
# </details>

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - 代码：transformers 的 [`modeling_qwen3_next.py`](https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/models/qwen3_next/modeling_qwen3_next.py) 和 [`modeling_qwen3_5_moe.py`](https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/models/qwen3_5_moe/modeling_qwen3_5_moe.py)
# - 线性层：[Gated DeltaNet](https://arxiv.org/abs/2412.06464)；输出阀门：[Gated Attention](https://arxiv.org/abs/2505.06708)
# - 发布说明：[Qwen3.8](https://github.com/QwenLM/Qwen3.8)；部署参数：[vLLM 的配方](https://github.com/vllm-project/recipes/tree/main/models/Qwen)

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - Code: transformers' [`modeling_qwen3_next.py`](https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/models/qwen3_next/modeling_qwen3_next.py) and [`modeling_qwen3_5_moe.py`](https://github.com/huggingface/transformers/blob/v5.19.0/src/transformers/models/qwen3_5_moe/modeling_qwen3_5_moe.py)
# - Linear layers: [Gated DeltaNet](https://arxiv.org/abs/2412.06464); the output valve: [Gated Attention](https://arxiv.org/abs/2505.06708)
# - Releases: [Qwen3.8](https://github.com/QwenLM/Qwen3.8); flags for serving: [vLLM's recipes](https://github.com/vllm-project/recipes/tree/main/models/Qwen)
