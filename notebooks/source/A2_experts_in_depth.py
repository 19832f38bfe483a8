# %% [markdown] lang="zh" key="title"
# # A2 · 专家细讲：对照、均衡，和怎样怀疑一张热图
#
# | | |
# |---|---|
# | 学完能做 | 写出整个混合专家层，和 transformers、vLLM 对照；写出 Qwen2-MoE 的共享专家；算出各个模型的总参数和激活参数；写出负载均衡损失；用基线和逐个关掉，检查“专家分工”的说法 |
# | 先修 | 第 04 课；用过一点 PyTorch |
# | 时间 | 85 分钟，各节可以分几次读；标着“选读”的另算 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；换成真正的 Qwen3-30B-A3B 要一张 80 GB 的 GPU |
# | 模型 | 课程自带的 `qwen3-moe-tiny`，或 `COURSE_MOE_MODEL` 指定的模型 |

# %% [markdown] lang="en" key="title"
# # A2 · Experts in depth: comparisons, balance, and how to doubt a heat map
#
# | | |
# |---|---|
# | You will be able to | write the whole mixture-of-experts layer and hold it against transformers and vLLM; write the shared expert of Qwen2-MoE; work out total and active parameters of each model; write the load-balancing loss; test claims of "specialised experts" with baselines and by switching experts off |
# | Prerequisites | lesson 04; a little PyTorch |
# | Time | 85 minutes, one section at a time if you like; what is marked "extra" comes on top |
# | Hardware | any Linux CPU with 4 GB of memory; the real Qwen3-30B-A3B needs a GPU with 80 GB |
# | Model | the bundled `qwen3-moe-tiny`, or the one that `COURSE_MOE_MODEL` names |

# %% key="setup"
import numpy as np
import torch
import torch.nn.functional as F

from helpers import ROOT, catalogue, models, qwen, routing, say
from helpers.lessons import lA2

folder = models.course_moe_model()
print(models.describe(folder, models.MOE_VARIABLE))

# %% [markdown] lang="zh" key="inputs-text"
# 第 04 课写出了路由器和循环，装进了现成的模型，还关掉了一个专家。这里把剩下的补齐：先把整层写成类，和别人的实现对照；再看训练时谁来保证均衡；最后认真地问一问，专家到底有没有专长。
#
# ## 路由器的开关
#
# 取一份真实的输入：小模型读一道题，留下进入第 0 层混合专家的词元，和它们的分数。

# %% [markdown] lang="en" key="inputs-text"
# Lesson 04 wrote the router and the loop, put them into a ready model and switched an expert off. This is the rest: the whole layer as a class, held against other implementations; what keeps the load balanced in training; and, last, the question whether experts specialise at all.
#
# ## The router's switch
#
# First a real input: the tiny model reads a problem, and we keep the tokens that enter the mixture of experts of layer 0, and their scores.

# %% key="inputs"
import transformers

transformers.utils.logging.disable_progress_bar()
if models.is_bundled(folder):
    # zh: 矩阵这么小，多用一个线程反而更慢
    # en: for matrices this small a second thread costs more than it brings
    torch.set_num_threads(1)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
# zh: 再次运行时，先放掉旧模型：内存里不放两份
# en: on a second run, let go of the old model first: memory never holds two
model = None
dtype = torch.float32 if models.is_bundled(folder) else None
model = qwen.load_model(folder, dtype=dtype)
question = [{"role": "user", "content": "37×46=?"}]
input_ids = tokenizer.apply_chat_template(
    question, add_generation_prompt=True, return_dict=True, return_tensors="pt"
).input_ids.to(model.embed_tokens.weight.device)  # (1, seq)

seen, mlp = [], model.layers[0].mlp


def keep(block, inputs):
    seen.append(inputs[0])


# zh: 钩子：这一层每次运行之前，先调用 keep
# en: a hook calls keep each time before this layer runs
hook = mlp.register_forward_pre_hook(keep)
logits = model(input_ids)
hook.remove()
tokens = seen[0].flatten(0, 1)  # (batch * seq, hidden)
router_logits = tokens @ mlp.router.weight.T  # (tokens, num_experts)
top_k = model.config.num_experts_per_tok

# %% [markdown] lang="zh" key="route-text"
# 下一格的 `route` 比第 04 课的练习多两样：开关 `norm_topk_prob`；softmax 用 float32 做，因为真正的模型里分数是 bfloat16，概率不必再丢一次精度，transformers 也这样做。
#
# 重新归一化还有一种看法。把专家 $i$ 的分数记作 $z_i$：softmax 的分母对所有专家都一样，除以选中者之和时正好约掉：
#
# $$\frac{e^{z_i} / \sum_j e^{z_j}}{\sum_{c \in \text{chosen}} e^{z_c} / \sum_j e^{z_j}} = \frac{e^{z_i}}{\sum_{c \in \text{chosen}} e^{z_c}}$$
#
# 右边就是“只对选中的 $k$ 个分数做 softmax”。所以先 softmax 再重新归一化，和先选 $k$ 个再 softmax，是一回事。
#
# **先选一个。** 开关关着，各个词元的权重之和：
#
# - A. 都一样
# - B. 各不相同，都小于 1

# %% [markdown] lang="en" key="route-text"
# Beside the exercise of lesson 04, `route` in the next cell has two things more. One is the switch `norm_topk_prob`. The other is a softmax in float32: in a real model the scores are bfloat16, and the probabilities need not lose digits a second time; transformers does the same.
#
# There is another way to see the last step. Let $z_i$ be the score of expert $i$: the denominator of the softmax is the same for all experts and cancels out when we divide by the sum of the chosen:
#
# $$\frac{e^{z_i} / \sum_j e^{z_j}}{\sum_{c \in \text{chosen}} e^{z_c} / \sum_j e^{z_j}} = \frac{e^{z_i}}{\sum_{c \in \text{chosen}} e^{z_c}}$$
#
# The right-hand side is a softmax over the $k$ chosen scores. So "softmax, choose, renormalise" and "choose $k$, softmax" are the same thing.
#
# **Choose first.** With the switch off, the weights of a token add up to
#
# - A. the same for every token
# - B. something else for each, less than 1


# %% key="route" save="helpers/qwen.py::route"
def route(router_logits, top_k, norm_topk_prob):
    """Weights and ids of each token's experts, (tokens, top_k), the heaviest first."""
    # (tokens, num_experts)
    probabilities = F.softmax(router_logits, dim=-1, dtype=torch.float32)
    routing_weights, expert_ids = probabilities.topk(top_k, dim=-1)
    if norm_topk_prob:
        routing_weights = routing_weights / routing_weights.sum(dim=-1, keepdim=True)
    return routing_weights, expert_ids


routing_weights, expert_ids = route(router_logits, top_k, norm_topk_prob=True)
# zh: 换一种算法：取出选中的 k 个分数，只对它们做 softmax
# en: the other way: take the k chosen scores, and the softmax of these alone
chosen = router_logits.float().gather(-1, expert_ids)  # (tokens, top_k)
torch.testing.assert_close(routing_weights, chosen.softmax(dim=-1))
# zh: 和模型自己的路由器比：按编号排好，名次的先后不算
# en: beside the model's own router: sorted by number, so that their order does not count
_, model_ids, _ = mlp.router(tokens)
same = expert_ids.sort().values == model_ids.sort().values
assert same.float().mean() > 0.95
raw_weights, raw_ids = route(router_logits, top_k, norm_topk_prob=False)
assert raw_ids.equal(expert_ids)
sums = raw_weights.sum(dim=-1)  # (tokens,)
assert (sums < 1).all()
print("norm_topk_prob=False, sums:", [round(s, 2) for s in sums.tolist()])

# %% [markdown] lang="zh" key="axis-text"
# <details><summary>读结果</summary>
#
# B。没选中的专家带走了剩下的部分，所以这一层对不同词元的输出有大有小。Qwen1.5-MoE 和 Qwen2-MoE 的开关是关着的（[Qwen1.5-MoE-A2.7B 的配置](https://huggingface.co/Qwen/Qwen1.5-MoE-A2.7B/blob/main/config.json)），Qwen3-MoE 是开着的（[30B-A3B 的配置](https://huggingface.co/Qwen/Qwen3-30B-A3B/blob/main/config.json)）。开关不影响选谁。
#
# </details>
#
# **选读。** 老教程里常见 `F.softmax(router_logits, dim=1)`，还说路由器的输出是三维的 `(batch, seq, num_experts)`。
#
# **先选一个（选读）。** 如果这两点都对，softmax 是沿着哪个方向做的？
#
# - A. 专家
# - B. 词元

# %% [markdown] lang="en" key="axis-text"
# <details><summary>Reading</summary>
#
# B. The experts that were not chosen keep the rest, so this layer speaks louder for some tokens than for others. The switch is off in Qwen1.5-MoE and Qwen2-MoE ([configuration of Qwen1.5-MoE-A2.7B](https://huggingface.co/Qwen/Qwen1.5-MoE-A2.7B/blob/main/config.json)) and on in Qwen3-MoE ([that of 30B-A3B](https://huggingface.co/Qwen/Qwen3-30B-A3B/blob/main/config.json)). It has no influence on who is chosen.
#
# </details>
#
# **Extra.** Older tutorials have `F.softmax(router_logits, dim=1)` and say that the router gives three dimensions, `(batch, seq, num_experts)`.
#
# **Choose first (extra).** If both were true, along which direction would the softmax run?
#
# - A. Experts
# - B. Tokens

