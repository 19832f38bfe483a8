# %% [markdown] lang="zh" key="title"
# # A4 · 注意力细讲：亲手装出 Qwen3
#
# | | |
# |---|---|
# | 学完能做 | 写出 Qwen3 的每一块，装成整个模型，和 transformers 逐个词元相同；由 `config.json` 算出参数量；看见 QK 归一化对训练做了什么 |
# | 先修 | 第 03 课；用过一点 PyTorch |
# | 时间 | 85 分钟，各节可以分几次读；标着“选读”的另算 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；最后一个选读小节要 8 GB |
# | 模型 | 课程自带的 `qwen3-tiny`；硬盘上有 Qwen3-0.6B 时，最后一个选读小节会用到它 |

# %% [markdown] lang="en" key="title"
# # A4 · Attention in depth: put Qwen3 together yourself
#
# | | |
# |---|---|
# | You will be able to | write each block of Qwen3 and make the whole model of them, equal to transformers token for token; work out parameters from a `config.json`; see what QK-norm does to training |
# | Prerequisites | lesson 03; a little PyTorch |
# | Time | 85 minutes, one section at a time if you like; what is marked "extra" comes on top |
# | Hardware | any Linux CPU with 4 GB of memory; 8 GB for the last extra section |
# | Model | the bundled `qwen3-tiny`; if Qwen3-0.6B is on your disk, the last extra section uses it |

# %% key="setup"
import torch
import torch.nn.functional as F
from torch import nn

from helpers import ROOT, catalogue, models, say
from helpers.lessons import lA4

# zh: 矩阵这么小，多用一个线程反而更慢
# en: for matrices this small a second thread costs more than it brings
torch.set_num_threads(1)
folder = models.find_checkpoint("qwen3-tiny")
print(models.describe(folder))

# %% [markdown] lang="zh" key="norms-text"
# 第 03 课写出了注意力，装进了现成的模型。这里把剩下的每一块也写出来，从零装成整个 Qwen3。每写完一块，就和 PyTorch 或 transformers 里的同一块比一比，最后整个模型再比一次。比较用 `torch.testing.assert_close`：两边相等，它什么也不打印；不相等，它就报错。
#
# ## RMSNorm 和 LayerNorm
#
# 归一化让每一层的输入保持同样的大小。LayerNorm 做两件事：减去平均值，再除以标准差。RMSNorm（[Zhang 与 Sennrich，2019](https://arxiv.org/abs/1910.07467)）只做一件：除以均方根，也就是各分量的平方求平均，再开方。
#
# **先选一个（选读）。** 一个平均值约为 4 的向量，经过 RMSNorm 之后，平均值会变成 0 吗？
#
# - A. 不会
# - B. 会：归一化就是这个意思

# %% [markdown] lang="en" key="norms-text"
# Lesson 03 wrote attention and put it into a ready model. Here we write every other block as well and make the whole of Qwen3 from nothing. Each finished block is compared with its counterpart in PyTorch or transformers, and so is the whole model in the end. `torch.testing.assert_close` compares: it says nothing where both are equal, and raises an error where they are not.
#
# ## RMSNorm and LayerNorm
#
# A norm keeps the input of every layer at one scale. LayerNorm does two things: it subtracts the mean and divides by the standard deviation. RMSNorm ([Zhang and Sennrich, 2019](https://arxiv.org/abs/1910.07467)) does one: it divides by the root mean square, the square root of the mean of all squares.
#
# **Choose first (extra).** A vector has a mean of about 4. Is its mean 0 after RMSNorm?
#
# - A. No
# - B. Yes: that is what a norm does

# %% key="norms" tags=["extra"]
torch.manual_seed(0)
x = 3 * torch.randn(64) + 4
normed = {
    say("输入", "input"): x,
    "LayerNorm": F.layer_norm(x, (64,)),
    "RMSNorm": F.rms_norm(x, (64,)),
}
lA4.vectors(normed)

# %% [markdown] lang="zh" key="rmsnorm-text"
# <details><summary>读图</summary>
#
# A。每条柱是向量的一个分量，横线是平均值。LayerNorm 把横线压到 0，有些分量因此变了号。RMSNorm 只缩放：形状和正负都不变，均方根变成 1。
#
# </details>
#
# RMSNorm 少一次减法、少一个偏置，论文里的实验效果相当；Qwen2 和 Qwen3 用的都是它。
#
# 除完之后，每个分量再乘一个训练得来的数，合起来是向量 $w$，代码里叫 `weight`。下面的类先转成 float32 再平方，因为真正的模型用 bfloat16，每一次舍入都会丢掉精度；transformers 也这样做。Qwen3 之后的模型改成乘 $1+w$，见[附录 A5](../zh/A5_after_qwen3.ipynb)。

# %% [markdown] lang="en" key="rmsnorm-text"
# <details><summary>Reading</summary>
#
# A. A bar is one component, the line is the mean. LayerNorm moves the line to 0, so some components change sign. RMSNorm only scales: shape and signs stay, the root mean square becomes 1.
#
# </details>
#
# RMSNorm saves a subtraction and a bias, and the paper's experiments find it about as good; Qwen2 and Qwen3 both use it.
#
# After the division each component is multiplied by a number that was learned; together these numbers are the vector $w$, `weight` in the code. The class below squares in float32, because real models run in bfloat16, where every rounding on the way costs accuracy; transformers does the same. Models after Qwen3 multiply by $1+w$ instead, see [appendix A5](../en/A5_after_qwen3.ipynb).