# %% key="axis" tags=["extra"]
flat = router_logits.float()  # (tokens, experts)
stacked = flat[None]  # (1, seq, experts)
for scores, dim in ((flat, 1), (stacked, 1), (stacked, -1)):
    sums = scores.softmax(dim=dim).sum(dim=-1).flatten()
    name = f"{scores.dim()}-D, dim={dim}"
    print(f"{name:<11} sums:", [round(s, 2) for s in sums[:5].tolist()])

# %% [markdown] lang="zh" key="block-text"
# <details><summary>读结果</summary>
#
# B。三维时 `dim=1` 是词元的方向：每个词元的“概率”加起来不是 1，一个词元的路由还会随着同一句里的其他词元变。`dim=-1` 对两种形状都对。
#
# </details>
#
# ## 整层写成类
#
# 名字照着检查点里的权重取。一个专家就是第 03 课的前馈网络，只是窄一些（`moe_intermediate_size`）。专家里的 `gate_proj` 是 SwiGLU 的阀门，层里的 `gate` 是路由器。循环只走**被选中**的专家。

# %% [markdown] lang="en" key="block-text"
# <details><summary>Reading</summary>
#
# B. With three dimensions, `dim=1` is the direction of the tokens: the "probabilities" of a token do not add up to 1, and its routing would change with the other tokens of the sentence. `dim=-1` is right for both shapes.
#
# </details>
#
# ## The whole layer as a class
#
# The names are those in the checkpoint. An expert is the feed-forward network of lesson 03, only narrower (`moe_intermediate_size`). `gate_proj` in an expert is SwiGLU's valve, `gate` in the layer is the router. The loop visits the experts that **were chosen** and no others.


# %% key="block"
from torch import nn


class Expert(nn.Module):
    def __init__(self, hidden_size, intermediate_size):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, rows):
        return self.down_proj(F.silu(self.gate_proj(rows)) * self.up_proj(rows))


class SparseMoeBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.norm_topk_prob = config.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            Expert(config.hidden_size, config.moe_intermediate_size)
            for _ in range(config.num_experts)
        )

    def forward(self, hidden_states):
        tokens = hidden_states.flatten(0, 1)  # (tokens, hidden)
        router_logits = self.gate(tokens)  # (tokens, num_experts)
        weights, expert_ids = route(router_logits, self.top_k, self.norm_topk_prob)
        weights = weights.to(tokens.dtype)
        output = torch.zeros_like(tokens)
        for expert in expert_ids.unique().tolist():
            token, slot = torch.where(expert_ids == expert)
            rows = self.experts[expert](tokens[token])
            output.index_add_(0, token, rows * weights[token, slot, None])
        return output.view_as(hidden_states)  # (batch, seq, hidden)


# %% [markdown] lang="zh" key="block-check-text"
# 验证：`helpers/qwen.py` 里的混合专家层为了快，写法不同。把每一层都换成我们的，装上检查点里的权重，再算同一道题。三处说明：`checkpoint_views` 按检查点文件里的名字列出张量；`meta` 设备上建出的层只有形状，不占内存；`assign=True` 直接采用给它的张量，不复制。加载是严格的，名字一个不能多，一个不能少。

# %% [markdown] lang="en" key="block-check-text"
# The check: the layer in `helpers/qwen.py` is written differently, for speed. Put ours in the place of every one, with the weights of the checkpoint, and run the same problem. Three notes: `checkpoint_views` lists the tensors under the names of the checkpoint's file; a layer built on the `meta` device has shapes only and takes no memory; `assign=True` takes the given tensors as they are, without a copy. The load is strict: no name too many, none missing.

# %% key="block-check"
stored = qwen.checkpoint_views(model.config, model.state_dict(), packed=False)
originals = [layer.mlp for layer in model.layers]
for index, layer in enumerate(model.layers):
    prefix = f"model.layers.{index}.mlp."
    weights = {}
    for name, tensor in stored.items():
        if name.startswith(prefix):
            weights[name.removeprefix(prefix)] = tensor
    with torch.device("meta"):
        layer.mlp = SparseMoeBlock(model.config)
    layer.mlp.load_state_dict(weights, assign=True)

with torch.inference_mode():
    apart = (model(input_ids) - logits).abs().max()
difference = (apart / logits.abs().max()).item()
for index, layer in enumerate(model.layers):
    layer.mlp = originals[index]
print("tensors:", len(weights), f"| relative difference: {difference:.1e}")
assert difference < (1e-5 if model.embed_tokens.weight.dtype == torch.float32 else 5e-2)
# zh: 不删掉它们，旧模型就一直占着内存
# en: they would keep a model in memory that is no longer needed
del stored, weights, originals, layer, tensor

# %% [markdown] lang="zh" key="layouts-text"
# 读输出：在这次运行里连一位都不差，因为两种写法按同样的顺序相加；换一种设备或精度，最后几位可能不同。
#
# **选读。** 再和 transformers 的层比。检查点文件里每个专家是三个单独的矩阵，transformers 4.x 在内存里也是这样：`ModuleList` 加一个线性层 `gate`；5.x 把一层的专家叠成两个大张量，`gate` 换成 `Qwen3MoeTopKRouter`，返回三样东西。照着老教程写 `block.experts[0]` 会报错。
#
# **先选一个（选读）。** 叠起来的 `gate_up_proj` 是几维？
#
# - A. 两维
# - B. 三维

# %% [markdown] lang="en" key="layouts-text"
# How to read it: in this run not a digit differs, since both add in the same order; on another device or in another precision the last digits may.
#
# **Extra.** Now beside the layer of transformers. In the checkpoint's file every expert is three matrices of its own, and in the memory of transformers 4.x too: a `ModuleList` and a linear layer `gate`. 5.x stacks the experts of a layer into two large tensors, and `gate` is a `Qwen3MoeTopKRouter` that returns three things. Follow an older tutorial to `block.experts[0]`, and you meet an error.
#
# **Choose first (extra).** How many dimensions does the stacked `gate_up_proj` have?
#
# - A. Two
# - B. Three

# %% key="layouts" tags=["extra"]
from transformers.models.qwen3_moe import modeling_qwen3_moe


# zh: transformers 5 的一层的权重，名字换成检查点文件里的
# en: the weights of a layer of transformers 5, under the names of the checkpoint's file
def unpacked(block):
    weights = block.state_dict()
    gate_up = weights.pop("experts.gate_up_proj")
    down = weights.pop("experts.down_proj")
    for expert in range(len(down)):
        gate, up = gate_up[expert].chunk(2)
        weights[f"experts.{expert}.gate_proj.weight"] = gate
        weights[f"experts.{expert}.up_proj.weight"] = up
        weights[f"experts.{expert}.down_proj.weight"] = down[expert]
    return weights


sizes = {
    "hidden_size": 32,
    "moe_intermediate_size": 24,
    "num_experts": 6,
    "num_experts_per_tok": 2,
}
torch.manual_seed(0)
x = torch.randn(2, 5, 32)
config = transformers.Qwen3MoeConfig(
    **sizes, norm_topk_prob=True, experts_implementation="eager"
)
theirs = modeling_qwen3_moe.Qwen3MoeSparseMoeBlock(config)
ours = SparseMoeBlock(config)
for parameter in theirs.parameters():
    nn.init.normal_(parameter, std=0.2)
ours.load_state_dict(unpacked(theirs))
torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
returned = theirs.gate(x)
shapes = [tuple(part.shape) for part in returned]
print("equal |", type(theirs.gate).__name__, shapes)
stacked = theirs.experts.named_parameters()
print("experts:", {name: tuple(tensor.shape) for name, tensor in stacked})

ids = returned[2]  # (tokens, top_k)
# zh: 旧代码里的 expert_mask
# en: the expert_mask of older code
mask = F.one_hot(ids, 6).permute(2, 1, 0)  # (experts, top_k, tokens)
idx, top_x = torch.where(mask[3])
token, slot = torch.where(ids == 3)
assert sorted(top_x.tolist()) == token.tolist()
print("expert 3: slots", idx.tolist(), "| tokens", top_x.tolist())

# %% [markdown] lang="zh" key="hits-text"
# <details><summary>读结果</summary>
#
# B。第一维是专家。`gate` 依次返回 logits、权重、编号，词元都摊平了。最后一行是旧代码里的 `expert_mask`：它转置过，所以 `torch.where` 先给名次，后给词元，和我们的 `expert_ids == expert` 相反。
#
# </details>
#
# **选读。** 为什么要遍历专家？遍历词元，调用次数跟着词元数涨；遍历专家，用到几个专家就调用几次。一起计算的词元越多（可以来自许多用户的请求），用到的专家越多。
#
# **先选一个（选读）。** 假设每个词元从 128 个专家里随机选 8 个，要有多少个词元一起算，九成专家才会用到？
#
# - A. 约 16 个：128 / 8
# - B. 约 36 个
# - C. 约 1000 个

# %% [markdown] lang="en" key="hits-text"
# <details><summary>Reading</summary>
#
# B. The first dimension is the expert. `gate` returns logits, weights and ids, for tokens on one pile. The last line is the `expert_mask` of older code: it is transposed, so `torch.where` gives the slot first and then the token, the reverse of our `expert_ids == expert`.
#
# </details>
#
# **Extra.** Why loop over experts? Over tokens, calls grow with the tokens; over experts, there is one call for each expert in use. The more tokens are computed together, perhaps those of many users, the more experts are in use.
#
# **Choose first (extra).** Say each token takes 8 of 128 experts at random. How many tokens must be computed together until nine experts in ten are in use?
#
# - A. About 16: 128 / 8
# - B. About 36
# - C. About 1000

# %% key="hits" tags=["extra"]
# zh: 一个词元不选某个专家的概率是 1 - 8/128，n 个词元都不选它，是这个数的 n 次方
# en: one token passes an expert over with probability 1 - 8/128; n tokens all do with
# en: that number to the power of n
needed = 1
while 1 - (1 - 8 / 128) ** needed < 0.9:
    needed += 1
assert needed == 36
calls, used = expert_ids.numel(), len(expert_ids.unique())
print(
    say(
        f"遍历词元 {calls} 次，遍历专家 {used} 次",
        f"calls: {calls} over tokens, {used} over experts",
    )
)
# zh: 一行一个词元，一列一个专家，没选中的是 0
# en: a row is a token, a column an expert; 0 where it was not chosen
table = torch.zeros(router_logits.shape)  # (tokens, num_experts)
table = table.scatter(1, expert_ids.cpu(), routing_weights.float().cpu())
pieces = routing.pieces(tokenizer, input_ids[0].tolist())
lA2.calls(table, pieces, 128, 8, needed)

# %% [markdown] lang="zh" key="shared-text"
# <details><summary>读图</summary>
#
# B。左边一行一个词元，一列一个专家，颜色是权重；遍历专家就是一列一列地算。右边横轴是一起计算的词元数：遍历词元的调用次数（点线）一路上涨，遍历专家的（实线）最多 128 次，每次的矩阵还更大。圆点是 36 个词元，用到九成。“几乎每个专家都会被用到”，要一起算的词元够多：一次读完长提示词（这一步叫预填充），或者同时服务许多用户；只有一个用户、一个一个生成时，只有 8 个。真正的路由不是随机的，会比这条线低一些。
#
# </details>
#
# ## 共享专家和它的阀门（选读）
#
# Qwen1.5-MoE 和 Qwen2-MoE 的每一层还有一个**共享专家**：每个词元都经过它，不归路由器管，也不占 top-k 的名额。它的输出要先乘一个 0 到 1 之间的数，这就是**阀门**：由另一个小矩阵算出，再经过 sigmoid。然后才加进结果。老教程里那句 `final_hidden_states + shared_expert_output` 恰恰漏了这个阀门。Qwen3-MoE 去掉了共享专家；从 Qwen3-Next（2025-09-11）起，它连同阀门又回来了（transformers 的 `modeling_qwen3_next.py`，[附录 A5](../zh/A5_after_qwen3.ipynb) 里有一次核对）。
#
# 下一格用到和 transformers 并排的那个选读格里的 `sizes`、`x` 和 `unpacked`；跳过了它，就先去运行一遍。
#
# **先选一个（选读）。** 漏掉阀门，输出会怎样？
#
# - A. 只差舍入误差
# - B. 差很多

# %% [markdown] lang="en" key="shared-text"
# <details><summary>Reading</summary>
#
# B. On the left a row is a token and a column an expert, coloured by weight; looping over experts goes column by column. On the right, more tokens are computed together along the axis: calls over tokens (dotted) rise with them, calls over experts (solid) stop at 128, and each has a larger matrix. The dot is 36 tokens, with nine in ten experts in use. "Almost every expert is in use" needs many tokens at once: a long prompt read in one go (this step is called prefill), or many users served together; for one user, one generated token at a time, it is 8. Real routing is not random and stays somewhat below this line.
#
# </details>
#
# ## The shared expert and its valve (extra)
#
# In Qwen1.5-MoE and Qwen2-MoE every layer also has a **shared expert**: every token passes through it, the router has no say in it, and it takes no place among the top-k. Its output is first multiplied by a number between 0 and 1, the **valve**, which another small matrix and a sigmoid compute. Only then is it added. The line `final_hidden_states + shared_expert_output` of older tutorials leaves out this very valve. Qwen3-MoE dropped the shared expert; from Qwen3-Next (2025-09-11) on it is back, valve included (transformers' `modeling_qwen3_next.py`; [appendix A5](../en/A5_after_qwen3.ipynb) checks it).
#
# The next cell uses `sizes`, `x` and `unpacked` of the extra cell beside transformers; run that one first if you skipped it.
#
# **Choose first (extra).** Leave out the valve. What happens to the output?
#
# - A. Only rounding differs
# - B. It differs a lot

# %% key="shared" tags=["extra"]
from transformers.models.qwen2_moe import modeling_qwen2_moe


class Qwen2SparseMoeBlock(SparseMoeBlock):
    def __init__(self, config):
        super().__init__(config)
        width = config.shared_expert_intermediate_size
        self.shared_expert = Expert(config.hidden_size, width)
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, hidden_states):
        routed = super().forward(hidden_states)
        valve = F.sigmoid(self.shared_expert_gate(hidden_states))  # (batch, seq, 1)
        return routed + valve * self.shared_expert(hidden_states)


torch.manual_seed(1)
config = transformers.Qwen2MoeConfig(
    **sizes, shared_expert_intermediate_size=40, experts_implementation="eager"
)
theirs = modeling_qwen2_moe.Qwen2MoeSparseMoeBlock(config)
ours = Qwen2SparseMoeBlock(config)
for parameter in theirs.parameters():
    nn.init.normal_(parameter, std=0.2)
ours.load_state_dict(unpacked(theirs))
expected = theirs(x)
torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)
# zh: 路由的专家照旧，共享专家不乘阀门
# en: the routed experts as before, the shared one without its valve
without_valve = SparseMoeBlock.forward(ours, x) + ours.shared_expert(x)
off = ((without_valve - expected).norm() / expected.norm()).item()
print(f"{say('漏掉阀门的相对误差', 'relative error without the valve')}: {off:.0%}")
assert off > 0.2

# %% [markdown] lang="zh" key="sizes-text"
# <details><summary>读结果</summary>
#
# B。权重是随机的，所以百分比本身不代表哪个真正的模型；它说明的是，漏掉阀门不是舍入误差，而是另一个函数。
#
# </details>
#
# ## 总参数与激活参数
#
# ### 练习 1 ★☆☆（5 分钟）：专家有多少参数
#
# `config` 是 `config.json` 的字典。返回两个数：全部层里所有专家的参数，和一个词元在全部层里用到的那些专家的参数。
#
# <details><summary>提示</summary>
#
# 一个专家有三个矩阵，大小都是 `hidden_size` × `moe_intermediate_size`。稠密层的 `intermediate_size` 在这里用不上，尽管它也写在配置里。
#
# </details>

# %% [markdown] lang="en" key="sizes-text"
# <details><summary>Reading</summary>
#
# B. The weights are random, so the percentage is that of no real model; it shows that to leave out the valve is no matter of rounding but another function.
#
# </details>
#
# ## Total and active parameters
#
# ### Exercise 1 ★☆☆ (5 minutes): how many parameters are in the experts
#
# `config` is the dictionary of a `config.json`. Return two numbers: the parameters of all experts in all layers, and those of the experts that one token uses, in all layers as well.
#
# <details><summary>Hint</summary>
#
# An expert has three matrices, each `hidden_size` × `moe_intermediate_size`. The `intermediate_size` of a dense layer plays no part here, although the configuration has it.
#
# </details>


# %% key="ex1" tags=["exercise"]
def expert_parameters(config):
    return ...


# %% key="ex1-solution" tags=["solution"]
def expert_parameters(config):  # noqa: F811
    expert = 3 * config["hidden_size"] * config["moe_intermediate_size"]
    one_a_layer = config["num_hidden_layers"] * expert
    everything = config["num_experts"] * one_a_layer
    used = config["num_experts_per_tok"] * one_a_layer
    return everything, used


# %% key="ex1-check"
lA2.ex1.check(expert_parameters)

# %% [markdown] lang="zh" key="sizes-question"
# 下一格给每个模型都算一遍。总数由课程的 `catalogue.parameters` 算出，再用 transformers 在不占内存的 `meta` 设备上建出模型来核对；减去没选中的专家，就是一个词元用到的。表里前两个更早的模型带共享专家。
#
# **先选一个。** 30B-A3B 里，专家占全部参数的几成？
#
# - A. 约五成
# - B. 约八成
# - C. 九成半

# %% [markdown] lang="en" key="sizes-question"
# The next cell does this for every model. The course's `catalogue.parameters` computes the total, and transformers checks it by building the model on the `meta` device, which takes no memory. Without the experts that were not chosen, it is what one token uses. The first two in the table are older and have a shared expert.
#
# **Choose first.** What share of 30B-A3B is experts?
#
# - A. About half
# - B. About four fifths
# - C. Nineteen in twenty

# %% key="sizes"
sizes_of = {}
for name, config in lA2.CONFIGS.items():
    total = catalogue.parameters(config)
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**config)
        )
    assert built.num_parameters() == total
    expert = 3 * config["hidden_size"] * config["moe_intermediate_size"]
    one_a_layer = config["num_hidden_layers"] * expert
    idle = config["num_experts"] - config["num_experts_per_tok"]
    active = total - idle * one_a_layer
    sizes_of[name] = total, active, config["num_experts"] * one_a_layer
lA2.table_of_sizes(sizes_of)