# %% key="rmsnorm" save="helpers/qwen.py::RMSNorm"
class RMSNorm(nn.Module):
    """Each vector by its root mean square, then scaled (Zhang and Sennrich, 2019)."""

    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden_states):
        x = hidden_states.float()
        x = x * torch.rsqrt(x.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        return self.weight * x.to(hidden_states.dtype)


x = torch.randn(5, 64)
torch.testing.assert_close(RMSNorm(64, 1e-6)(x), F.rms_norm(x, (64,), eps=1e-6))

# %% [markdown] lang="zh" key="rope-text"
# ## RoPE：快的和慢的
#
# 旋转位置编码（[RoPE](https://arxiv.org/abs/2104.09864)）在第 03 课的图上只有一对箭。一个头的查询（键也一样）有 `head_dim` 个数，配成 `head_dim / 2` 对，各转各的：第 $i$ 对每走一个位置转 $\theta^{-2i/d}$ 弧度（$d$ 是 `head_dim`，$i$ 从 0 数起）。前面的对转得快，后面的对转得慢，像秒针、分针和时针。Qwen2 和 Qwen3 的 $\theta$ 都是 1,000,000。
#
# 注意配对方式：Qwen 把第 `i` 个分量和第 `i + head_dim / 2` 个配成一对，不是相邻的两个。配错了照样能运行，只是输出全是乱码。
#
# 一对 $(a, b)$ 转过角度 $\varphi$，变成 $(a\cos\varphi - b\sin\varphi,\ b\cos\varphi + a\sin\varphi)$。`apply_rope` 把所有的对一次转完：`x * cos` 是每个式子的第一项，`rotate_half(x) * sin` 是第二项。`attention_factor` 留给 YaRN（一种加长上下文的办法），这里是 1。

# %% [markdown] lang="en" key="rope-text"
# ## RoPE: fast pairs and slow ones
#
# Of rotary position embedding ([RoPE](https://arxiv.org/abs/2104.09864)), the figure of lesson 03 shows one pair. The query of a head has `head_dim` numbers, and so has a key. They make `head_dim / 2` pairs, each with a pace of its own: pair $i$ turns by $\theta^{-2i/d}$ radians at each step ($d$ is `head_dim`, $i$ counts from 0). The first pairs are fast, the last ones slow, like the hands of a clock. $\theta$ is 1,000,000 in Qwen2 and in Qwen3.
#
# Mind the pairing: Qwen pairs component `i` with `i + head_dim / 2`, not with its neighbour. The wrong pairing runs just as well, and all that comes out is nonsense.
#
# A pair $(a, b)$ turned by $\varphi$ becomes $(a\cos\varphi - b\sin\varphi,\ b\cos\varphi + a\sin\varphi)$. `apply_rope` turns all pairs at once: `x * cos` is the first term of each expression, `rotate_half(x) * sin` the second. `attention_factor` is for YaRN, a way to extend the context; here it is 1.


# %% key="rope" save="helpers/qwen.py::apply_rope"
def rope_frequencies(head_dim, rope_theta):
    """Radians per position for each pair of dimensions (RoFormer, arXiv:2104.09864)."""
    # (head_dim / 2,)
    return 1.0 / rope_theta ** (torch.arange(0, head_dim, 2).float() / head_dim)


def rope_tables(position_ids, inv_freq, attention_factor=1.0):
    """Cosine and sine of each angle at `position_ids` (batch, seq); YaRN scales it."""
    # (batch, 1, seq, head_dim / 2)
    angles = position_ids[:, None, :, None].float() * inv_freq
    angles = torch.cat((angles, angles), dim=-1)  # (batch, 1, seq, head_dim)
    return angles.cos() * attention_factor, angles.sin() * attention_factor


def rotate_half(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def apply_rope(x, cos, sin):
    """Rotates the pairs (i, i + head_dim / 2) of (batch, heads, seq, head_dim)."""
    return x * cos + rotate_half(x) * sin


# %% [markdown] lang="zh" key="rope-question"
# **先选一个（选读）。** 同一个查询和同一个键，相隔越远，点积会怎样？
#
# - A. 一路变小
# - B. 上下起伏
# - C. 不变

# %% [markdown] lang="en" key="rope-question"
# **Choose first (extra).** One query and one key: what happens to their dot product as they move apart?
#
# - A. It falls all the way
# - B. It goes up and down
# - C. It stays the same

# %% key="rope-picture" tags=["extra"]
torch.manual_seed(1)
inv_freq = rope_frequencies(32, 1_000_000.0)  # (16,)
query = torch.randn(1, 1, 1, 32)  # (batch, heads, seq, head_dim)
key = torch.randn(1, 1, 1, 32)
products = {}
for position in (64, 1064):
    # zh: 查询不动，键从同一个位置往前退，最远 63 步
    # en: the query stays, the key moves back from its position, up to 63 steps
    before = position - torch.arange(64)[None]  # (batch, 64)
    cos, sin = rope_tables(torch.tensor([[position]]), inv_freq)
    turned_query = apply_rope(query, cos, sin)
    cos, sin = rope_tables(before, inv_freq)
    turned_keys = apply_rope(key, cos, sin)  # (1, 1, 64, 32)
    products[position] = (turned_query * turned_keys).sum(dim=-1).flatten()
torch.testing.assert_close(products[64], products[1064], atol=1e-2, rtol=0)
lA4.pace_of_pairs(inv_freq, products)

# %% [markdown] lang="zh" key="rope-read"
# <details><summary>读图</summary>
#
# B。前三格是三对分量的箭头在位置 0 到 7 的方向，越往后的对转得越慢。最后一格是同一个查询和同一个键在不同距离上的点积：许多对快慢不同的箭加在一起，所以起伏。实线和虚线重合：点积只看**相对**距离，不看绝对位置。
#
# </details>
#
# ## SwiGLU
#
# 前馈网络有三个矩阵（[Shazeer，2020](https://arxiv.org/abs/2002.05202)）：`gate_proj` 决定每个分量放行多少，`up_proj` 给出内容，两者逐个相乘，`down_proj` 再压回原来的宽度。`gate_proj` 的结果先过 SiLU，也就是 $x \cdot \mathrm{sigmoid}(x)$；它又叫 Swish，SwiGLU 里的 Swi 由此而来，GLU 是“带阀门的线性单元”。这里的 gate 就是这个阀门；第 04 课选择专家的路由器在源码里也叫 `gate`，名字相同，不是一回事。

# %% [markdown] lang="en" key="rope-read"
# <details><summary>Reading</summary>
#
# B. The first three panels show the arrows of three pairs at positions 0 to 7; the later the pair, the slower it turns. The last panel is the dot product of one query and one key at growing distance: many pairs, fast and slow, add up, hence the ups and downs. The solid and the dashed line coincide: the product sees the **relative** distance only, never the absolute position.
#
# </details>
#
# ## SwiGLU
#
# The feed-forward network has three matrices ([Shazeer, 2020](https://arxiv.org/abs/2002.05202)): `gate_proj` decides how far each component is let through, `up_proj` holds the content, the two are multiplied component by component, and `down_proj` returns to the old width. What `gate_proj` gives goes through SiLU first, which is $x \cdot \mathrm{sigmoid}(x)$. It is also called Swish, hence the Swi of SwiGLU; a GLU is a gated linear unit. This gate is a valve. The router of lesson 04, which picks experts, is called `gate` in the sources, too; it is something else.


# %% key="mlp"
class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden, intermediate = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, hidden_states):
        opening = F.silu(self.gate_proj(hidden_states))  # (batch, seq, intermediate)
        content = self.up_proj(hidden_states)  # (batch, seq, intermediate)
        return self.down_proj(opening * content)  # (batch, seq, hidden)


# %% [markdown] lang="zh" key="swiglu-text"
# **选读。** 课程的参考模型 `helpers/qwen.py` 把 `gate_proj` 和 `up_proj` 叠成一个矩阵，一次乘完；推理引擎也这样做。结果相等，下一格验证。

# %% [markdown] lang="en" key="swiglu-text"
# **Extra.** The course's reference model, `helpers/qwen.py`, stacks `gate_proj` and `up_proj` into one matrix and multiplies once, as inference engines do. The result is equal, as the next cell checks.

# %% key="swiglu" tags=["extra"] save="helpers/qwen.py::swiglu"
import transformers
from torch.nn.functional import linear


def swiglu(hidden_states, gate_up_proj, down_proj):
    """Gated MLP (arXiv:2002.05202); `gate_up_proj`: the rows of gate, then of up."""
    # 2 x (..., intermediate)
    gate, up = linear(hidden_states, gate_up_proj).chunk(2, dim=-1)
    return linear(F.silu(gate) * up, down_proj)  # (..., hidden)


mlp = MLP(transformers.Qwen3Config(hidden_size=64, intermediate_size=160))
# (2 * intermediate, hidden)
stacked = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))
x = torch.randn(5, 64)
torch.testing.assert_close(swiglu(x, stacked, mlp.down_proj.weight), mlp(x))
print(say("一次乘完和分两次乘：相等", "one multiplication or two: equal"))

# %% [markdown] lang="zh" key="attention-text"
# ## 注意力，写成类
#
# 第 03 课的注意力是一个函数，矩阵来自现成的模型。下面写成类，矩阵也归它。先写 Qwen2 的。留意两处：q、k、v 有偏置（`qkv_bias`），`o_proj` 没有；算出 q、k、v 的那一步单独写成 `query_key_value`，因为 Qwen3 除了去掉偏置，就只改这一步。

# %% [markdown] lang="en" key="attention-text"
# ## Attention as a class
#
# In lesson 03 attention is a function, and the matrices are those of a ready model. As a class, it has matrices of its own. Qwen2's comes first. Note two things: q, k and v have a bias (`qkv_bias`), `o_proj` has none; and the step that makes q, k and v is a method of its own, `query_key_value`, because apart from the bias that is all Qwen3 changes.


# %% key="qwen2-attention"
# zh: 旋转、缩放后的点积 (batch, heads, seq, seq)；查询和键是 (batch, seq, heads, head_dim)
# en: rotated, scaled products (batch, heads, seq, seq) of (batch, seq, heads, head_dim)
def attention_logits(query, key, cos, sin):
    query = apply_rope(query.transpose(1, 2), cos, sin)  # (batch, heads, seq, head_dim)
    key = apply_rope(key.transpose(1, 2), cos, sin)
    # zh: 一组查询头共用一个 KV 头
    # en: a group of query heads shares one KV head
    group = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(group, dim=1)
    return query @ key.mT / query.shape[-1] ** 0.5


class Qwen2Attention(nn.Module):
    qkv_bias = True

    def __init__(self, config):
        super().__init__()
        hidden, heads = config.hidden_size, config.num_attention_heads
        # zh: Qwen2 的配置里没有 head_dim，要算出来
        # en: Qwen2's configuration has no head_dim, so it is worked out
        self.head_dim = getattr(config, "head_dim", None) or hidden // heads
        width = heads * self.head_dim
        kv_width = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(hidden, width, bias=self.qkv_bias)
        self.k_proj = nn.Linear(hidden, kv_width, bias=self.qkv_bias)
        self.v_proj = nn.Linear(hidden, kv_width, bias=self.qkv_bias)
        self.o_proj = nn.Linear(width, hidden, bias=False)

    # zh: 三个都是 (batch, seq, heads, head_dim)
    # en: each of the three is (batch, seq, heads, head_dim)
    def query_key_value(self, hidden_states):
        query = self.q_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        key = self.k_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        value = self.v_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        return query, key, value

    def forward(self, hidden_states, cos, sin):
        query, key, value = self.query_key_value(hidden_states)
        logits = attention_logits(query, key, cos, sin)  # (batch, heads, seq, seq)
        future = torch.ones_like(logits, dtype=torch.bool).triu(1)
        weights = logits.masked_fill(future, -torch.inf).softmax(dim=-1)
        group = query.shape[2] // value.shape[2]
        value = value.transpose(1, 2).repeat_interleave(group, dim=1)
        output = weights @ value  # (batch, heads, seq, head_dim)
        return self.o_proj(output.transpose(1, 2).flatten(2))  # (batch, seq, hidden)