# %% [markdown] lang="zh" key="sizes-read"
# <details><summary>读图</summary>
#
# C。灰条是全部参数，蓝条是一个词元用到的（词嵌入和输出矩阵都算在内，和模型卡一样）。算出来的 30.53B 和 3.35B，对应 [30B-A3B 的模型卡](https://huggingface.co/Qwen/Qwen3-30B-A3B)上的 30.5B 和 3.3B（后者是截断，不是四舍五入）；235B 和 22B 与 [235B-A22B 的模型卡](https://huggingface.co/Qwen/Qwen3-235B-A22B)相符。
#
# </details>
#
# 三件事值得记住：
#
# - 显存看总数：没选中的专家也要装进去。算得快慢主要看激活的数，还要看每一步要读多少不同的专家。
# - “去掉共享专家，所以更快”不成立：30B-A3B 没有共享专家，激活参数却比带共享专家的 Qwen1.5-MoE-A2.7B 还多。快慢主要由激活参数决定，[技术报告](https://arxiv.org/abs/2505.09388)只说去掉了它，没有说更快。
# - 两个 Qwen3 激活的比例是 11.0% 和 9.4%，前两个模型是 18.8% 和 24.8%。专家更多；每个专家的宽度与 `hidden_size` 之比是 0.375，前两个是 0.688 和 0.714：相对更窄，选得更细。
#
# ## 谁去了哪里
#
# 再看第 04 课的那段对话：一问一答用中文，一问一答用英文，最后是一道算术题。这一次数一数，每一类词元里，权重最大的专家多半是谁。
#
# **先选一个。** 数字、汉字和英文，会去不同的专家吗？
#
# - A. 每一层都分得很开
# - B. 有的层分得开，有的层分不开
# - C. 哪一层都分不开

# %% [markdown] lang="en" key="sizes-read"
# <details><summary>Reading</summary>
#
# C. Grey is all parameters, blue those that one token uses (embedding and output matrix counted, as on the model cards). 30.53B and 3.35B are the 30.5B and 3.3B on the [card of 30B-A3B](https://huggingface.co/Qwen/Qwen3-30B-A3B), which cuts the second instead of rounding it; 235B and 22B agree with the [card of 235B-A22B](https://huggingface.co/Qwen/Qwen3-235B-A22B).
#
# </details>
#
# Three things are worth keeping:
#
# - GPU memory goes by the total: experts that are not chosen must be there too. Speed goes mainly by the active number, and also by how many different experts a step has to read.
# - "No shared expert, therefore faster" does not hold: 30B-A3B has none, and more active parameters than Qwen1.5-MoE-A2.7B, which has one. Mainly the active parameters decide; the [report](https://arxiv.org/abs/2505.09388) says that it was dropped, and claims no speed.
# - The two Qwen3 activate 11.0% and 9.4%, the two models before them 18.8% and 24.8%. There are more experts, and the width of one over `hidden_size` is 0.375, against 0.688 and 0.714: relatively narrower, a finer choice.
#
# ## Who goes where
#
# Back to the conversation of lesson 04: a question and an answer in Chinese, the same in English, then a sum. This time we count, in each class of tokens, which expert most often has the largest weight.
#
# **Choose first.** Do digits, Chinese and English go to different experts?
#
# - A. In every layer, clearly
# - B. In some layers, not in others
# - C. In no layer

# %% key="map" tags=["raw"]
trace = routing.capture_conversation(
    model, tokenizer, ["什么是 MoE？", "What does the router do?", "37×46=?"]
)
print("".join(trace.texts))
kinds = np.array([lA2.token_class(text) for text in trace.texts])
for place, layer in enumerate(trace.layers[:8]):
    heaviest = trace.expert_ids[place, :, 0]  # (tokens,)
    most = []
    for name in ("CJK", "Latin", "digit"):
        if name in kinds:
            counts = np.bincount(heaviest[kinds == name])  # (experts,)
            most.append(f"{name} {counts.argmax()} ({counts.max()}/{counts.sum()})")
    print(f"{say(f'第 {layer} 层', f'layer {layer}')}: {', '.join(most)}")
# zh: 从哪个词元画起，画几个
# en: from which token on to draw, and how many
start, shown = lA2.window(trace)
lA2.routing_map(trace, start, shown)

# %% [markdown] lang="zh" key="map-read"
# <details><summary>读图</summary>
#
# B。一列一个词元，一行一层。格子里的数字和颜色是权重最大的专家，填得多高，权重就多大；蓝字和蓝线之后是模型自己写的。`␣` 是空格，`↵` 是换行。图上面的几行里，`CJK` 是汉字，`Latin` 是英文，`digit` 是数字；`CJK 6 (12/22)` 是说，22 个汉字里有 12 个，权重最大的是专家 6。第 1 层把三类分得最开，汉字多半去专家 0，英文多半去 3，数字多半去 7 和 2；第 0 层的数字全去专家 1，汉字和英文却大多都去 6。
#
# </details>
#
# **选读。** 每个专家分到多少词元？
#
# **先选一个（选读）。** 一段这么短的文字，负载会均衡吗？
#
# - A. 会
# - B. 不会

# %% [markdown] lang="en" key="map-read"
# <details><summary>Reading</summary>
#
# B. A column is a token, a row is a layer. Number and colour of a cell are the heaviest expert, the height of the filling is its weight; blue labels after the blue line are what the model wrote. `␣` is a blank, `↵` a new line. In the lines above the figure `CJK` stands for Chinese, `Latin` for English, `digit` for digits; `CJK 6 (12/22)` says that for 12 of 22 Chinese tokens expert 6 has the largest weight. Layer 1 tells all three apart best: Chinese mostly to expert 0, English mostly to 3, digits mostly to 7 and 2. In layer 0 all digits go to expert 1, but Chinese and English mostly share 6.
#
# </details>
#
# **Extra.** How many tokens does each expert get?
#
# **Choose first (extra).** Is the load balanced in a text as short as this?
#
# - A. Yes
# - B. No

# %% key="load" tags=["extra"]
load = routing.expert_load(trace)  # (layers, num_experts)
print("gini:", routing.gini(load).round(2))
print("coefficient_of_variation:", lA2.coefficient_of_variation(load).round(2))
print("never_used:", lA2.never_used(load).round(2))
lA2.load_histograms(trace)

# %% [markdown] lang="zh" key="load-read"
# <details><summary>读图</summary>
#
# B。每格一层，柱高是选了这个专家的词元数，虚线是完全均衡。基尼系数为 0 表示人人一样多，越大越集中：所有词元都选同样的 $k$ 个专家时最大，是 $1 - k/N$（$N$ 个专家）；变异系数是标准差除以平均值，0 也表示人人一样多。一段短文不均衡很正常；训练要的是在大量文字上均衡，见下一节。
#
# </details>
#
# **选读。** 这份轨迹是从课程的参考模型里采集的，transformers 和 vLLM 是另外两套代码。下一格让三套代码读同一段文字。（真正的模型太大，不同时装两份；从 vLLM 里取出路由的办法只适用于 CPU 版。所以这一格只在小模型和 CPU 版上运行。）vLLM 在 GPU 上也能返回专家编号（`enable_return_routed_experts=True`，没有权重），对应 `routing.capture_vllm_gpu`，还没有在 GPU 上跑过。
#
# **先选一个（选读）。** 它们的路由器会选同样的专家吗？
#
# - A. 会
# - B. 大多会，少数不同

# %% [markdown] lang="en" key="load-read"
# <details><summary>Reading</summary>
#
# B. One panel a layer; a bar is the number of tokens that took this expert, the dashed line is perfect balance. A Gini coefficient of 0 means equal shares; the larger, the more they pile up, to at most $1 - k/N$ where all tokens take the same $k$ of the $N$ experts; the coefficient of variation is the standard deviation over the mean, and 0 means equal shares too. That a short text is out of balance is normal; training wants balance over a great deal of text, see the next section.
#
# </details>
#
# **Extra.** This trace comes from the course's reference model; transformers and vLLM are two other implementations. In the next cell all three read the same text. (A real model is too large to hold twice, and the way the routing is taken out of vLLM works on a CPU only. So the cell runs on the tiny model and on a CPU.) On a GPU vLLM can report expert ids too (`enable_return_routed_experts=True`, without weights), which is `routing.capture_vllm_gpu`; that has not been run on a GPU yet.
#
# **Choose first (extra).** Do their routers choose the same experts?
#
# - A. Yes
# - B. Mostly, with a few exceptions

# %% key="engines" tags=["extra"]
from helpers.engine import on_cpu, open_engine

if models.is_bundled(folder) and on_cpu():
    token_ids = trace.token_ids.tolist()
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32
    )
    others = [routing.capture_transformers(reference, tokenizer, token_ids)]
    with open_engine(
        folder, enable_prefix_caching=False, enforce_eager=True, dtype="float32"
    ) as llm:
        others.append(routing.capture_vllm(llm, token_ids))
    for other in others:
        same, difference = routing.agreement(trace, other)
        name = other.provenance["captured_with"]
        print(f"{name}: same experts {same:.1%}, weights within {difference:.0e}")
        assert same >= 0.99 and difference <= 1e-2

# %% [markdown] lang="zh" key="balance-text"
# <details><summary>读结果</summary>
#
# A。权重的差是 0，因为轨迹把权重存成 float16，比它的舍入还小的差看不见。这里都用 float32 计算；用 bf16，两个专家的分数几乎相等时，可能换人。
#
# </details>
#
# ## 谁来保证均衡
#
# [Shazeer 等](https://arxiv.org/abs/1701.06538)在大模型上观察到，路由器自己会走极端：得分高的专家被选得多，也就训练得多，得分更高；没人选的学不到东西。训练时加一项**负载均衡损失**来拉住它（[Switch Transformer](https://arxiv.org/abs/2101.03961)）：
#
# $$L = N \sum_{i=1}^{N} f_i \, p_i$$
#
# $N$ 是专家数，$f_i$ 是专家 $i$ 被选中的次数除以词元数，$p_i$ 是它的 softmax 概率在词元上的平均。次数没有梯度，梯度从 $p_i$ 走：越常被选中的专家，概率被压得越多。完全均衡时 $L = k$（每个词元选 $k$ 个，所以 $f$ 的和是 $k$）。附录 A1 把 $f$ 再除以 $k$，完全均衡就是 1。
#
# ### 练习 2 ★★☆（10 分钟）：写出负载均衡损失
#
# `router_logits` 是 `(tokens, num_experts)`。为每个词元选出 `top_k` 个专家，照上面的式子返回 $L$：一个数（张量，能求梯度）。
#
# <details><summary>提示</summary>
#
# `torch.bincount(ids.flatten(), minlength=num_experts)` 数出每个专家被选中的次数。
#
# </details>

# %% [markdown] lang="en" key="balance-text"
# <details><summary>Reading</summary>
#
# A. The weights differ by 0, since a trace keeps them as float16 and anything below its rounding is out of sight. All computed in float32 here; in bf16, two experts with nearly equal scores may change places.
#
# </details>
#
# ## What keeps the load balanced
#
# [Shazeer et al.](https://arxiv.org/abs/1701.06538) observed in large models that a router left to itself goes to extremes: experts with high scores are chosen more, so they learn more and score higher; those that nobody chooses learn nothing. A **load-balancing loss** in training holds it back ([Switch Transformer](https://arxiv.org/abs/2101.03961)):
#
# $$L = N \sum_{i=1}^{N} f_i \, p_i$$
#
# $N$ is the number of experts, $f_i$ how often expert $i$ is chosen, over the number of tokens, $p_i$ its softmax probability averaged over the tokens. Counts have no gradient; it flows through $p_i$, and the more often an expert is chosen, the harder its probability is pushed down. In perfect balance $L = k$ (a token chooses $k$ experts, so $f$ adds up to $k$). Appendix A1 divides $f$ by $k$ as well, and perfect balance is 1 there.
#
# ### Exercise 2 ★★☆ (10 minutes): write the load-balancing loss
#
# `router_logits` is `(tokens, num_experts)`. Choose each token's `top_k` experts, then return $L$ as above: one number (a tensor, for its gradient).
#
# <details><summary>Hint</summary>
#
# `torch.bincount(ids.flatten(), minlength=num_experts)` counts how often each expert is chosen.
#
# </details>


# %% key="ex2" tags=["exercise"]
def load_balancing_loss(router_logits, top_k):
    return ...


# %% key="ex2-solution" tags=["solution"]
def load_balancing_loss(router_logits, top_k):  # noqa: F811
    probabilities = router_logits.softmax(dim=-1)  # (tokens, num_experts)
    count, num_experts = probabilities.shape
    chosen = probabilities.topk(top_k, dim=-1).indices
    frequency = torch.bincount(chosen.flatten(), minlength=num_experts) / count
    return num_experts * (frequency * probabilities.mean(dim=0)).sum()


# %% key="ex2-check"
lA2.ex2.check(load_balancing_loss)

# %% [markdown] lang="zh" key="global-text"
# **选读。** 在哪些词元上统计 $f$，大有讲究。一次更新要用的数据太多，放不进一张卡，就切成许多**微批次**（micro-batch），轮流或分到多张卡上计算。一个微批次往往只有几句同一类的话。可以在每个微批次里各算各的损失，也可以像 Qwen3 的报告那样，用**全局批次**的损失（[Qiu 等，2025](https://arxiv.org/abs/2501.11873)）：$f$ 在所有微批次之间同步，等于把它们的词元放在一起数。（$p$ 是平均，不同步也一样。）
#
# 看一个极端的例子：两个微批次，一个全是算术，一个全是文字；两个专家，各管一类。1 是完全均衡，2 是最坏。
#
# **先选一个（选读）。** 两种损失分别是多少？
#
# - A. 微批次的 1，全局的 2
# - B. 微批次的 2，全局的 1
# - C. 都是 1

# %% [markdown] lang="en" key="global-text"
# **Extra.** It matters over which tokens $f$ is counted. The data of one update does not fit on a card, so it is cut into many **micro-batches**, computed one after the other or on many cards. A micro-batch is often a few sentences of one kind. The loss can be that of each micro-batch by itself; or, as in Qwen3's report, that of the **global batch** ([Qiu et al., 2025](https://arxiv.org/abs/2501.11873)), with $f$ synchronised over all micro-batches, which is to count their tokens together. ($p$ is a mean and comes out the same without.)
#
# An extreme example: two micro-batches, one all arithmetic, one all prose; two experts, one for each kind. 1 is perfect balance and 2 the worst.
#
# **Choose first (extra).** How large are the two losses?
#
# - A. The micro-batches' 1, the global one 2
# - B. The micro-batches' 2, the global one 1
# - C. Both 1


# %% key="global" tags=["extra"]
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func


# zh: 各个微批次的损失的平均，和把所有词元放在一起算的损失
# en: the mean of the losses of the micro-batches, and the loss of all their tokens together
def both_losses(micro_batches, top_k):
    num_experts = micro_batches[0].shape[-1]
    alone = [
        load_balancing_loss_func((batch,), num_experts, top_k)
        for batch in micro_batches
    ]
    together = torch.cat(micro_batches)
    overall = load_balancing_loss_func((together,), num_experts, top_k)
    return torch.stack(alone).mean(), overall


arithmetic = torch.tensor([4.0, -4.0]).repeat(100, 1)  # (tokens, experts)
prose = torch.tensor([-4.0, 4.0]).repeat(100, 1)
micro, overall = both_losses([arithmetic, prose], top_k=1)
print(f"2 experts, top_k=1: micro-batch {micro:.2f}, global batch {overall:.2f}")
pooled = load_balancing_loss_func((arithmetic, prose), 2, 1)
print(f"transformers, 2 layers: {pooled:.2f}")

texts = (
    "37×46=? 58×23=? 123+456=579",
    "什么是混合专家？路由器为每个词元选出几个专家。",
    "What does the router do? It picks a few experts.",
)
batches = []
for text in texts:
    ids = tokenizer(text, return_tensors="pt").input_ids.to(input_ids.device)
    with routing.recording({"layer 0": model.layers[0].mlp.router}) as outputs:
        model(ids)
    # zh: 路由器只运行了一次，给出权重、编号和分数
    # en: the router ran once, and gave weights, ids and scores
    _, _, scores = outputs["layer 0"][0]
    batches.append(scores.float().cpu())  # (tokens, num_experts)
micro, overall = both_losses(batches, top_k)
print(f"layer 0, top_k={top_k}: micro-batch {micro:.2f}, global batch {overall:.2f}")

# %% [markdown] lang="zh" key="training-text" facts="0.001"
# <details><summary>读结果</summary>
#
# B。微批次的损失几乎取到最坏的值，它会逼着每个专家什么都学一点；全局的损失说它完全均衡，分工可以留下。第二行是一个陷阱：transformers 把所有层混在一起统计，两层各自一边倒、方向相反，在它看来也是均衡的。最后一行是手头的模型：每段话偏爱自己的专家，微批次的损失就比全局的高。
#
# </details>
#
# 用 transformers 训练时还要留意：默认不加这一项，要设 `output_router_logits=True` 并给出 `labels`，系数 `router_aux_loss_coef` 默认 0.001；批次里有填充时，要给 `attention_mask`，否则填充也算数。
#
# 下面是 `qwen3-moe-tiny` 的两次训练记录，同样的数据、同样的初始权重，一次不带负载均衡损失（`off`），一次带着（`on`，$f$ 取最近许多步的平均）。不均衡的程度用**基尼系数**量：0 表示八个专家一样多；每个词元选两个专家，所以最大是 $1 - 2/8 = 0.75$，那时所有词元都选同样的两个。
#
# **先选一个。** 不带损失的那次，最后会怎样？
#
# - A. 所有词元挤在两个专家上，学不会
# - B. 有的专家几乎分不到词元，可是语言建模的损失只差一点
# - C. 自己就均衡了

# %% [markdown] lang="en" key="training-text" facts="0.001"
# <details><summary>Reading</summary>
#
# B. The micro-batch loss is almost at its worst, and would force every expert to learn a bit of everything; the global one calls it perfectly balanced, and the division of labour may stay. The second line is a trap: transformers counts all layers together, so two layers that lean to opposite sides look balanced to it. The last line is the model at hand: each text favours experts of its own, so the micro-batch loss is above the global one.
#
# </details>
#
# Mind also, when you train with transformers: by default the term is left out; it takes `output_router_logits=True` and `labels`, its coefficient `router_aux_loss_coef` is 0.001 by default, and if the batch is padded, pass `attention_mask`, or padding counts too.
#
# Below is the record of two trainings of `qwen3-moe-tiny`, with the same data and the same initial weights, one without the load-balancing loss (`off`), one with it (`on`, $f$ being an average over many recent steps). How uneven the load is, the **Gini coefficient** says: 0 if the eight experts get the same; as each token takes two, it is at most $1 - 2/8 = 0.75$, where all tokens take the same two.
#
# **Choose first.** How does the training without the loss end?
#
# - A. All tokens crowd on two experts, and the model does not learn
# - B. Some experts get next to nothing, but the loss of the language model is only a little worse
# - C. It becomes balanced by itself

# %% key="training"
runs, loads = {}, {}
for name in ("off", "on"):
    runs[name] = np.load(ROOT / "assets" / "traces" / f"moe_balance_{name}.npz")