# %% [markdown] lang="zh" key="ex1-text"
# ### 练习 1 ★★☆（10 分钟）：RoPE 能不能放到前面
#
# Qwen3 在这里多了 QK 归一化：查询和键各自归一化。它和旋转谁先谁后，最容易写错。补全函数，让返回的查询和键可以直接做点积。`query` 是 `(batch, seq, heads, head_dim)`，`key` 的头少一些；`q_norm`、`k_norm` 是 RMSNorm；`cos`、`sin` 的形状配得上它们，直接交给 `apply_rope`。
#
# <details><summary>提示</summary>
#
# 旋转不改变长度，所以归一化的除法放在前后都一样；但 RMSNorm 最后还要乘 `weight`，旋转会把分量混在一起，所以先后不能颠倒。Qwen3 的 `weight` 是在旋转之前用的，训练时就是这样。
#
# </details>

# %% [markdown] lang="en" key="ex1-text"
# ### Exercise 1 ★★☆ (10 minutes): may RoPE come first
#
# Here Qwen3 adds QK-norm, a norm for queries and one for keys. Whether it comes before the rotation or after it is easily got wrong. Complete the function so that query and key are ready for their dot products. `query` is `(batch, seq, heads, head_dim)`, `key` has fewer heads; `q_norm` and `k_norm` are RMSNorms; `cos` and `sin` have shapes that fit, and go to `apply_rope` as they are.
#
# <details><summary>Hint</summary>
#
# A rotation keeps lengths, so the division inside a norm could stand on either side of it. But RMSNorm ends with a product by `weight`, and a rotation mixes the components: the two cannot trade places. Qwen3 was trained with `weight` before the rotation.
#
# </details>


# %% key="ex1" tags=["exercise"]
def prepare(query, key, q_norm, k_norm, cos, sin):
    return ...


# %% key="ex1-solution" tags=["solution"]
def prepare(query, key, q_norm, k_norm, cos, sin):  # noqa: F811
    query = apply_rope(q_norm(query), cos, sin)
    key = apply_rope(k_norm(key), cos, sin)
    return query, key


# %% key="ex1-check"
lA4.ex1.check(prepare)

# %% [markdown] lang="zh" key="qwen3-attention-text"
# 用类来写，Qwen3 的注意力就是 Qwen2 的注意力改三处：去掉偏置，加两个归一化，取出 q、k、v 时用上它们。每个归一化只有 `head_dim` 个参数，由这一层所有的头共用。下一格列出两个类各自独有的参数；`SimpleNamespace` 是只有属性的对象，这里当一份小配置用。

# %% [markdown] lang="en" key="qwen3-attention-text"
# As a class, Qwen3's attention is Qwen2's with three changes: no bias, two norms, and their use where q, k and v are made. A norm has `head_dim` parameters only, shared by all heads of the layer. The next cell lists the parameters that only one of the two classes has; `SimpleNamespace` is an object of attributes alone, here a small configuration.

# %% key="qwen3-attention"
from types import SimpleNamespace


class Qwen3Attention(Qwen2Attention):
    qkv_bias = False

    def __init__(self, config):
        super().__init__(config)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def query_key_value(self, hidden_states):
        query, key, value = super().query_key_value(hidden_states)
        return self.q_norm(query), self.k_norm(key), value


config = SimpleNamespace(
    hidden_size=40,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    rms_norm_eps=1e-6,
)
qwen2 = set(Qwen2Attention(config).state_dict())
qwen3 = set(Qwen3Attention(config).state_dict())
print("Qwen2 - Qwen3:", *sorted(qwen2 - qwen3))
print("Qwen3 - Qwen2:", *sorted(qwen3 - qwen2))


# %% [markdown] lang="zh" key="attention-check-text"
# **选读。** 并排验证：把 transformers 里三种注意力的权重拷过来，同样的输入，输出必须相同。
#
# **先选一个（选读）。** 第三种，MoE 模型的注意力，会和稠密的 Qwen3 有差别吗？
#
# - A. 没有
# - B. 有：专家要另一种注意力

# %% [markdown] lang="en" key="attention-check-text"
# **Extra.** Side by side: take the weights of three attentions in transformers; equal inputs must give equal outputs.
#
# **Choose first (extra).** Does the third, the attention of the MoE model, differ from that of the dense Qwen3?
#
# - A. No
# - B. Yes: experts need another attention


# %% key="attention-check" tags=["extra"]
import transformers
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_moe import modeling_qwen3_moe

sizes = {
    "hidden_size": 40,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "attn_implementation": "eager",
}
x, position_ids = torch.randn(1, 5, 40), torch.arange(5)[None]
cos, sin = rope_tables(position_ids, rope_frequencies(16, 1e6))
# zh: transformers 的表没有“头”那一维
# en: the tables of transformers have no dimension for heads
tables = cos[:, 0], sin[:, 0]
future = torch.full((1, 1, 5, 5), -torch.inf).triu(1)
for ours, theirs, config_class in (
    (Qwen2Attention, modeling_qwen2.Qwen2Attention, transformers.Qwen2Config),
    (Qwen3Attention, modeling_qwen3.Qwen3Attention, transformers.Qwen3Config),
    (Qwen3Attention, modeling_qwen3_moe.Qwen3MoeAttention, transformers.Qwen3MoeConfig),
):
    config = config_class(**sizes)
    mine, reference = ours(config), theirs(config, layer_idx=0)
    for parameter in reference.parameters():
        nn.init.normal_(parameter)
    mine.load_state_dict(reference.state_dict())
    expected, _ = reference(x, tables, future)
    torch.testing.assert_close(mine(x, cos, sin), expected, atol=1e-4, rtol=1e-4)
    names = [name for name in mine.state_dict() if "bias" in name or "norm" in name]
    print(f"{theirs.__name__:<17} equal |", *names)

config = transformers.Qwen3Config(**sizes)
mine, reference = MLP(config), modeling_qwen3.Qwen3MLP(config)
mine.load_state_dict(reference.state_dict())
torch.testing.assert_close(mine(x), reference(x))
rotary = modeling_qwen3.Qwen3RotaryEmbedding(config)
torch.testing.assert_close(tables, rotary(x, position_ids))
print("Qwen3MLP, Qwen3RotaryEmbedding: equal")

# %% [markdown] lang="zh" key="counts-text"
# <details><summary>读结果</summary>
#
# A。第一行有三个 `bias`，没有 `norm`。后两行正相反，而且彼此一样。最后一行说，前馈网络和 RoPE 的表也相等。
#
# 这里故意取 `hidden_size` 为 40，而查询总宽度是 6 × 16 = 96：`head_dim` 单独给出，两者就各自独立。
#
# </details>
#
# ## 数一数参数
#
# 知道每一块的形状，参数量就能由 `config.json` 里的几个数字算出来。KV 缓存的大小也一样：每一层、每个 KV 头，为每个词元存一个键和一个值。
#
# **先选一个。** Qwen3-8B 和 Qwen2.5-7B 相比，每个词元的 KV 缓存：
#
# - A. 小了：新模型更省
# - B. 一样
# - C. 大了

# %% [markdown] lang="en" key="counts-text"
# <details><summary>Reading</summary>
#
# A. The first line has three `bias` and no `norm`. The next two have it the other way round, and are equal to each other. The last says that the feed-forward network and the RoPE tables are equal, too.
#
# `hidden_size` is 40 here on purpose, while the query width is 6 × 16 = 96: with a `head_dim` of its own, the one does not depend on the other.
#
# </details>
#
# ## Count the parameters
#
# Once you know the shape of every block, a few numbers of `config.json` give the number of parameters. They also give the size of the KV cache: each layer and each KV head stores a key and a value for every token.
#
# **Choose first.** Compared with Qwen2.5-7B, Qwen3-8B's KV cache per token is
#
# - A. smaller: newer models save memory
# - B. the same
# - C. larger