# zh: 不带损失的那次训练，到这里就停了
# en: the training without the loss was stopped here
length = len(runs["off"]["step"])
for name, run in runs.items():
    # zh: (records, layers, experts)；数的是（词元，名次），所以一个专家最多占一半
    # en: (records, layers, experts), of (token, slot) pairs, so an expert has at most half
    load = loads[name] = lA2.shares(run["load"][:length])
    gini = routing.gini(load)  # (records, layers)
    print(f"{name:<4}gini, first step: {gini[0].round(2)}", end=", ")
    print(f"max: {gini.max(axis=0).round(2)}")
    two = np.sort(load, axis=-1)[:, :, -2:].sum(axis=-1)  # (records, layers)
    print(f"    two busiest, max: {two.max(axis=0).round(3)}")
    # zh: 每 5 步一条记录，最后 20 条就是最后 100 步
    # en: a record every 5 steps, so the last 20 are the last 100 steps
    last = load[-20:].mean(axis=0)  # (layers, experts)
    print(f"    last 100 steps: {routing.gini(last).round(2)}")
    loss = run["loss"][length - 20 : length].mean()
    print(f"    min share: {last.min(axis=1).round(3)}, loss: {loss:.3f}")
# zh: off 最后最不均衡的那一层
# en: the layer where "off" is least balanced in the end
layer = int(routing.gini(loads["off"][-20:].mean(axis=0)).argmax())
lA2.balance_figure(runs, loads, layer)

# %% [markdown] lang="zh" key="training-read" facts="3800 600"
# <details><summary>读图</summary>
#
# B。上面两格是同一层八个专家的份额（数的是词元和名次，每个词元算两次），一种颜色一个专家，从下到上叠起来，画的是 `off` 最后最不均衡的那一层；下面是每一层的基尼系数和训练损失，每 5 步一点。文件里存的是份额的滑动平均，这里还原成了每一点自己的份额；填充的词元也算在内。`on` 后来一直训练到 3800 步，这里只画前 600 步。图上面的数字，每组四个，一层一个：第一步和最高的基尼系数；最忙的两个专家一起占过的最大份额；最后 100 步的基尼系数和最小的份额。
#
# 一开始就不均衡：随机的路由器已经偏向几个专家，基尼系数 0.43 到 0.56。接下来的几十步更偏。不带的那次，第 1 到 3 层一度有 0.96 到 0.998 的份额落在两个专家上：几乎每个词元都选了同样的两个。带着的那次，第 3 层也到过 0.952。后来只有带着损失的那次走向均衡（最后 100 步合起来算，各层都不超过 0.11），路上还有起伏；不带的退回到和开头差不多，就停在那里，有的专家几乎分不到词元。
#
# </details>
#
# 也要看到另一面：不带损失的那次，全挤在一起只是一时，训练损失到最后也只差一点。均衡的好处要到大模型上看：负载不均会让路由塌缩，专家分在多张卡上时还会拖慢计算（[DeepSeek-V3 技术报告](https://arxiv.org/abs/2412.19437)，2.1.2 节）；这里看不出来。这是一个教学用的小模型，各一次训练，一个种子。

# %% [markdown] lang="en" key="training-read" facts="3800 600"
# <details><summary>Reading</summary>
#
# B. The two panels above are the shares of the eight experts of one layer (of token and slot, so that each token counts twice), one colour each, stacked from below, in the layer that is least balanced at the end of `off`; below are the Gini coefficient of every layer and the training loss, a point every 5 steps. The file keeps a running average of the shares, from which the shares of each point were recovered; padding counts too. `on` went on to step 3800, of which the first 600 are drawn. The numbers above the figure come in fours, one a layer: the Gini coefficient of the first step and the highest; the largest share that the two busiest experts had together; Gini coefficient and smallest share of the last 100 steps.
#
# The load is uneven from the start: a random router already favours some experts, with Gini coefficients from 0.43 to 0.56. For some tens of steps it gets worse. In the training without the loss, two experts of layers 1 to 3 have 0.96 to 0.998 of the load for a while: almost every token takes the same two. With the loss, layer 3 comes to 0.952 as well. Then only the training with the loss becomes balanced (over the last 100 steps taken together, no layer is above 0.11), in waves; without it the load falls back to about where it began and stays there, and some experts get next to nothing.
#
# </details>
#
# Look at the other side too: without the loss, the crowding passes, and in the end the training loss differs only a little. Large models are where balance pays: an uneven load leads to routing collapse, and slows down experts that are spread over cards ([DeepSeek-V3 report](https://arxiv.org/abs/2412.19437), section 2.1.2); nothing of that can be seen here. This is a tiny teaching model, one training each, one seed.

# %% [markdown] lang="zh" key="association-text"
# ## 专长：相关与因果
#
# 专家有专长吗？先量相关：知道一个词元的类别（数字、运算符、汉字……），能在多大程度上猜出它权重最大的专家？归一化互信息为 0 表示无关，为 1 表示完全确定。单独一个数字说明不了什么，要有两条基线：
#
# - **打乱**：把类别随机换给别的词元（同一个词元不管出现几次，换到的类别都一样），看看碰巧能有多高。
# - **没训练过的模型**：权重和训练开始前一样随机，但同一个词元进去，分数总差不多，自然去同样的专家。换 5 个随机种子。
#
# **先选一个。** 没训练过的模型，互信息：
#
# - A. 是 0
# - B. 比 0 高，比训练好的低
# - C. 和训练好的差不多

# %% [markdown] lang="en" key="association-text"
# ## Specialisation: association and cause
#
# Do experts specialise? First measure the association: how well does the class of a token (digit, operator, Chinese, ...) tell its heaviest expert? Normalised mutual information is 0 if they have nothing to do with each other and 1 if one settles the other. A single number says little; it needs two baselines:
#
# - **Permuted**: the classes are dealt out anew to the distinct tokens, every occurrence of a token keeping one class, to see how high chance gets.
# - **An untrained model**: weights as random as before the training, but the same token always gets similar scores, so it goes to the same experts by itself. With 5 random seeds.
#
# **Choose first.** The mutual information of an untrained model is
#
# - A. 0
# - B. above 0 and below that of the trained model
# - C. about that of the trained model

# %% key="association"
questions = [
    "37×46=?", "58×23=?", "84×19=?", "61×17=?", "123+456=?",
    "什么是 MoE？", "什么是路由器？", "讲个故事。", "你是谁？",
    "What is MoE?", "What does the router do?", "Tell me a story.", "Who are you?",
]  # fmt: skip
traces = [
    routing.capture_conversation(model, tokenizer, [text], max_new_tokens=160)
    for text in questions
]
corpus = lA2.concatenate(traces)
# zh: 真正的模型太大，内存里放不下两份
# en: a real model is too large to be held twice
seeds = 5 if models.is_bundled(folder) else 0
untrained = []
for seed in range(seeds):
    torch.manual_seed(seed)
    fresh = qwen.QwenModel(model.config).requires_grad_(False)
    for weight in fresh.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.02)  # config.json: initializer_range
    # zh: 让它读同样的词元
    # en: it reads the same tokens
    rows = []
    for written in traces:
        ids = written.token_ids.tolist()
        rows.append(routing.capture_reference(fresh, tokenizer, ids, trained=False))
    untrained.append(lA2.concatenate(rows))
found = lA2.class_association(corpus, untrained)
for name, values in found.items():
    values = values.reshape(-1, len(corpus.layers))  # (draws, layers)
    high = np.quantile(values, 0.95, axis=0)
    print(f"{name:<10} mean {values.mean(0).round(3)}, 95 % quantile {high.round(3)}")
lA2.association_bars(found, corpus.layers)

# %% [markdown] lang="zh" key="association-read"
# <details><summary>读图</summary>
#
# B。蓝色是训练好的模型，橙色是没训练过的（竖线从最小到最大的种子），灰色是打乱之后（竖线到 95% 分位）。能归功于训练的，至多是蓝色高出橙色的部分，不是蓝色本身：什么都没学过的路由器也不是 0，比打乱的还高一些，因为相同的词元本来就走相同的路，词元又不多。许多“专家分工”的热图少了这样的基线。
#
# </details>
#
# 相关还不是因果。要知道一个专家**有什么用**，办法很直接：关掉它，词元改去下一个专家，看谁的预测变差了。下面把 32 个专家（4 层 × 8 个）逐个关掉，量一量模型自己写的词元（不算提示词）损失涨了多少，单位 nat。
#
# **先选一个。** 32 次里，大多数时候损失会怎样？
#
# - A. 每一类词元都明显变差
# - B. 几乎不动

# %% [markdown] lang="en" key="association-read"
# <details><summary>Reading</summary>
#
# B. Blue is the trained model, orange the untrained one (the line runs from the lowest seed to the highest), grey the permuted classes (the line ends at the 95% quantile). Training can claim at most how far blue rises above orange, not blue itself: a router that has learned nothing is not at 0 but even somewhat above the permuted classes, since equal tokens go equal ways and there are not many tokens. Many heat maps of "expert specialisation" lack such a baseline.
#
# </details>
#
# Association is not cause. To find out what an expert **is good for**, switch it off: its tokens go to the next best expert, and we see whose prediction suffers. The next cell switches off 32 experts (4 layers × 8), one at a time, and measures by how much the loss rises on the tokens that the model wrote itself (nats; the prompts do not count).
#
# **Choose first.** In most of the 32 cases, what happens to the loss?
#
# - A. It rises clearly for every class of tokens
# - B. It hardly moves

# %% key="causal"
from helpers.experts import expert_off

# zh: 小模型的全部专家；真正的模型只取四层，每层最忙的八个
# en: all experts of the tiny model; of a real one four layers, the eight busiest of each
layers, experts = lA2.experts_to_try(traces)
before = lA2.written_losses(model, traces)  # (written tokens,)
change = np.zeros((*experts.shape, len(before)))  # (layers, experts, written tokens)
for place, layer in enumerate(layers):
    for column, expert in enumerate(experts[place]):
        with expert_off(model, layer, expert):
            change[place, column] = lA2.written_losses(model, traces) - before