# %% key="counts"
def count_parameters(config):
    hidden, head_dim = config["hidden_size"], catalogue.head_dim(config)
    width = config["num_attention_heads"] * head_dim
    kv_width = config["num_key_value_heads"] * head_dim
    attention = 2 * hidden * width + 2 * hidden * kv_width  # q, o; k, v
    if config["model_type"] == "qwen3":
        attention += 2 * head_dim  # q_norm, k_norm
    else:
        attention += width + 2 * kv_width  # q, k, v: bias
    swiglu = 3 * hidden * config["intermediate_size"]
    norms = 2 * hidden
    layers = config["num_hidden_layers"] * (attention + swiglu + norms)
    # zh: 词嵌入；不共用时，输出矩阵一样大
    # en: the embedding; unless it is tied, the output matrix is as large
    embedding = config["vocab_size"] * hidden
    matrices = 1 if config["tie_word_embeddings"] else 2
    return layers + matrices * embedding + hidden  # norm


counts = {}
for name, config in lA4.DENSE.items():
    counts[name] = count_parameters(config)
    # zh: 模型卡上公布的参数量，以十亿计
    # en: parameters on the model card, in billions
    assert abs(counts[name] / 1e9 / lA4.PUBLISHED[name] - 1) < 0.015
lA4.table_of_sizes(counts)

# %% [markdown] lang="zh" key="counts-read" facts="2.57 9,216"
# <details><summary>读表</summary>
#
# C。hidden 是 `hidden_size`，query 是查询总宽度（头数 × `head_dim`），中间的 = 或 ≠ 表示两者是否相等，“共用”是 `tie_word_embeddings`，输入输出是否共用词嵌入，最后一列是每个词元的 KV 缓存。每一行都和模型卡公布的数字相符（公布值取了整，[Qwen2.5-32B 的卡](https://huggingface.co/Qwen/Qwen2.5-32B)还略微少写，所以容许 1.5% 的差）。三件事值得记住：
#
# - 标着 ≠ 的三个 Qwen3，用 `hidden_size / num_attention_heads` 求 `head_dim` 一定会错。
# - 8B 的缓存是每个词元 144 KiB，Qwen2.5-7B 只有 56 KiB：Qwen3 **多**到 2.57 倍，因为层更多，KV 头也从 4 个变成 8 个。
# - 8B 的 QK 归一化一共 36 × 256 = 9,216 个参数，大约是全部的百万分之一。
#
# </details>
#
# 六处差别里的三处就在表里：`head_dim`、KV 头、共用词嵌入。两个 MoE 模型不在表里，它们的查询总宽度和 `hidden_size` 也不相等。
#
# **选读。** GQA 到底省了多少？下图把“每个查询头都有自己的 KV 头”和实际的缓存放在一起。再用 transformers 在不占内存的 `meta` 设备上建出每个模型，核对参数量是否一个不差。

# %% [markdown] lang="en" key="counts-read" facts="2.57 9,216"
# <details><summary>Reading</summary>
#
# C. In the table, hidden is `hidden_size`, query the query width (heads × `head_dim`), = or ≠ compares the two, tied is `tie_word_embeddings`, whether input and output share one embedding, the last column is the KV cache per token. Every row agrees with the model card (cards are rounded, and [that of Qwen2.5-32B](https://huggingface.co/Qwen/Qwen2.5-32B) says a little less than there is, hence the tolerance of 1.5%). Three things are worth keeping:
#
# - For the three Qwen3 marked ≠, taking `head_dim` as `hidden_size / num_attention_heads` is certain to be wrong.
# - 8B caches 144 KiB a token, Qwen2.5-7B only 56 KiB: Qwen3 takes **more**, 2.57 times as much, with more layers and 8 KV heads instead of 4.
# - QK-norm in 8B is 36 × 256 = 9,216 parameters, about one in a million.
#
# </details>
#
# Three of the six differences stand in the table: `head_dim`, KV heads, tied embeddings. The two MoE models are not in it; their query width is not `hidden_size`, either.
#
# **Extra.** How much does GQA save? The figure sets the cache as it is beside one in which every query head had a KV head of its own. And transformers builds every model on the `meta` device, which takes no memory, to see whether our counts are right to the last parameter.

# %% key="kv-figure" tags=["extra"]
import transformers

for name, config in lA4.DENSE.items():
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**config)
        )
    assert built.num_parameters() == counts[name]
lA4.kv_caches()

# %% [markdown] lang="zh" key="kv-read"
# 读图：灰条是不分组时的缓存，蓝条是实际的缓存，右边写着实际值和它占灰条的几分之一。1/7 里的 7 是一组查询头的个数。
#
# - 8B 及以下，Qwen3 的缓存比同档的 Qwen2.5 大：KV 头更多（8 个对 2 或 4 个），有的层数也更多，0.6B 的头还更宽。
# - 14B 的 KV 头一样多，Qwen3 层数少，缓存反而小（160 对 192）。
# - 32B 的查询头更多，有 64 个，但层数和 KV 头数都相同，所以缓存一样。
#
# ### 练习 2 ★☆☆（5 分钟，选读）：KV 缓存有多大
#
# 写出每个词元占用的字节数（bf16，每个数 2 字节），`config` 是 `config.json` 的字典。再用它想一想：Qwen3-8B 装下 40,960 个词元的一段对话，缓存要多少 GiB？
#
# <details><summary>提示</summary>
#
# 每一层都存；键和值各一份；头数看 `num_key_value_heads`。答案是 5.625 GiB。
#
# </details>

# %% [markdown] lang="en" key="kv-read"
# How to read it: grey is the cache without groups, blue the real one. Beside them stand the real size and its share of the grey bar. The 7 in 1/7 is the number of query heads in a group.
#
# - Up to 8B, the cache of Qwen3 is larger than that of a Qwen2.5 of about its size. It has more KV heads (8 against 2 or 4), in some sizes more layers, and in 0.6B a wider head.
# - At 14B the KV heads are equally many. Qwen3 has fewer layers, so it caches less (160 against 192).
# - At 32B Qwen3 has more query heads, 64. Layers and KV heads are the same, and so is the cache.
#
# ### Exercise 2 ★☆☆ (5 minutes, extra): how large is the KV cache
#
# Return the bytes that one token takes (bf16, 2 bytes a number); `config` is the dictionary of a `config.json`. Then use it: how many GiB does Qwen3-8B need for one conversation of 40,960 tokens?
#
# <details><summary>Hint</summary>
#
# Every layer stores; keys and values each; the heads are `num_key_value_heads`. The answer is 5.625 GiB.
#
# </details>


# %% key="ex2" tags=["exercise", "extra"]
def kv_bytes_per_token(config):
    return ...


# %% key="ex2-solution" tags=["solution"]
def kv_bytes_per_token(config):  # noqa: F811
    key = config["num_key_value_heads"] * config["head_dim"]
    value = key
    return config["num_hidden_layers"] * (key + value) * 2


# %% key="ex2-check" tags=["extra"]
lA4.ex2.check(kv_bytes_per_token)

# %% [markdown] lang="zh" key="assemble-text"
# ## 装起来
#
# 零件齐了。一层是“归一化、注意力、加回来；归一化、前馈网络、加回来”，加回来的那一步叫残差连接。属性名照着检查点里的权重名字取，这样权重能直接放进来，一个名字都不能多、不能少。

# %% [markdown] lang="en" key="assemble-text"
# ## Put it together
#
# All parts are there. A layer is norm, attention, add; norm, feed-forward network, add; each add is a residual connection. The attributes are named after the weights in the checkpoint, so that these fit in directly, with no name too many and none missing.


# %% key="assemble"
class DecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Qwen3Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, hidden_states, cos, sin):
        attended = self.self_attn(self.input_layernorm(hidden_states), cos, sin)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class Qwen3(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config) for _ in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.inv_freq = rope_frequencies(config.head_dim, config.rope_theta)

    def forward(self, input_ids):
        position_ids = torch.arange(input_ids.shape[1])[None]  # (1, seq)
        cos, sin = rope_tables(position_ids, self.inv_freq)
        hidden_states = self.embed_tokens(input_ids)  # (batch, seq, hidden)
        for layer in self.layers:
            hidden_states = layer(hidden_states, cos, sin)
        return self.lm_head(self.norm(hidden_states))  # (batch, seq, vocab)