# zh: 按类别求平均；不到 20 个词元的类别不看
# en: the mean of each class; those of fewer than 20 tokens are left out
written = lA2.written_classes(traces)  # (written tokens,)
present, rise = [], []
for name in lA2.TOKEN_CLASSES:
    of_class = written == name
    if of_class.sum() >= 20:
        present.append(name)
        rise.append(change[:, :, of_class].mean(axis=-1))
rise = np.stack(rise)  # (classes, layers, experts)

# zh: 括号里是它的词元数，和关掉它之后损失涨了多少
# en: in brackets its tokens, and the rise of the loss without it
lA2.print_harm(traces, layers, experts, change)
lA2.print_worst(traces, layers, experts, change, rise, present)
lA2.rise_without_expert(rise, present, layers, experts)

# %% [markdown] lang="zh" key="causal-read"
# <details><summary>读图</summary>
#
# B。一格一层，一列是关掉的专家，颜色和数字是损失涨了多少（不到 0.05 的不写）。一行是**被预测**的词元的类别：`digit` 数字，`operator` 运算符，`CJK` 汉字，`Latin` 英文，`special` 对话标记，`space` 空格和换行，`other` 标点等；负责预测它的，是读到它前面那些词元时的路由。
#
# 大多数格子是白的：关掉一个，别的专家顶得上。少数几格很红，而且多半只红在一两行。小模型里最红的三格，图上面列了伤得最重的词元：第 0 层专家 3 的空白 1.12，是 `<think>` 后面的换行（英文也跟着涨一些）；第 2 层专家 6 的数字 0.51，是算到一半的乘积和进位；第 1 层专家 2 的运算符 0.51，是把 46 拆成 40+6 的那个加号。
#
# </details>
#
# 被选得最多的，关掉之后不一定伤得最重：第 1 层的专家 0 是那一层最忙的，286 个词元，关掉几乎没有影响；第 0 层的专家 3 只有 151 个词元，八个里排第六，关掉却伤得最重。
#
# **选读。** 把两件事画在一起：横轴是一个专家参与预测某类词元的比例，纵轴是关掉它之后这一类的损失涨了多少。
#
# **先选一个（选读）。** 关掉一个专家，没有用到它的预测也会变差吗？
#
# - A. 会
# - B. 几乎不会

# %% [markdown] lang="en" key="causal-read"
# <details><summary>Reading</summary>
#
# B. One panel a layer, a column is the expert switched off, colour and number the rise of the loss (below 0.05 it is not written). A row is the class of the token **that is predicted**: `digit`, `operator`, `CJK` (Chinese), `Latin` (English), `special` (marks of the conversation), `space` (blanks and new lines), `other` (punctuation and the like); what predicts it is the routing of the tokens before it.
#
# Most cells are white: switch one off, and others can stand in. A few are deep red, mostly in one or two rows. For the three reddest of the tiny model, the lines above the figure name the token that suffers most: blanks, 1.12 without expert 3 of layer 0, are the new line after `<think>` (English rises a little too); digits, 0.51 without expert 6 of layer 2, are products and carries half-way through; operators, 0.51 without expert 2 of layer 1, are the plus that takes 46 apart into 40+6.
#
# </details>
#
# The most chosen need not be the one that hurts most when it is gone: expert 0 of layer 1 is the busiest there, with 286 tokens, and hardly matters; expert 3 of layer 0 has only 151, the sixth of eight, and hurts most.
#
# **Extra.** Both in one picture: on the x axis, how often an expert takes part in predicting a class of tokens; on the y axis, how much the loss of that class rises without it.
#
# **Choose first (extra).** Without an expert, do predictions that never used it suffer too?
#
# - A. Yes
# - B. Hardly

# %% key="scatter" tags=["extra"]
# zh: 一个专家有没有参与预测一个词元，(layers, experts, written tokens)
# en: whether an expert took part in predicting a token, (layers, experts, written tokens)
took = lA2.who_predicted(traces, layers, experts)
share = np.stack([took[:, :, written == name].mean(axis=-1) for name in present])

# zh: 损失涨得最多的三个，和用得最多的一个
# en: the three with the largest rise, and the one used most
named = lA2.largest(rise, 3) + lA2.largest(share, 1)
lA2.print_use(traces, layers, experts, change, took, present, named)
lA2.use_against_rise(share, rise, present, named)

# %% [markdown] lang="zh" key="scatter-read"
# <details><summary>读图</summary>
#
# B。一点是一类词元和一个专家，编了号的是损失涨得最多的三个和用得最多的一个，上面几行说的就是它们。点并不排成一条线：有的专家参与了某一类的全部预测，关掉它，损失几乎不动；有的只参与一小部分，关掉它却伤得很重。打印的几行把后者拆开（各有几次预测，括号里是损失平均涨了多少）：损失几乎全涨在用到它的那些预测上，没有用到它的不受影响。一类的平均值把两种预测混在一起。
#
# </details>
#
# **选读。** 损失只是数字，再看一眼后果：关掉对数字最要紧的那个专家。
#
# **先选一个（选读）。** 乘法、加法、讲故事，哪些会坏？
#
# - A. 只有乘法
# - B. 乘法和加法
# - C. 全都会

# %% [markdown] lang="en" key="scatter-read"
# <details><summary>Reading</summary>
#
# B. A point is a class of tokens and an expert; the numbers mark the three with the largest rise and the one used most, which the lines above name. The points form no line: some experts take part in all predictions of a class, and the loss hardly moves without them; some take part in few, and hurt badly when they are gone. The printed lines take the latter apart (how many predictions, and in brackets the mean rise of the loss): nearly all of the rise is in the predictions that used the expert, and those that did not are left alone. The mean of a class mixes the two.
#
# </details>
#
# **Extra.** A loss is only a number, so look at a consequence: switch off the expert that matters most for digits.
#
# **Choose first (extra).** Products, sums, stories: which of them break?
#
# - A. Products only
# - B. Products and sums
# - C. All

# %% key="consequence" tags=["extra", "raw"]
# zh: 对数字最要紧的专家
# en: the expert that matters most for digits
name = "digit" if "digit" in present else present[0]
digits = rise[present.index(name)]  # (layers, experts)
place, column = lA2.largest(digits, 1)[0]
layer, expert = layers[place], int(experts[place, column])

cases = 20 if models.is_bundled(folder) else 1
products, sums = [], []
for a, b in np.random.default_rng(0).integers(12, 99, (cases, 2)).tolist():
    products.append((f"{a}×{b}=?", a * b))
for a, b in np.random.default_rng(1).integers(100, 999, (cases, 2)).tolist():
    sums.append((f"{a}+{b}=?", a + b))


def answer(text):
    one = routing.capture_conversation(model, tokenizer, [text], max_new_tokens=160)
    return "".join(one.texts[one.prompt_length :])


def right_answers(problems):
    return sum(answer(text).endswith(f"={result}") for text, result in problems)


right, stories = {}, {}


def try_out(name):
    right[name] = {"product": right_answers(products), "sum": right_answers(sums)}
    print(f"{name}:", right[name], "/", cases)
    print("   ", " ".join(answer("37×46=?").split()))
    stories[name] = answer(say("讲个故事。", "Tell me a story."))
    print("   ", " ".join(stories[name].split()))


try_out(say("全部专家", "all experts"))
with expert_off(model, layer, expert):
    try_out(
        say(
            f"没有第 {layer} 层的专家 {expert}",
            f"without expert {expert} of layer {layer}",
        )
    )

# %% [markdown] lang="zh" key="doubt-text"
# <details><summary>读结果</summary>
#
# B。在这个小模型里，少了这一个专家，解题的步骤照样列得出来，可是数算错了：20 道乘法几乎全错，三位数加法也大多算错（它列出的部分积和进位就已经不对）；讲的故事一个字也没有变。试着把 `layer` 和 `expert` 换成别的。
#
# </details>
#
# ## 怎样怀疑一张热图
#
# 看到一张“专家分工”的热图，先问六个问题：
#
# 1. **有没有基线？** 没训练过的路由器、打乱的类别，各有多高？
# 2. **画的是频率，还是后果？** 频率告诉你词元去了哪里，不告诉你那里发生了什么。
# 3. **关掉过吗？** 别的专家会顶上来，所以“关掉没事”也不等于“没有用”。
# 4. **跨层比编号了吗？** 第 0 层的专家 3 和第 1 层的专家 3 是两个不相干的网络。
# 5. **权重归一化过吗？** 归一化过的权重看不到其他专家的概率；路由的熵算的是全部专家，可以补上这一点。
# 6. **多少文字，多大的模型？** 这里没用到的专家，别处可能会用到。
#
# 我们自己的图也一样：一个小模型，十几段它自己写的话，一次只关一个。这些话是它逐个挑概率最大的词元写成的，损失本来就接近 0，只会涨、不会降，关掉之后变好的情形在这里看不到。
#
# 下一格放掉模型，腾出内存。

# %% [markdown] lang="en" key="doubt-text"
# <details><summary>Reading</summary>
#
# B. In this tiny model, without that one expert, the steps are still laid out, but the numbers are wrong: of 20 products nearly all, and most sums of three digits too (the partial products and carries that it writes down are wrong already); the story has not changed by a character. Try other values for `layer` and `expert`.
#
# </details>
#
# ## How to doubt a heat map
#
# Six questions for any heat map of "specialised experts":
#
# 1. **Is there a baseline?** How high are an untrained router and permuted classes?
# 2. **Does it show frequencies or consequences?** Frequencies tell you where tokens went, not what happened there.
# 3. **Was an expert switched off?** Others stand in, so "no harm without it" does not mean "of no use", either.
# 4. **Are numbers compared across layers?** Expert 3 of layer 0 and expert 3 of layer 1 have nothing to do with each other.
# 5. **Are the weights renormalised?** Then they hide the probability of the other experts; the routing entropy is that of all experts and makes up for it.
# 6. **How much text, how large a model?** Experts unused here may be used elsewhere.
#
# Our own figures are no exception: one tiny model, a dozen texts that it wrote itself, one expert off at a time. It wrote these texts by taking the likeliest token each time, so their losses are close to 0 and can rise but not fall: a change for the better cannot be seen here.
#
# The next cell lets go of the model and frees its memory.