# %% [markdown] lang="zh" key="load-text"
# 把小模型的权重装进去，问它一道题。对话模板把问题写成模型训练时见过的格式。`load_state_dict` 默认是严格的：名字或形状有一处对不上就报错。共用词嵌入的检查点里可以没有 `lm_head.weight`，小模型就是这样，输出矩阵就是词嵌入本身；Qwen3-0.6B 的文件里则多存了一份。`setdefault` 两种都管。

# %% [markdown] lang="en" key="load-text"
# Now the tiny model's weights, and a question for it, which the chat template writes in the format of the model's training. `load_state_dict` is strict: one name or shape that does not fit is an error. A checkpoint with tied embeddings may leave out `lm_head.weight`, as the tiny model's does: it is the embedding itself. Qwen3-0.6B's file holds a second copy. `setdefault` covers both.

# %% key="load" tags=["raw"]
import json

import transformers
from safetensors.torch import load_file


def load(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = Qwen3(SimpleNamespace(**config))
    weights = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        weights[name.removeprefix("model.")] = tensor.float()
    weights.setdefault("lm_head.weight", weights["embed_tokens.weight"])
    print(model.load_state_dict(weights))
    return model.requires_grad_(False)


transformers.utils.logging.disable_progress_bar()
model = load(folder)
reference = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
question = [{"role": "user", "content": "37×46=?"}]
prompt = tokenizer.apply_chat_template(
    question, tokenize=False, add_generation_prompt=True
)
input_ids = tokenizer(prompt, return_tensors="pt").input_ids  # (1, seq)
difference = (model(input_ids) - reference(input_ids).logits).abs().max().item()
print("tokens:", input_ids.shape[1], f"| max difference: {difference:.1e}")
assert difference < 1e-4

# %% [markdown] lang="zh" key="generate-text"
# 打印的第一行说，名字全都对上了；差别只剩浮点误差。现在生成：每次取 logits 最大的词元接在后面（贪心解码），直到出现停止词元。为了看清楚，我们每一步都把整段重算一遍，不用缓存。贪心解码在这里是为了能逐个词元比较；真正的 Qwen3 在思考模式下不该这样用，第 06 课会讲。
#
# **先选一个。** 连续生成几十个词元，会不会在某一步和 transformers 写得不一样？
#
# - A. 不会
# - B. 会：误差越积越大

# %% [markdown] lang="en" key="generate-text"
# The first line printed says that all names fitted; only rounding is left. Now generate: append the token with the largest logit (greedy decoding) until a stop token comes. To keep it plain, each step computes the whole sequence again, without a cache. Greedy decoding serves the comparison here; a real Qwen3 should not be used that way in thinking mode, see lesson 06.
#
# **Choose first.** Over dozens of tokens, will the two write something different somewhere?
#
# - A. No
# - B. Yes: errors add up

# %% key="generate" tags=["raw"]
stop_ids, limit = reference.generation_config.eos_token_id, 200
tokens = input_ids
for _ in range(limit):
    next_token = model(tokens)[:, -1].argmax(dim=-1, keepdim=True)  # (1, 1)
    tokens = torch.cat((tokens, next_token), dim=1)
    if next_token.item() in stop_ids:
        break

expected = reference.generate(
    input_ids,
    attention_mask=torch.ones_like(input_ids),
    max_new_tokens=limit,
    # zh: 贪心解码：不采样，采样的参数也都不要
    # en: greedy decoding: no sampling, and none of its parameters
    do_sample=False,
    temperature=None,
    top_p=None,
    top_k=None,
)
assert tokens.equal(expected)
print(tokenizer.decode(tokens[0]))
print("new tokens:", tokens.shape[1] - input_ids.shape[1])
print("equal:", tokens.equal(expected))

# %% [markdown] lang="zh" key="names-text"
# <details><summary>读结果</summary>
#
# A。每一步只看哪个 logit 最大，舍入误差没有大到换掉第一名。
#
# </details>
#
# 到这里，你手里的就是 Qwen3：结构、加载、生成，全是上面看得见的代码。这份代码只求看得懂：float32、CPU、没有填充和缓存，`load` 只读一个权重文件，并且要 `config.json` 里直接写着 `rope_theta`；`helpers/qwen.py` 没有这些限制。答案来自教学用的小模型，它只见过很少的数据，不代表真正的 Qwen3。
#
# 读源码时按这张表对照：
#
# | 本课 | `helpers/qwen.py` | transformers |
# |---|---|---|
# | `RMSNorm` | `RMSNorm` | `Qwen3RMSNorm` |
# | `rope_tables`、`apply_rope` | 同名 | `Qwen3RotaryEmbedding`、`apply_rotary_pos_emb` |
# | `MLP` | `MLP` | `Qwen3MLP` |
# | `Qwen2Attention`、`Qwen3Attention` | `Attention` | `Qwen2Attention`、`Qwen3Attention` |
# | `DecoderLayer` | `DecoderLayer` | `Qwen3DecoderLayer` |
# | `Qwen3` | `QwenModel` | `Qwen3ForCausalLM`，里面是 `Qwen3Model` 加 `lm_head` |
# | 没有写 | `KVCache` | `DynamicCache` |
# | 第 04 课 | `Router`、`Experts`、`SparseMoeBlock` | `Qwen3MoeTopKRouter`、`Qwen3MoeExperts`、`Qwen3MoeSparseMoeBlock` |
#
# **选读。** `helpers/qwen.py` 是同一个模型，加上 KV 缓存、批量、MoE 和 YaRN。下一格比较有缓存和没有缓存各要多久。

# %% [markdown] lang="en" key="names-text"
# <details><summary>Reading</summary>
#
# A. Each step asks only which logit is the largest. Rounding was never large enough to change that.
#
# </details>
#
# What you have now is Qwen3: structure, loading, generation, all of it in code you can see above. It is written to be read: float32, on the CPU, without padding or cache. `load` reads one weight file and wants `rope_theta` in `config.json` itself. `helpers/qwen.py` has none of these limits. The answer comes from a tiny teaching model that has seen very little; it says nothing about the real Qwen3.
#
# When you read the sources, this table translates:
#
# | this lesson | `helpers/qwen.py` | transformers |
# |---|---|---|
# | `RMSNorm` | `RMSNorm` | `Qwen3RMSNorm` |
# | `rope_tables`, `apply_rope` | same names | `Qwen3RotaryEmbedding`, `apply_rotary_pos_emb` |
# | `MLP` | `MLP` | `Qwen3MLP` |
# | `Qwen2Attention`, `Qwen3Attention` | `Attention` | `Qwen2Attention`, `Qwen3Attention` |
# | `DecoderLayer` | `DecoderLayer` | `Qwen3DecoderLayer` |
# | `Qwen3` | `QwenModel` | `Qwen3ForCausalLM`, which is `Qwen3Model` and `lm_head` |
# | not written | `KVCache` | `DynamicCache` |
# | lesson 04 | `Router`, `Experts`, `SparseMoeBlock` | `Qwen3MoeTopKRouter`, `Qwen3MoeExperts`, `Qwen3MoeSparseMoeBlock` |
#
# **Extra.** `helpers/qwen.py` is the same model with a KV cache, batches, MoE and YaRN. The next cell times the same tokens with the cache and without it.

# %% key="cache" tags=["extra", "varies"]
import time

from helpers import qwen

helper = qwen.load_model(folder, dtype=torch.float32, device="cpu")
start = time.perf_counter()
assert helper.generate(input_ids, max_new_tokens=limit).equal(expected)
with_cache = time.perf_counter() - start
start = time.perf_counter()
for end in range(input_ids.shape[1], tokens.shape[1]):
    helper(tokens[:, :end])
print(f"with cache: {with_cache:.2f} s | without: {time.perf_counter() - start:.2f} s")

# %% [markdown] lang="zh" key="seen-text"
# 读输出：缓存省下的是重算旧词元的功夫，文字越长，省得越多。
#
# ## QK 归一化给分数的上限
#
# 注意力分数是 softmax 之前的 $q \cdot k / \sqrt{d}$，$d$ 还是 `head_dim`。分数相差越大，softmax 越接近“只看一个词元”，梯度就越小。`q_proj` 和 `k_proj` 的权重变大，分数就变大，相差也变大。第 03 课看了查询的长度，下一格（选读）看分数。

# %% [markdown] lang="en" key="seen-text"
# How to read it: the cache saves computing old tokens again, so the longer the text, the more it saves.
#
# ## The bound that QK-norm puts on logits
#
# Attention logits are $q \cdot k / \sqrt{d}$, before the softmax; $d$ is `head_dim`, as before. The further apart they are, the closer the softmax comes to looking at one token only, and the smaller its gradients. They grow, and grow apart, with the weights of `q_proj` and `k_proj`. Lesson 03 looked at the length of queries; the next cell (extra) looks at the logits.

# %% key="scale" tags=["extra"]
import copy

x = model.layers[0].input_layernorm(model.embed_tokens(tokens))  # (1, seq, hidden)
cos, sin = rope_tables(torch.arange(x.shape[1])[None], model.inv_freq)
for factor in (1, 10, 100):
    attention = copy.deepcopy(model.layers[0].self_attn)
    attention.q_proj.weight *= factor
    largest = []
    # zh: 同一组权重：用 Qwen2 的方法取出的 q 和 k 没有归一化，用 Qwen3 的就有
    # en: the same weights: Qwen2's method gives q and k without the norm, Qwen3's with it
    for variant in (Qwen2Attention, Qwen3Attention):
        query, key, _ = variant.query_key_value(attention, x)
        largest.append(attention_logits(query, key, cos, sin).abs().max().item())
    print(f"q_proj × {factor:<4} no norm: {largest[0]:<7.1f} QK-norm: {largest[1]:.3f}")

# %% [markdown] lang="zh" key="bound-text"
# 没有归一化，权重放大多少倍，分数就放大多少倍。有了归一化，权重的大小不再起作用，分数也有了上限：
#
# 1. 均方根为 1 的向量，长度是 $\sqrt{d}$；再乘 $w$，最多放大 $\max|w|$ 倍。
# 2. RoPE 不改变长度。
# 3. 点积不超过两个长度之积。再除以 $\sqrt{d}$，就是：
#
# $$\left|\frac{q \cdot k}{\sqrt{d}}\right| \le \sqrt{d} \cdot \max|w_q| \cdot \max|w_k|$$
#
# 能让分数变大的只剩 `q_norm` 和 `k_norm` 里的 $w$。下面看训练好的模型：同一段对话，同样的缩放、RoPE 和因果掩码，比较归一化之前和之后。
#
# **先选一个。** 哪一边的注意力更集中（熵更小）？
#
# - A. 归一化之前
# - B. 归一化之后
# - C. 差不多

# %% [markdown] lang="en" key="bound-text"
# Without the norm, logits grow as much as the weights do. With it, the size of the weights no longer matters, and there is a bound:
#
# 1. A vector of RMS 1 has length $\sqrt{d}$, and $w$ stretches it by $\max|w|$ at most.
# 2. RoPE keeps lengths.
# 3. A dot product is at most the product of the lengths. Divide it by $\sqrt{d}$:
#
# $$\left|\frac{q \cdot k}{\sqrt{d}}\right| \le \sqrt{d} \cdot \max|w_q| \cdot \max|w_k|$$
#
# Only the $w$ of `q_norm` and `k_norm` can still raise it. Now the trained model: one conversation, the same scaling, RoPE and causal mask, before and after the norm.
#
# **Choose first.** On which side is attention more focused (lower entropy)?
#
# - A. Before the norm
# - B. After the norm
# - C. About the same

# %% key="seen"
# zh: 每层两份分数：归一化之前的和之后的，都是 (heads, seq, seq)
# en: for each layer, logits before and after the norm, (heads, seq, seq)
seen = []


def watch(attention, arguments):
    hidden_states, cos, sin = arguments
    pair = []
    # zh: 同一组权重：Qwen2 的方法给出归一化之前的 q 和 k，Qwen3 的给出之后的
    # en: the same weights: Qwen2's method gives q and k before the norm, Qwen3's after it
    for variant in (Qwen2Attention, Qwen3Attention):
        query, key, _ = variant.query_key_value(attention, hidden_states)
        pair.append(attention_logits(query, key, cos, sin)[0])
    seen.append(pair)


# zh: 钩子：一层的注意力每次运行之前，先调用 watch
# en: a hook calls watch each time before the attention of a layer runs
hooks = [layer.self_attn.register_forward_pre_hook(watch) for layer in model.layers]
model(tokens)
for hook in hooks:
    hook.remove()

visible = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()


def mean_entropy(logits):
    log_weights = logits.masked_fill(~visible, -torch.inf).log_softmax(dim=-1)
    # zh: 看不见的词元权重是 0，0 × -inf 是 nan，不算进去
    # en: what is out of sight has weight 0, and 0 × -inf is nan, which is left out
    return -(log_weights.exp() * log_weights).nansum(dim=-1).mean()


largest, entropy, bound = [], [], []
for layer, pair in zip(model.layers, seen, strict=True):
    largest.append([logits[:, visible].abs().max() for logits in pair])
    entropy.append([mean_entropy(logits) for logits in pair])
    q_weight = layer.self_attn.q_norm.weight.abs().max()
    k_weight = layer.self_attn.k_norm.weight.abs().max()
    bound.append(layer.self_attn.head_dim**0.5 * q_weight * k_weight)
largest, entropy = torch.tensor(largest), torch.tensor(entropy)  # (layers, 2)
bound = torch.tensor(bound)  # (layers,)
assert (largest[:, 1] <= bound).all()
# zh: 对看得见的词元一视同仁时的熵
# en: the entropy of attention to all visible tokens alike
uniform = visible.sum(dim=-1).log().mean()
lA4.before_and_after(folder.name, largest, entropy, bound, uniform)

# %% [markdown] lang="zh" key="seen-read"
# <details><summary>读图</summary>
#
# A。左边是每层最大的 |分数|（对数轴），点线是上限。右边是注意力的平均熵，单位 nat，越低越集中。熵是 $H$，大致相当于同时看着 $e^H$ 个词元；点线是“一视同仁”。
#
# 橙色虚线用归一化之前的 q 和 k 算出，蓝色实线是模型真正在用的。归一化之前的分数大得多，注意力几乎只盯着一到三个词元。归一化之后，分数都在上限之下。
#
# </details>
#
# 下结论之前，有三点要当心：
#
# - 这是**一个**训练好的模型里的两个位置，不是两次训练的比较。
# - 从训练好的模型里删掉归一化，后面的层就会遇到训练时从没见过的输入（分布之外的消融）。所以橙线不是“没有 QK 归一化的 Qwen3”：训练时从来没有什么要求它保持很小。
# - 这是一个教学用的小模型和一段对话，数值不能搬到真正的 Qwen3 上。
#
# **选读。** 只看最大值容易被个别词元骗，下图画出每一层全部分数的分布。
#
# **先选一个（选读）。** 归一化改变的是：
#
# - A. 整个分布的宽度
# - B. 只有分布的两端

# %% [markdown] lang="en" key="seen-read"
# <details><summary>Reading</summary>
#
# A. On the left is the largest |logit| of each layer (log axis); the dotted line is the bound. On the right is the mean entropy of attention in nats: the lower, the more focused. An entropy of $H$ is roughly a look at $e^H$ tokens at once; the dotted line is attention to all alike.
#
# The dashed orange line is computed from q and k before the norm; the solid blue line is what the model works with. Before the norm the logits are far larger, and attention would look at one to three tokens only. After it they stay below the bound.
#
# </details>
#
# Three limits before you conclude anything:
#
# - These are two points inside **one** trained model, not two trainings.
# - Delete the norm from a trained model, and later layers meet inputs that they never saw in training (an out-of-distribution ablation). So the orange line is not "Qwen3 without QK-norm": nothing in training ever asked this model to keep it small.
# - It is one tiny teaching model and one conversation; the values do not carry over to the real Qwen3.
#
# **Extra.** A maximum can hang on one odd token, so the next figure shows all logits of each layer.
#
# **Choose first (extra).** What does the norm change about this distribution?
#
# - A. The whole width
# - B. The tails only

# %% key="histogram" tags=["extra"]
lA4.logit_histograms(seen, visible)

# %% [markdown] lang="zh" key="experiment-text"
# <details><summary>读图</summary>
#
# A。每格一层，横轴是分数，纵轴是密度（对数轴），±40 以外没有画。归一化把整个分布收窄，不只是剪掉两端。
#
# </details>
#
# ## 因果实验：带着它训练，不带它训练（选读）
#
# QK 归一化对训练做了什么？要知道答案，就把同样的小模型从头训练两次，一次带，一次不带，别的全都一样。`helpers/lessons/lA4/qk_norm.py` 做的就是这件事。两层的小 Qwen3 学两位数加法。种子相同，两次训练就从相同的矩阵出发，看相同的数据。用四个学习率各做一遍，思路来自 [Wortsman 等，2023](https://arxiv.org/abs/2309.14322)。每一步记下损失和最大的注意力分数。
#
# **先选一个。** 学习率高一些，不带的那个先怎样？
#
# - A. 损失先变坏
# - B. 分数先变大

# %% [markdown] lang="en" key="experiment-text"
# <details><summary>Reading</summary>
#
# A. One panel a layer, logits on the x axis, density on the y axis (log); nothing beyond ±40 is drawn. The norm narrows the whole distribution, not only its tails.
#
# </details>
#
# ## The causal experiment: train with it, train without it (extra)
#
# What does QK-norm do to training? To find out, train the same small model from the start, once with it and once without, all else equal. That is what `helpers/lessons/lA4/qk_norm.py` does. A Qwen3 of two layers learns to add two-digit numbers. With one seed, both trainings start from the same matrices and see the same data. This is repeated at four learning rates, an idea of [Wortsman et al., 2023](https://arxiv.org/abs/2309.14322). Each step records the loss and the largest attention logit.
#
# **Choose first.** At a higher learning rate, without the norm, what goes first?
#
# - A. The loss gets worse
# - B. The logits grow

# %% key="recorded" tags=["extra"]
import numpy as np

runs = np.load(ROOT / "assets" / "traces" / "qk_norm_experiment.npz")
print(runs["provenance"])
lA4.recorded_trainings(runs)

# %% [markdown] lang="zh" key="recorded-read" facts="250"
# <details><summary>读图</summary>
#
# B。上面四格是损失，一格一个学习率；下面四格按同样的次序是最大的注意力分数（对数轴）；每种颜色三条线，一条一个种子，每 5 步画一点。
#
# - 学习率最低时，两者的损失难分高下；分数却已经差了三倍左右。
# - 学习率高一档，两者就分开：不带的，分数一步步涨到一百上下，再高一档近两千，最高的一档有好几万；带着的，始终在几十以内。分数先涨；损失大多停在一个平台上，不再下降，带着的则有机会离开它。
# - 不带的没有“炸掉”：没有一条线变成 NaN；250 步之内，大多数没能离开平台。
# - 带着也不是万能的：学习率再高，损失也会变差，种子之间的差别也变大。
# - 优势不一定全来自“稳定”：刚初始化时，带着的分数已有 4 左右，不带的只有 0.1 左右，注意力一开始就更分明。这个实验分不开这两种作用。
#
# 小模型、一项任务、故意调高的学习率：它展示一种机制，不是关于 Qwen3 训练过程的结论。
#
# </details>
#
# **选读。** 再自己跑一次：第二列的学习率，换一个种子，150 步，两次训练在普通的 CPU 上一共约 15 秒。
#
# **先选一个。** 上面三个种子的结论，换一个种子还成立吗？
#
# - A. 损失和分数都成立
# - B. 分数成立，损失不一定

# %% [markdown] lang="en" key="recorded-read" facts="250"
# <details><summary>Reading</summary>
#
# B. The upper four panels are the loss, one a learning rate; the lower four, in the same order, the largest attention logit (log axis); three lines of each colour, one a seed, a point every 5 steps.
#
# - At the lowest rate the losses are hard to tell apart; the logits already differ about threefold.
# - One rate higher they part. Without the norm the logits climb step by step to a hundred or so, at the next rate to nearly two thousand, and at the highest to many tens of thousands; with it they stay within some tens. The logits grow first; the loss mostly comes to a plateau, where it falls no further, and which the models with the norm get a chance to leave.
# - Without the norm nothing "blows up": no line turns into NaN; within 250 steps most of them do not leave a plateau.
# - With the norm not everything goes: at higher rates the loss gets worse again, and seeds differ more.
# - The gain need not be stability alone: fresh from initialisation, logits are about 4 with the norm and about 0.1 without, so attention is more distinct from the first step. This experiment cannot tell the two effects apart.
#
# A tiny model, one task, learning rates raised on purpose: it shows a mechanism and is no claim about Qwen3's training.
#
# </details>
#
# **Extra.** Now a run of your own: the learning rate of the second column, another seed, 150 steps; on an ordinary CPU both trainings together take about 15 seconds.
#
# **Choose first.** Will a new seed bear out what the three above show?
#
# - A. In loss and in logits
# - B. In the logits, not surely in the loss

# %% key="live" tags=["extra"]
from helpers.lessons.lA4.qk_norm import train

without = train(False, learning_rate=0.01, seed=7, steps=150)
with_norm = train(True, learning_rate=0.01, seed=7, steps=150)
lA4.own_trainings([without, with_norm])

# %% [markdown] lang="zh" key="template-text" facts="152,064 151,936"
# <details><summary>读图</summary>
#
# B。左边损失，右边最大的注意力分数，每 5 步一点。分数的差别这里也在；损失却很看种子，什么时候离开平台，换个种子就变，不带的先离开也不奇怪。所以上面要三个种子全画出来，一次训练不足以下结论。
#
# </details>
#
# ## 词表和对话模板（选读）
#
# 六处差别的最后一处不在网络里。Qwen3 的 `<think>` 和 `</think>` 是词表里的词元，模板用 `enable_thinking` 切换；没有系统消息时，模板也不会自己加一条。词表的行数也变了：Qwen2.5 从 7B 起补齐到 152,064 行，Qwen3 一律 151,936 行（各尺寸的 `config.json`）。
#
# **先选一个。** 关掉思考时，模板在末尾多写了什么？
#
# - A. 什么都没有
# - B. 一句“不要思考”
# - C. 一个空的 think 块

# %% [markdown] lang="en" key="template-text" facts="152,064 151,936"
# <details><summary>Reading</summary>
#
# B. Loss on the left, the largest attention logit on the right, a point every 5 steps. The logits differ here too. The loss depends on the seed: when a model leaves the plateau changes with it, and the one without the norm may well be first. That is why all three seeds are drawn above; one training is not enough for a conclusion.
#
# </details>
#
# ## Vocabulary and chat template (extra)
#
# The last of the six differences is not in the network. Qwen3's `<think>` and `</think>` are tokens of its vocabulary, the template switches with `enable_thinking`, and it adds no system message where you gave none. The vocabulary has another size, too: Qwen2.5 pads it to 152,064 rows from 7B up, Qwen3 has 151,936 rows everywhere (each size's `config.json`).
#
# **Choose first.** With thinking off, what does the template add at the end?
#
# - A. Nothing
# - B. A sentence, "do not think"
# - C. An empty think block

# %% key="template" tags=["extra", "raw"]
for enable_thinking in (True, False):
    text = tokenizer.apply_chat_template(
        question,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=enable_thinking,
    )
    print(f"enable_thinking={enable_thinking}: {text!r}")
    assert "system" not in text
specials = ("<|im_end|>", "<|endoftext|>", "<think>", "</think>")
print(
    {token: tokenizer.convert_tokens_to_ids(token) for token in specials},
    "| rows:",
    model.embed_tokens.num_embeddings,
)

# %% [markdown] lang="zh" key="real-text" facts="151668"
# <details><summary>读结果</summary>
#
# C。关掉思考时，模板替模型写好了一个空的 think 块。小模型的编号和真正的 Qwen3 不同（那里 `</think>` 是 151668），名字相同。代码里因此永远用名字去查，不写死数字。第 06 课细讲思考。
#
# </details>
#
# ## 换成真正的 Qwen3-0.6B（选读）
#
# 上面的 `load` 没有一处写死小模型的尺寸。如果第 02 课下载过 Qwen3-0.6B，下一格会用同样的代码把它跑起来（float32，加载时约占 7 GB 内存）；没有就跳过。

# %% [markdown] lang="en" key="real-text" facts="151668"
# <details><summary>Reading</summary>
#
# C. With thinking off, the template writes an empty think block for the model. The tiny model's ids are not those of the real Qwen3 (there `</think>` is 151668); the names are. So code asks by name and never holds the number. More on thinking in lesson 06.
#
# </details>
#
# ## The real Qwen3-0.6B (extra)
#
# Nothing in `load` above knows the tiny model's sizes. If you downloaded Qwen3-0.6B in lesson 02, the next cell runs it with the same code (float32, loading takes about 7 GB of memory); if not, it is skipped.

# %% key="real" tags=["extra"]
from helpers import CourseError

try:
    real_folder = models.find_checkpoint("Qwen/Qwen3-0.6B")
except CourseError as missing:
    print(missing)
else:
    real = load(real_folder)
    real_tokenizer = transformers.AutoTokenizer.from_pretrained(real_folder)
    real_ids = real_tokenizer("The capital of France is", return_tensors="pt").input_ids
    print(repr(real_tokenizer.decode(real(real_ids)[0, -1].argmax())))
    del real

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - Qwen3 的一层和 Qwen2 一样：RMSNorm、分组查询注意力、RMSNorm、SwiGLU，两次残差连接；差别在注意力里面。
# - QK 归一化按头进行，顺序是投影、归一化、RoPE；它给注意力分数一个上限，理由是训练稳定，不是省计算。
# - 参数量和 KV 缓存都能从 `config.json` 算出；Qwen3-8B 每个词元要 144 KiB。Qwen3 之后的模型只有四分之一的层留着 KV，见[附录 A5](../zh/A5_after_qwen3.ipynb)。
# - “写对了”的意思是：严格加载，logits 相差小于 1e-4，贪心生成逐个词元相同。
#
# ## 老教程里的说法
#
# | 说法 | 实际 |
# |---|---|
# | 除了 QK 归一化，其他都没变 | 一共六处（第 03 课）。把 Qwen2 的注意力套到 Qwen3 的检查点上，每一层都缺三个偏置，又多出两个归一化的权重；严格加载会报错，transformers 只给一条警告，用新初始化的偏置补上，照跑不误 |
# | QK 归一化比 LayerNorm 省计算 | Qwen2 在这个位置什么都没有，这是**多**做的一步，换来的是稳定 |
# | 它消除词元之间的尺度差异，提升泛化能力 | 它归一化的是每个头自己的 q 和 k，点积因此有了上限；报告没有说泛化变好 |
# | 对 q 和 k 归一化（不说顺序） | 投影、拆成头、归一化、RoPE、写入 KV 缓存；v 不归一化 |
# | MoE 模型要用另一种注意力 | 和稠密模型的完全相同，上面验证过 |
#
# 想法来自更早的工作：[Henry 等，2020](https://arxiv.org/abs/2010.04245)；[ViT-22B，2023](https://arxiv.org/abs/2302.05442)。
#
# ## 自测
#
# 1. 把 QK 归一化放到 RoPE 之后，什么时候结果不变，什么时候会变？
# 2. 为什么 RoPE 配错了对，模型照样能加载？
# 3. 三个矩阵的 SwiGLU，哪一个是“阀门”？
# 4. `lm_head.weight` 不在检查点里，是文件坏了吗？
# 5. 从训练好的 Qwen3 里删掉 `q_norm` 和 `k_norm`，能说明“没有 QK 归一化的 Qwen3”是什么样吗？
#
# <details><summary>答案</summary>
#
# 1. 每一对被旋转的分量（i 和 i + head_dim / 2）的 `weight` 相等时不变；否则旋转混合了这两个分量，乘 `weight` 的先后就有区别。
# 2. RoPE 没有参数，形状也一样；只有输出能说明问题。
# 3. `gate_proj`：它的结果过了 SiLU，再和 `up_proj` 的逐个相乘。
# 4. 不一定。共用词嵌入的检查点可以不存它，输出矩阵就是词嵌入。
# 5. 不能。模型是带着它们训练的，删掉之后输入分布全变了；要比较，得从头各训练一个。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | `size mismatch for ... q_proj.weight` | 用 `hidden_size / num_attention_heads` 算了 `head_dim` | 读 `config.json` 里的 `head_dim` |
# | `Missing key(s) ... lm_head.weight` | 检查点共用词嵌入 | 让 `lm_head` 指向词嵌入 |
# | 能加载，但输出是乱码 | RoPE 配成了相邻的分量 | 和本课的 `apply_rope` 逐步比较 |
# | 句子通顺，但答案错，或 logits 有偏差 | `rope_theta` 用了默认的 10,000，或先旋转后归一化 | 和 transformers 比 logits，不要只看输出 |

# %% [markdown] lang="en" key="recap"
# ## Recap
#
# - A layer of Qwen3 is a layer of Qwen2: RMSNorm, grouped-query attention, RMSNorm, SwiGLU, two residual connections; it differs inside attention.
# - QK-norm works head by head, in the order project, norm, RoPE; it puts a bound on attention logits, for stable training and not to save work.
# - Parameters and KV cache follow from `config.json`; Qwen3-8B takes 144 KiB a token. In models after Qwen3 only a quarter of the layers keep KV, see [appendix A5](../en/A5_after_qwen3.ipynb).
# - "Right" means: a strict load, logits within 1e-4, and greedy tokens that are all equal.
#
# ## What older tutorials say
#
# | They say | In fact |
# |---|---|
# | nothing but QK-norm has changed | six things have (lesson 03). With Qwen2's attention on a Qwen3 checkpoint, every layer lacks three biases and has two norm weights left over; a strict load stops there, while transformers only warns, fills the biases with fresh values and runs |
# | QK-norm is cheaper than LayerNorm | Qwen2 had nothing in this place, so it is an **added** step; what it buys is stability |
# | it removes differences of scale between tokens and generalises better | it norms each head's own q and k, which puts a bound on their product; the report claims no better generalisation |
# | q and k are normed (without the order) | project, split into heads, norm, RoPE, write to the KV cache; v is not normed |
# | a mixture of experts needs another attention | it is the dense model's, unchanged, as checked above |
#
# The idea is older: [Henry et al., 2020](https://arxiv.org/abs/2010.04245); [ViT-22B, 2023](https://arxiv.org/abs/2302.05442).
#
# ## Test yourself
#
# 1. Move QK-norm behind RoPE: when does the result stay the same, and when not?
# 2. With the wrong pairs for RoPE the model still loads. Why?
# 3. Of the three matrices of SwiGLU, which is the valve?
# 4. There is no `lm_head.weight` in a checkpoint: is the file broken?
# 5. Delete `q_norm` and `k_norm` from a trained Qwen3. Does that show what a Qwen3 without QK-norm would be like?
#
# <details><summary>Answers</summary>
#
# 1. It stays the same if the two components of every rotated pair (i and i + head_dim / 2) have the same `weight`; otherwise the rotation mixes the two, and it matters whether `weight` comes before or after.
# 2. RoPE has no parameters, and the shapes are the same; only the output tells.
# 3. `gate_proj`: its result goes through SiLU and multiplies that of `up_proj`, component by component.
# 4. Not necessarily. A checkpoint with tied embeddings may leave it out; the output matrix is the embedding.
# 5. No. The model was trained with them, and without them everything it meets is out of distribution; to compare, train one of each from the start.
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | `size mismatch for ... q_proj.weight` | `head_dim` taken as `hidden_size / num_attention_heads` | read `head_dim` from `config.json` |
# | `Missing key(s) ... lm_head.weight` | the checkpoint ties its embeddings | let `lm_head` be the embedding |
# | it loads, but writes nonsense | RoPE on neighbouring components | compare step by step with `apply_rope` of this lesson |
# | it reads well, but answers are wrong or logits differ | `rope_theta` left at its default of 10,000, or the norm after the rotation | compare logits with transformers, not only the text |

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - RMSNorm：[Zhang 与 Sennrich](https://arxiv.org/abs/1910.07467)；RoPE：[Su 等](https://arxiv.org/abs/2104.09864)；SwiGLU：[Shazeer](https://arxiv.org/abs/2002.05202)；GQA：[Ainslie 等](https://arxiv.org/abs/2305.13245)
# - [Qwen3 技术报告](https://arxiv.org/abs/2505.09388)，第 2 节；小模型上的训练不稳定：[Wortsman 等](https://arxiv.org/abs/2309.14322)
# - transformers 源码：[`modeling_qwen3.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/models/qwen3/modeling_qwen3.py)

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - RMSNorm: [Zhang and Sennrich](https://arxiv.org/abs/1910.07467); RoPE: [Su et al.](https://arxiv.org/abs/2104.09864); SwiGLU: [Shazeer](https://arxiv.org/abs/2002.05202); GQA: [Ainslie et al.](https://arxiv.org/abs/2305.13245)
# - [Qwen3 report](https://arxiv.org/abs/2505.09388), section 2; training instability in small models: [Wortsman et al.](https://arxiv.org/abs/2309.14322)
# - The source in transformers: [`modeling_qwen3.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/models/qwen3/modeling_qwen3.py)