# %% key="release" tags=["extra"]
# zh: 放掉模型
# en: let go of the models
import gc

model = mlp = fresh = reference = weight = hook = None
gc.collect()
if torch.cuda.is_available():
    torch.cuda.empty_cache()

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - 整层写成类，严格加载检查点，和 `helpers/qwen.py`、transformers、vLLM 逐层相同。
# - Qwen2-MoE 的共享专家带一个 sigmoid 阀门，漏掉它就是另一个函数；Qwen3-MoE 没有共享专家。
# - 负载均衡损失：次数乘平均概率。在微批次里算，会逼着专家放弃分工；在全局批次里算，不会。
# - 专长要和两条基线比，再关掉专家看一看。
#
# ## 老教程里的十三种说法
#
# | 说法 | 其实 | 在哪里看到 |
# |---|---|---|
# | MoE 提高泛化能力，每个专家处理特定任务 | 参数多而计算不变；按词元、按层选，分工靠训练长出来 | “谁去了哪里”和“专长” |
# | 路由器输出 `(batch, seq, num_experts)` | `(batch * seq, num_experts)` | 第 04 课打印的形状 |
# | 路由器输出的是概率 | 是 logits，可正可负 | 第 04 课三步图的左格 |
# | `softmax(dim=1)` | 只有摊平之后才对；写 `dim=-1` | 两种形状的对比 |
# | `gate` 算的是“选中的专家”的分数 | 是全部专家的 | 第 04 课三步图的左格 |
# | 代码片段里没有 top-k、归一化和掩码 | 缺了就跑不起来，完整的在这里 | `route`、`SparseMoeBlock` |
# | 从不提 `norm_topk_prob` | Qwen3 为真，Qwen1.5/2-MoE 为假 | `route` 下面打印的和 |
# | `idx, top_x = torch.where(expert_mask[...])` 是词元和名次 | 反了：那里的掩码转置过，`idx` 是名次，`top_x` 是词元；`expert_ids == expert` 没有转置，先词元后名次 | 和 transformers 的对比的最后几行 |
# | 几乎每个专家都会被用到 | 一起算的词元够多才是；一个用户逐个生成时只用 8 个 | 调用次数的图 |
# | `ModuleList` 加线性的 `gate` | 只在 transformers 4.x；5.x 是叠起来的张量和 `Qwen3MoeTopKRouter` | 和 transformers 的对比 |
# | 不解释 `gate_proj` 和 `gate` | 前者是 SwiGLU 的阀门（外面有 SiLU），后者是路由器 | `Expert`、`SparseMoeBlock` |
# | 去掉共享专家所以更快 | 快慢主要看激活参数 | 参数表 |
# | 直接加 `shared_expert_output` | 先乘 sigmoid 阀门；共享专家不在路由的名单里 | `Qwen2SparseMoeBlock` |
#
# ## 自测
#
# 1. 遍历词元和遍历专家，结果一样，为什么后者快？
# 2. 共享专家占不占 top-k 的名额？
# 3. 负载均衡损失里，梯度从哪里走？为什么不能只用次数？
# 4. 为什么没训练过的路由器，互信息也不是 0？
# 5. 关掉一个专家，损失没有涨，能说它没有用吗？
#
# <details><summary>答案</summary>
#
# 1. 调用少，每次的矩阵大；一起算的词元越多，差得越多。
# 2. 不占。它不归路由器管，每个词元都经过。
# 3. 从平均概率走；次数来自取最大值，没有梯度。
# 4. 同一个词元每次的分数差不多，自然去同样的专家；词元的种类又不多。
# 5. 不能。别的专家顶上来了；换一段文字，它可能就要紧。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | 在 Qwen2-MoE 上输出对不上 | 漏了共享专家的阀门，或把 `norm_topk_prob` 当成了真 | 和 transformers 比一层 |
# | 加上均衡损失，分工没了 | 在微批次里统计了次数 | 同步，或用许多步的平均 |
# | 读轨迹时报错：没有路由轨迹，或不是完整的路由轨迹 | 轨迹文件不在，或没有下载完整 | 重新采集，或重新下载 |
# | vLLM 采集到的词元少了一段 | 前缀缓存命中的词元不再经过路由器 | `enable_prefix_caching=False` |
#
# ## 延伸阅读
#
# - [Qwen3 技术报告](https://arxiv.org/abs/2505.09388)，第 2 节：128 个专家选 8 个，没有共享专家，全局批次的负载均衡
# - 负载均衡损失：[Switch Transformer](https://arxiv.org/abs/2101.03961)；全局批次：[Qiu 等](https://arxiv.org/abs/2501.11873)；[DeepSeek-V3](https://arxiv.org/abs/2412.19437)
# - 细粒度专家与共享专家：[DeepSeekMoE](https://arxiv.org/abs/2401.06066)；路由看起来像什么：[Mixtral](https://arxiv.org/abs/2401.04088)、[OLMoE](https://arxiv.org/abs/2409.02060)

# %% [markdown] lang="en" key="recap"
# ## Recap
#
# - The whole layer as a class loads a checkpoint strictly and equals `helpers/qwen.py`, transformers and vLLM, layer by layer.
# - The shared expert of Qwen2-MoE has a sigmoid valve, and without it the layer is another function; Qwen3-MoE has no shared expert.
# - The load-balancing loss is counts times mean probabilities. Over micro-batches it forces experts to give up their division of labour; over the global batch it does not.
# - A speciality is measured against two baselines; then switch the expert off and see.
#
# ## Thirteen statements in older tutorials
#
# | Statement | In fact | Where you saw it |
# |---|---|---|
# | MoE generalises better, each expert handles a certain task | more parameters for the same work; chosen by token and layer, a division of labour grows in training | "Who goes where", "Specialisation" |
# | the router gives `(batch, seq, num_experts)` | `(batch * seq, num_experts)` | the shapes printed in lesson 04 |
# | the router gives probabilities | logits, positive or negative | the three steps of lesson 04, left panel |
# | `softmax(dim=1)` | right on flattened tokens only; write `dim=-1` | the sums for both shapes |
# | `gate` computes scores "of the chosen experts" | of all experts | the three steps of lesson 04, left panel |
# | snippets without top-k, renormalisation and mask | they do not run; the complete code is here | `route`, `SparseMoeBlock` |
# | no word of `norm_topk_prob` | true in Qwen3, false in Qwen1.5/2-MoE | the sums printed below `route` |
# | `idx, top_x = torch.where(expert_mask[...])` are token and slot | the reverse: that mask is transposed, so `idx` is the slot and `top_x` the token; `expert_ids == expert` is not, hence token, then slot | the last lines beside transformers |
# | nearly every expert is used | when many tokens are computed together; one generated alone uses 8 | the figure of calls |
# | `ModuleList` and a linear `gate` | transformers 4.x only; 5.x has stacked tensors and `Qwen3MoeTopKRouter` | the layer beside transformers |
# | `gate_proj` and `gate` left unexplained | the first is SwiGLU's valve (with a SiLU around it), the second the router | `Expert`, `SparseMoeBlock` |
# | faster for want of a shared expert | mainly the active parameters decide | the table of parameters |
# | add `shared_expert_output` as it is | through a sigmoid valve first; the shared expert is none of the routed ones | `Qwen2SparseMoeBlock` |
#
# ## Test yourself
#
# 1. Looping over tokens gives the same as looping over experts. Why is the latter faster?
# 2. Does the shared expert take one of the top-k places?
# 3. Where does the gradient of the load-balancing loss flow, and why are counts alone not enough?
# 4. Why is the mutual information of an untrained router not 0?
# 5. The loss does not rise without an expert. Is it of no use?
#
# <details><summary>Answers</summary>
#
# 1. There are fewer calls, each with a larger matrix; the more tokens together, the larger the difference.
# 2. No. The router has no say in it, and every token passes through.
# 3. Through the mean probabilities; counts come from taking a maximum and have no gradient.
# 4. A token has about the same scores each time, so it goes to the same experts by itself, and there are few different tokens.
# 5. No. Others stood in; in another text it may matter.
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | on Qwen2-MoE the output does not match | the shared expert's valve is missing, or `norm_topk_prob` was taken as true | compare one layer with transformers |
# | the balancing loss has ended the division of labour | counts were taken over micro-batches | synchronise them, or average over many steps |
# | a trace is not read: "There is no trace" or "no complete routing trace" | the file is not there, or only a part of it | capture or download it again |
# | tokens are missing from a capture in vLLM | tokens in the prefix cache do not pass the router again | `enable_prefix_caching=False` |
#
# ## Further reading
#
# - [Qwen3 report](https://arxiv.org/abs/2505.09388), section 2: 8 of 128 experts, no shared expert, load balance over the global batch
# - The load-balancing loss: [Switch Transformer](https://arxiv.org/abs/2101.03961); over the global batch: [Qiu et al.](https://arxiv.org/abs/2501.11873); [DeepSeek-V3](https://arxiv.org/abs/2412.19437)
# - Fine-grained and shared experts: [DeepSeekMoE](https://arxiv.org/abs/2401.06066); what routing looks like: [Mixtral](https://arxiv.org/abs/2401.04088), [OLMoE](https://arxiv.org/abs/2409.02060)
