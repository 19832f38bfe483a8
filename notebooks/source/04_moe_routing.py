# %% [markdown] lang="zh" key="title"
# # 04 · 混合专家：看见每个词元去了哪里
#
# | | |
# |---|---|
# | 学完能做 | 在纸上把分数变成权重；写出路由器和遍历专家的循环，装进现成的模型，得到同样的答案；看见一句话走过哪些专家；分清“常被选中”和“离不开” |
# | 先修 | 第 03 课 |
# | 时间 | 60 分钟；标着“选读”的另算 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上；换成真正的 Qwen3-30B-A3B 要一张 80 GB 的 GPU |
# | 模型 | 课程自带的 `qwen3-moe-tiny`，或 `COURSE_MOE_MODEL` 指定的模型 |

# %% [markdown] lang="en" key="title"
# # 04 · Mixture of experts: see where every token goes
#
# | | |
# |---|---|
# | You will be able to | turn scores into weights on paper; write the router and the loop over experts, put them into a ready model and get the same answer; see which experts a sentence passes; tell "often chosen" from "needed" |
# | Prerequisites | lesson 03 |
# | Time | 60 minutes; what is marked "extra" comes on top |
# | Hardware | any Linux CPU with 4 GB of memory; the real Qwen3-30B-A3B needs a GPU with 80 GB |
# | Model | the bundled `qwen3-moe-tiny`, or the one that `COURSE_MOE_MODEL` names |

# %% key="setup"
import torch
import torch.nn.functional as F
from torch import nn

from helpers import GIB, ROOT, catalogue, models, qwen, routing, say
from helpers.lessons import l04

folder = models.course_moe_model()
# zh: 矩阵这么小，多用一个线程反而更慢
# en: for matrices this small a second thread costs more than it brings
torch.set_num_threads(1 if models.is_bundled(folder) else torch.get_num_threads())
print(models.describe(folder, models.MOE_VARIABLE))

# %% [markdown] lang="zh" key="idea"
# ## 一个网络变成八个，代价是什么
#
# 第 03 课里，一层的后一半是**前馈网络**：三个矩阵，每个词元（token）各算各的。**混合专家**（mixture of experts，MoE）把它换成许多个，每个叫一个**专家**（expert）。前面再放一个**路由器**（router）：它给每个专家打分，只让分数最高的几个来算，结果按权重相加。层里别的都不变，注意力也一样。
#
# 小模型有 4 层，每层 8 个专家，每个词元用 2 个。没有人规定哪个专家管什么：每个词元在每一层重新选，分工（如果有）是训练中长出来的。
#
# **先选一个。** 和只有一个专家相比，8 个里选 2 个，要存的参数和每个词元的计算各是几倍？
#
# - A. 都是 8 倍
# - B. 参数 8 倍，计算 2 倍
# - C. 都是 2 倍

# %% [markdown] lang="en" key="idea"
# ## One network becomes eight, and the price
#
# In lesson 03 the second half of a layer is a **feed-forward network**: three matrices, for each token by itself. A **mixture of experts** (MoE) puts many such networks in its place, the **experts**. In front of them stands a **router**: it scores every expert, lets the few with the highest scores do the work, and adds up their results by weight. Nothing else in the layer changes; attention is that of lesson 03.
#
# The tiny model has 4 layers with 8 experts each, and a token uses 2. Nobody decides which expert is for what: each token chooses anew in every layer, and a division of labour, if there is one, grows in training.
#
# **Choose first.** Compare 8 experts, of which a token uses 2, with a single one. How many times as large are the parameters to store and the work for a token?
#
# - A. Both 8 times
# - B. Parameters 8 times, work twice
# - C. Both twice

# %% key="experts"
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
# zh: 再次运行时，先放掉旧模型：内存里不放两份
# en: on a second run, let go of the old model first: memory never holds two
model = weights = None
dtype = torch.float32 if models.is_bundled(folder) else None
model = qwen.load_model(folder, dtype=dtype)
weights = qwen.checkpoint_views(model.config, model.state_dict(), packed=False)
num_experts, top_k = model.config.num_experts, model.config.num_experts_per_tok


def expert(layer, number, rows):
    prefix = f"model.layers.{layer}.mlp.experts.{number}."
    gate = rows @ weights[prefix + "gate_proj.weight"].T  # (rows, moe_intermediate)
    up = rows @ weights[prefix + "up_proj.weight"].T
    return (F.silu(gate) * up) @ weights[prefix + "down_proj.weight"].T


one = 3 * model.config.hidden_size * model.config.moe_intermediate_size
print(say("参数", "parameters"), {n: n * one for n in (1, num_experts, top_k)})
l04.branches()

# %% [markdown] lang="zh" key="paper-text" facts="2.72 0.37 7.39 11.48 0.24 0.03 0.64 0.09 0.88 0.73 0.27 128"
# <details><summary>读图</summary>
#
# B。粗线是隐藏状态，一直走到底；支路上，路由器选了两个专家，结果乘上权重，加在一起，再加回粗线。八个都要存着，一个词元只经过两个；印出的是 1、8、2 个专家的参数。Qwen3-30B-A3B 每层有 128 个专家，每个词元用 8 个。
#
# </details>
#
# 函数 `expert` 就是一个专家：SwiGLU，和第 03 课的前馈网络一样，只是窄一些。`gate` 经 `F.silu` 决定 `up` 放行多少。`weights` 按检查点文件里的名字列出全部矩阵。
#
# ## 在纸上：四个分数变成两个权重
#
# 路由器只是一个没有偏置的矩阵，transformers 里叫 `gate`。它和专家里的 `gate_proj` 名字像，不是一回事。它给**全部**专家打分；分数是 logits，可正可负，还不是概率。假设有四个专家，编号 0 到 3，某个词元的分数是 1、-1、2、0，要选两个：
#
# 1. **softmax**：算 $e$ 的 1、-1、2、0 次方，得 2.72、0.37、7.39、1；各除以它们的和 11.48，得 0.24、0.03、0.64、0.09。
# 2. **top-k**：留下最大的 $k$ 个，这里是专家 2 的 0.64 和专家 0 的 0.24。
# 3. **重新归一化**：除以这两个数的和 0.88，得 0.73 和 0.27，加起来是 1。这就是**路由权重**（routing weights）。
#
# **先选一个。** 跳过第 3 步，会怎样？
#
# - A. 会选中别的专家
# - B. 专家不变，这一层的输出变小
# - C. 什么都不变

# %% [markdown] lang="en" key="paper-text" facts="2.72 0.37 7.39 11.48 0.24 0.03 0.64 0.09 0.88 0.73 0.27 128"
# <details><summary>Reading</summary>
#
# B. The thick line is the hidden state, which goes straight through. On the branch, the router has chosen two experts; what they return is multiplied by a weight, added up, and added to the thick line. All eight have to be stored, and a token passes two of them; the printed numbers are the parameters of 1, 8 and 2 experts. Qwen3-30B-A3B has 128 experts in a layer, and a token uses 8.
#
# </details>
#
# The function `expert` is one expert: SwiGLU, like the feed-forward network of lesson 03, only narrower. `gate`, through `F.silu`, is a valve that says how much of `up` goes through. `weights` lists all matrices under the names of the checkpoint's file.
#
# ## On paper: four scores become two weights
#
# The router is one matrix without a bias, called `gate` in transformers. The `gate_proj` inside an expert has a similar name and is another thing. The router scores **all** experts; the scores are logits, positive or negative, and not yet probabilities. Say there are four experts, 0 to 3, the scores of a token are 1, -1, 2, 0, and two are wanted:
#
# 1. **Softmax**: raise $e$ to each of them: 2.72, 0.37, 7.39, 1. Divide by their sum, 11.48: 0.24, 0.03, 0.64, 0.09.
# 2. **Top-k**: keep the $k$ largest, here the 0.64 of expert 2 and the 0.24 of expert 0.
# 3. **Renormalise**: divide by the sum of these two, 0.88: 0.73 and 0.27, which add up to 1. These are the **routing weights**.
#
# **Choose first.** Leave out step 3. What happens?
#
# - A. Other experts are chosen
# - B. The same experts, but the layer's output is smaller
# - C. Nothing

# %% key="paper"
torch.set_printoptions(precision=2, sci_mode=False)
scores = torch.tensor([1.0, -1.0, 2.0, 0.0])  # (num_experts,)
probabilities = scores.softmax(dim=-1)
largest, chosen = probabilities.topk(2)
print(probabilities, chosen, largest / largest.sum(), sep="\n")
# zh: 只对选中的分数做 softmax，也得到同样的权重
# en: a softmax over the chosen scores alone gives the same weights
torch.testing.assert_close(largest / largest.sum(), scores[chosen].softmax(dim=-1))

# %% [markdown] lang="zh" key="real-text"
# <details><summary>读结果</summary>
#
# B。选谁只看哪个大，第 3 步在选完之后；少了它，权重加起来只有 0.88，输出就小一截。[Qwen1.5-MoE](https://huggingface.co/Qwen/Qwen1.5-MoE-A2.7B/blob/main/config.json) 和 [Qwen2-MoE](https://huggingface.co/Qwen/Qwen2-57B-A14B/blob/main/config.json) 跳过它，Qwen3-MoE 不跳：开关是 `config.json` 里的 `norm_topk_prob`。
#
# </details>
#
# ## 真实的路由器
#
# 下一格让小模型读一道题，用**钩子**（hook）记下进入第 0 层混合专家的隐藏状态，再交给这一层的 `gate`。每个词元各选各的，所以先把所有句子的词元摊成一堆：`(batch * seq, hidden)`。

# %% [markdown] lang="en" key="real-text"
# <details><summary>Reading</summary>
#
# B. Who is chosen depends on who is largest, and step 3 comes after the choice. Without it the weights add up to 0.88 only, and the output shrinks. [Qwen1.5-MoE](https://huggingface.co/Qwen/Qwen1.5-MoE-A2.7B/blob/main/config.json) and [Qwen2-MoE](https://huggingface.co/Qwen/Qwen2-57B-A14B/blob/main/config.json) leave it out, Qwen3-MoE does not: the switch is `norm_topk_prob` in `config.json`.
#
# </details>
#
# ## A real router
#
# In the next cell the tiny model reads a problem. A **hook** keeps the hidden states that enter the mixture of experts of layer 0, and they go to the `gate` of that layer. Each token chooses for itself, so the tokens of all sentences are put on one pile first: `(batch * seq, hidden)`.

# %% key="router"
question = [{"role": "user", "content": "37×46=?"}]
input_ids = tokenizer.apply_chat_template(
    question, add_generation_prompt=True, return_dict=True, return_tensors="pt"
).input_ids.to(model.embed_tokens.weight.device)  # (1, seq)
seen, block = [], model.layers[0].mlp
hook = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
logits = model(input_ids)
hook.remove()
tokens = seen[0].flatten(0, 1)  # (batch * seq, hidden)
router_logits = tokens @ weights["model.layers.0.mlp.gate.weight"].T
print(tuple(seen[0].shape), tuple(tokens.shape), tuple(router_logits.shape))
# zh: 词元从 0 数起，第 5 个是 ×
# en: tokens count from 0, and number 5 is ×
l04.three_steps(router_logits[5], top_k)

# %% [markdown] lang="zh" key="ex1-text"
# 读图：词元 `×` 的三步。一根柱是一个专家，彩色的被选中。左边的分数有正有负；中间加起来是 1，没选中的也占了一份；右边只剩选中的。
#
# ### 练习 1 ★☆☆（5 分钟）：写出路由器
#
# `router_logits` 的形状是 `(tokens, num_experts)`；返回路由权重和专家编号，都是 `(tokens, top_k)`，权重大的在前，每个词元的权重加起来等于 1。
#
# <details><summary>提示</summary>
#
# 把纸上的三步搬过来。这里每个词元一行：求和要沿着最后一维，用 `keepdim=True` 留住它。
#
# </details>

# %% [markdown] lang="en" key="ex1-text"
# How to read it: the three steps for the token `×`; a bar is an expert, those in colour are chosen. The scores on the left are positive or negative. In the middle everything adds up to 1, and the experts that were not chosen hold a part of it. On the right only the chosen are left.
#
# ### Exercise 1 ★☆☆ (5 minutes): write the router
#
# `router_logits` has the shape `(tokens, num_experts)`; return routing weights and expert ids, both `(tokens, top_k)`, the heaviest first, with weights that add up to 1 for each token.
#
# <details><summary>Hint</summary>
#
# Take over the three steps from the paper. There is a row for each token here: sum along the last dimension, and keep it with `keepdim=True`.
#
# </details>


# %% key="ex1" tags=["exercise"]
def choose_experts(router_logits, top_k):
    return ...


# %% key="ex1-solution" tags=["solution"]
def choose_experts(router_logits, top_k):  # noqa: F811
    routing_weights, expert_ids = router_logits.softmax(dim=-1).topk(top_k, dim=-1)
    return routing_weights / routing_weights.sum(dim=-1, keepdim=True), expert_ids


# %% key="ex1-check"
l04.ex1.check(choose_experts)

# %% [markdown] lang="zh" key="loop-text"
# ## 遍历专家，而不是遍历词元
#
# 权重有了，该算了。遍历词元最直接：每个词元、每个选中的专家，各算一次，可是矩阵乘法又多又小。反过来遍历专家：把选了它的词元收到一起，一次算完，再加回原位。
#
# 先练两样工具。`torch.where(expert_ids == 2)` 给出两串编号：先是**词元**，后是**名次**（slot），也就是专家 2 是这个词元的第几选择，从 0 数起。`index_add_` 把几行**加**到指定的位置，同一个位置收到几行就加几行。
#
# **先选一个。** 这句话有 15 个词元，每个选 2 个专家。遍历专家，最多要调用专家几次？
#
# - A. 30 次
# - B. 15 次
# - C. 8 次

# %% [markdown] lang="en" key="loop-text"
# ## Loop over experts, not over tokens
#
# The weights are there; now the work. The direct way is to loop over tokens: one call for each token and each expert that it chose. That makes many small matrix products. Loop over experts instead: gather the tokens that chose this one, run them at once, and add the results back where they belong.
#
# Two tools first. `torch.where(expert_ids == 2)` gives two lists: first the **tokens**, then the **slots**: which choice of that token expert 2 was, counted from 0. `index_add_` **adds** rows at given places; where several rows go to one place, all of them are added.
#
# **Choose first.** This text has 15 tokens, and each chooses 2 experts. Looping over experts, how many calls are there at most?
#
# - A. 30
# - B. 15
# - C. 8

# %% key="tools"
# zh: 模型自己的路由器给出权重、编号和分数，这里只要编号
# en: the model's own router gives weights, ids and scores; here the ids alone
_, expert_ids, _ = model.layers[0].mlp.router(tokens)  # (tokens, top_k)
token, slot = torch.where(expert_ids == 2)
print("token:", token.tolist())
print("slot: ", slot.tolist())
total = torch.zeros(3, 2).index_add_(0, torch.tensor([0, 2, 0]), torch.ones(3, 2))
print(total)
print(say("选中过的专家：", "experts chosen:"), expert_ids.unique().tolist())

# %% [markdown] lang="zh" key="ex2-text"
# <details><summary>读结果</summary>
#
# C。30 次选择分给 8 个专家，每个专家一次算完。`index_add_` 的第 0 行收到两次，所以是 2。
#
# 一起算的词元够多，几乎每个专家都会用到；生成时一步只有一个词元，只用 2 个专家。没人选的专家不必算。
#
# </details>
#
# ### 练习 2 ★★★（15 分钟）：写出遍历专家的循环
#
# `tokens` 是 `(tokens, hidden)`；`routing_weights` 和 `expert_ids` 都是 `(tokens, top_k)`；`experts` 是函数的列表，`experts[3](rows)` 把 `(rows, hidden)` 变成同样的形状。返回和 `tokens` 一样的形状：每个词元选中的专家的结果，乘上权重，加起来。
#
# 次序：从全零的输出开始；对每个专家，找出选了它的词元；一起算；乘权重；加回去。
#
# <details><summary>提示</summary>
#
# - 全零的输出：`torch.zeros_like(tokens)`。
# - 一个专家的结果有 `hidden` 列，权重只有一列：`routing_weights[token, slot, None]`，最后的 `None` 给它添上这一维。
# - `output.index_add_(0, token, rows)` 直接改动 `output`。
#
# </details>

# %% [markdown] lang="en" key="ex2-text"
# <details><summary>Reading</summary>
#
# C. There are 30 choices, shared by 8 experts, and each expert is run once. Row 0 of `index_add_` received twice, hence the 2.
#
# Where many tokens are computed together, nearly every expert is in use. Where a model writes one token after the other, a step uses 2. An expert that nobody chose need not run.
#
# </details>
#
# ### Exercise 2 ★★★ (15 minutes): write the loop over experts
#
# `tokens` is `(tokens, hidden)`; `routing_weights` and `expert_ids` are `(tokens, top_k)`; `experts` is a list of functions, and `experts[3](rows)` turns `(rows, hidden)` into the same shape. Return the shape of `tokens`: for each token what its experts return, multiplied by their weights and added up.
#
# The order: start with an output of zeros; for each expert find the tokens that chose it; run them together; multiply by the weights; add them back.
#
# <details><summary>Hint</summary>
#
# - The output of zeros: `torch.zeros_like(tokens)`.
# - What an expert returns has `hidden` columns, a weight has one: `routing_weights[token, slot, None]`, where the `None` at the end adds that dimension.
# - `output.index_add_(0, token, rows)` changes `output` itself.
#
# </details>


# %% key="ex2" tags=["exercise"]
def run_experts(tokens, routing_weights, expert_ids, experts):
    return ...


# %% key="ex2-solution" tags=["solution"]
def run_experts(tokens, routing_weights, expert_ids, experts):  # noqa: F811
    output = torch.zeros_like(tokens)
    for expert in expert_ids.unique().tolist():
        token, slot = torch.where(expert_ids == expert)
        rows = experts[expert](tokens[token])
        output.index_add_(0, token, rows * routing_weights[token, slot, None])
    return output


# %% key="ex2-check"
l04.ex2.check(run_experts)

# %% [markdown] lang="zh" key="plug-text"
# ## 装进现成的模型
#
# 下一格把每一层的混合专家换成你的两个函数，矩阵还是训练好的那些。`partial(expert, 0, 3)` 是已经填好层和编号的 `expert`，只差词元。transformers 源码里这一层叫 `Qwen3MoeSparseMoeBlock`，那里的分数也先转成 float32 再做 softmax，因为真正的模型用 bfloat16。练习还没解出来时，这里先用参考答案。

# %% [markdown] lang="en" key="plug-text"
# ## Put it into the ready model
#
# The next cell puts your two functions in the place of every mixture of experts; the trained matrices stay. `partial(expert, 0, 3)` is `expert` with layer and number filled in; only the tokens are missing. In the sources of transformers this layer is `Qwen3MoeSparseMoeBlock`. There, too, the scores become float32 before the softmax, since real models run in bfloat16. As long as an exercise is not solved, the reference answer stands in.


# %% key="plug" tags=["raw"]
from functools import partial


class YourMoe(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.gate = weights[f"model.layers.{layer}.mlp.gate.weight"]
        self.experts = [partial(expert, layer, number) for number in range(num_experts)]

    def forward(self, hidden_states):
        tokens = hidden_states.flatten(0, 1)  # (batch * seq, hidden)
        router_logits = tokens @ self.gate.T  # (batch * seq, num_experts)
        routing_weights, expert_ids = router(router_logits.float(), top_k)
        routing_weights = routing_weights.to(tokens.dtype)
        output = loop(tokens, routing_weights, expert_ids, self.experts)
        return output.view_as(hidden_states)  # (batch, seq, hidden)


router, loop = l04.yours_or_ours(choose_experts, run_experts)
ready = [layer.mlp for layer in model.layers]
for number, layer in enumerate(model.layers):
    layer.mlp = YourMoe(number)
difference = (model(input_ids) - logits).abs().max() / logits.abs().max()
print(say("logits 相差", "logits differ by"), f"{difference:.0e}")
print(tokenizer.decode(model.generate(input_ids)[0]))
for number, layer in enumerate(model.layers):
    layer.mlp = ready[number]
assert difference < (1e-5 if models.is_bundled(folder) else 5e-2)

# %% [markdown] lang="zh" key="explorer-text"
# 差别至多是浮点误差。这就是 Qwen3-MoE 的混合专家，没有别的了。（`1702` 出自教学用的小模型。现成的模型是课程的 `helpers/qwen.py`；和 transformers、vLLM 的对照在[附录 A2](../zh/A2_experts_in_depth.ipynb)。）
#
# ## 你的一句话走过哪些专家
#
# 下一格让小模型答三个问题，记下它读到的每个词元在每一层选了谁、权重多少。把 `sentence` 换成你自己的话，再运行一遍。
#
# **先选一个。** 问题“什么是 MoE”和它的回答“MoE 是混合专家”里各有一个“是”。它们在各层选的专家都一样吗？
#
# - A. 都一样：字一样，专家就一样
# - B. 不都一样

# %% [markdown] lang="en" key="explorer-text"
# At most rounding is left. That is all of Qwen3-MoE's mixture of experts. (The `1702` is that of a tiny teaching model. The ready model is the course's `helpers/qwen.py`; [appendix A2](../en/A2_experts_in_depth.ipynb) holds it against transformers and vLLM.)
#
# ## Which experts your sentence passes
#
# In the next cell the tiny model answers three questions, and the trace keeps, for every token that it read, the experts and weights of each layer. Put a text of your own in the place of `sentence` and run it again.
#
# **Choose first.** The character 是 ("is") occurs twice, in the question "什么是 MoE" and in its answer, "MoE 是". Does it take the same experts in every layer?
#
# - A. Yes: the same character, the same experts
# - B. Not all of them

# %% key="explorer"
from helpers.explorer import RoutingExplorer

sentence = "37×46=?"
trace = routing.capture_conversation(
    model, tokenizer, ["什么是 MoE？", "What does the router do?", sentence]
)
for place, text in enumerate(trace.texts):
    if text == "是":
        print(text, trace.expert_ids[:, place].tolist())
# zh: 多少个数字选了第 0 层的专家 1、第 2 层的专家 6：下一节要用
# en: how many digits chose expert 1 of layer 0, expert 6 of layer 2: for the next section
digits = [place for place, text in enumerate(trace.texts) if text.isdigit()]
for layer, number in ((0, 1), (2, 6)):
    took = [place for place in digits if number in trace.expert_ids[layer, place]]
    print((layer, number), len(took), "/", len(digits))
RoutingExplorer(trace, token=trace.prompt_length + 2)

# %% [markdown] lang="zh" key="off-text"
# <details><summary>读结果</summary>
#
# B。一行一个“是”，从第 0 层到第 3 层，权重大的在前。前两层的第一选择相同，后两层不同：进入路由器的不只是这个字，还有注意力从上文取来的东西。
#
# </details>
#
# 点一个词元，看它的专家和权重；上下键换层；点一个专家，只突出选了它的词元。课程网站上不用内核也能点，还能写自己的话。
#
# 记住三点：被选中只说明相关，不是因果；不同层里编号相同的专家互不相干；这只是一段文字、一个教学用的小模型，说明不了真正的 Qwen3。
#
# ## 关掉一个专家
#
# 要知道一个专家有什么用，就关掉它：路由器不许选它，词元改去下一名。上一格最后两行，括号里是层和专家：第 0 层的专家 1，42 个数字个个都选它；第 2 层的专家 6，只有 19 个选它。
#
# **先选一个。** 分别关掉这两个，哪一次 `37×46` 会算错？
#
# - A. 关掉个个都选的那个
# - B. 关掉只有 19 个选的那个
# - C. 两次都错
# - D. 两次都对：别的专家会补上

# %% [markdown] lang="en" key="off-text"
# <details><summary>Reading</summary>
#
# B. A line is one 是, from layer 0 to layer 3, the heaviest expert first. Its first choice is the same in the first two layers and differs in the last two: what enters the router is more than the character; attention has fetched something from the text before it.
#
# </details>
#
# Click a token for its experts and weights; up and down change the layer; click an expert to highlight the tokens that took it. On the course's site this works without a kernel, and takes a text of your own.
#
# Mind three things. Being chosen shows association, not a cause. Experts with the same number in different layers have nothing to do with each other. And this is one text through one tiny teaching model; it says nothing about a real Qwen3.
#
# ## Switch one expert off
#
# To find out what an expert is good for, switch it off: the router must not choose it, and its tokens go to the next best. The last two lines above hold layer and expert in brackets. All 42 digits choose expert 1 of layer 0; only 19 choose expert 6 of layer 2.
#
# **Choose first.** Switch off one of the two at a time. Which makes `37×46` wrong?
#
# - A. The one that all choose
# - B. The one that only 19 choose
# - C. Either
# - D. Neither: the others step in

# %% key="off" tags=["raw"]
from helpers.experts import expert_off

for layer, number in ((0, 1), (2, 6)):
    with expert_off(model, layer, number):
        written = model.generate(input_ids)[0, input_ids.shape[1] :]
    print(say("没有", "without"), (layer, number), tokenizer.decode(written))

# %% [markdown] lang="zh" key="sizes-text"
# <details><summary>读结果</summary>
#
# B。关掉个个都选的那个，答案还是 `1702`；关掉只有 19 个选的那个，`37×40` 先错了，答案跟着错。**常被选中，不等于离不开。**
#
# 现在你来改：换一层，换一个专家。一道题说明不了多少：[附录 A2](../zh/A2_experts_in_depth.ipynb) 把 32 个专家逐个关掉，量损失涨了多少。
#
# </details>
#
# ## 显存看总数，计算看激活
#
# 名字里的 30B-A3B 是两个数（B 是十亿）：一共约 30B 参数，每个词元**激活**（用到）约 3B。
#
# **先选一个。** 30B-A3B 逐个写出词元，bf16 的权重（每个参数 2 字节）要占多少显存？
#
# - A. 约 6 GiB：一个词元只用 3B
# - B. 约 57 GiB：全部都要

# %% [markdown] lang="en" key="sizes-text"
# <details><summary>Reading</summary>
#
# B. Without the one that all choose, the answer is still `1702`. Without the one that only 19 choose, `37×40` goes wrong first and the answer after it. **Often chosen is not the same as needed.**
#
# Now change it: another layer, another expert. One problem shows little: [appendix A2](../en/A2_experts_in_depth.ipynb) switches off 32 experts one by one and measures by how much the loss rises.
#
# </details>
#
# ## Memory goes by the total, work by the active
#
# The name 30B-A3B holds two numbers (B is a billion): about 30B parameters in all, of which a token **activates** (uses) about 3B.
#
# **Choose first.** 30B-A3B writes one token after the other. How much GPU memory do its weights take in bf16, at 2 bytes a parameter?
#
# - A. About 6 GiB: a token uses 3B only
# - B. About 57 GiB: all of them

# %% key="sizes"
config = catalogue.CATALOGUE["Qwen/Qwen3-30B-A3B"].config
one = 3 * config["hidden_size"] * config["moe_intermediate_size"]
idle = config["num_experts"] - config["num_experts_per_tok"]
total = catalogue.parameters(config)
active = total - config["num_hidden_layers"] * idle * one
print(f"{total / 1e9:.2f} B, {2 * total / GIB:.1f} GiB")
print(f"{active / 1e9:.2f} B, {2 * active / GIB:.1f} GiB")

# %% [markdown] lang="zh" key="shared-text"
# <details><summary>读结果</summary>
#
# B。第一行是全部，第二行是一个词元用到的。下一个词元会选别的专家，所以全部都要在显存里；算得快慢主要看第二行。30.53B 和 3.35B 对应[模型卡](https://huggingface.co/Qwen/Qwen3-30B-A3B)上的 30.5B 和 3.3B（后者没有四舍五入）。
#
# </details>
#
# ## Qwen3 没有共享专家
#
# Qwen2-MoE 的每一层还有一个**共享专家**（shared expert）：不归路由器管，每个词元都经过它，结果乘上一个 0 到 1 之间的数（阀门），再加进来。Qwen3-MoE 去掉了它。常有人说这样更快，[技术报告](https://arxiv.org/abs/2505.09388)没有这样说。`Qwen1.5-MoE-A2.7B` 有共享专家，激活 2.7B；30B-A3B 没有，激活的反而更多。阀门怎么写，见附录 A2。

# %% [markdown] lang="en" key="shared-text"
# <details><summary>Reading</summary>
#
# B. The first line is all parameters, the second those that one token uses. The next token chooses other experts, so all of them have to be in GPU memory; speed goes mainly by the second line. 30.53B and 3.35B are the 30.5B and 3.3B on the [model card](https://huggingface.co/Qwen/Qwen3-30B-A3B), which cuts the second instead of rounding it.
#
# </details>
#
# ## Qwen3 has no shared expert
#
# In Qwen2-MoE every layer also has a **shared expert**. The router has no say in it: every token passes through it, and what it returns is multiplied by a number between 0 and 1, its valve, and added. Qwen3-MoE dropped it. It is often said that this makes it faster; the [report](https://arxiv.org/abs/2505.09388) does not say so. `Qwen1.5-MoE-A2.7B` has a shared expert and activates 2.7B; 30B-A3B has none and activates more. For the valve in code see appendix A2.

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - 一个前馈网络换成许多专家，路由器为每个词元、每一层选几个：参数随专家数增加，计算只随选中的几个增加。
# - 路由器三步：对全部专家做 softmax，取 top-k，重新归一化。
# - 遍历专家：词元收到一起，算一次，乘权重，用 `index_add_` 加回去。
# - 显存看总参数，快慢主要看激活参数；Qwen3-MoE 没有共享专家。
# - 常被选中不等于离不开。
#
# ## 自测
#
# 1. `norm_topk_prob` 从真改成假，会选中别的专家吗？输出会变吗？
# 2. 两句话一起算，路由器的输出是几维？一句的路由会受另一句影响吗？
# 3. 为什么用 `index_add_`，不用赋值？
# 4. 30B-A3B 一步只用 3.35B 参数，为什么要 57 GiB 显存？
# 5. 一张图说某个专家处理了九成的数字，能说它“负责算术”吗？
#
# <details><summary>答案</summary>
#
# 1. 不会；权重之和小于 1，输出变小。
# 2. 两维；不受影响，每个词元只看自己的隐藏状态。
# 3. 一个词元从几个专家那里各收一份，赋值只留下最后一份。
# 4. 哪个专家都可能被下一个词元选中，全部都要在显存里。
# 5. 不能。处理得多，不等于离不开：要关掉它看一看，还要和没训练过的路由器比一比（附录 A2）。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | 输出偏小，文字还通顺 | `norm_topk_prob` 用了默认值：假 | 从 `config.json` 读 |
# | 同一句里别的词元一变，这个词元的路由也变 | softmax 沿着词元做了 | `dim=-1` |
# | 每个词元只得到一个专家的结果 | 用赋值代替了累加 | `index_add_` |
# | `'Qwen3MoeExperts' object is not subscriptable` | 用 transformers 4.x 的写法 `experts[0]` | 5.x 取 `experts.gate_up_proj[0]` |

# %% [markdown] lang="en" key="recap"
# ## Recap
#
# - Many experts stand in the place of one feed-forward network; for each token, in each layer, a router chooses a few. Parameters grow with the number of experts; work grows only with the few that are chosen.
# - The router takes three steps: a softmax over all experts, top-k, renormalise.
# - Loop over experts: gather, run once, multiply by the weights, add back with `index_add_`.
# - Memory goes by total parameters, speed mainly by active ones; Qwen3-MoE has no shared expert.
# - Often chosen is not the same as needed.
#
# ## Test yourself
#
# 1. Turn `norm_topk_prob` from true to false: are other experts chosen? Does the output change?
# 2. Two sentences are computed together. How many dimensions does the router's output have, and does one sentence influence the routing of the other?
# 3. Why `index_add_` and not an assignment?
# 4. 30B-A3B uses 3.35B parameters a step. Why does it take 57 GiB of GPU memory?
# 5. A picture says that one expert gets nine in ten digits. Is it "in charge of arithmetic"?
#
# <details><summary>Answers</summary>
#
# 1. No other experts; the weights add up to less than 1, so the output shrinks.
# 2. Two; no, each token looks at its own hidden state only.
# 3. A token receives a share from several experts; an assignment keeps the last one only.
# 4. The next token may choose any expert, so all have to be in GPU memory.
# 5. No. Much work does not make it indispensable: switch the expert off and see, and compare with an untrained router (appendix A2).
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | outputs too small, text still fluent | `norm_topk_prob` left at its default, false | read it from `config.json` |
# | the routing of a token changes with the other tokens of its sentence | the softmax runs over tokens | `dim=-1` |
# | every token has the result of one expert only | assignment instead of a sum | `index_add_` |
# | `'Qwen3MoeExperts' object is not subscriptable` | `experts[0]`, as in transformers 4.x | in 5.x take `experts.gate_up_proj[0]` |

# %% [markdown] lang="zh" key="recorded-text" tags=["extra"]
# ## 真正的 Qwen3-30B-A3B（选读）
#
# 同样的轨迹可以从真正的模型录下来。在一张 80 GB 的 GPU 上（bf16 的权重要 57 GiB），下载之后一条命令：
#
# ```bash
# python -m helpers.download Qwen/Qwen3-30B-A3B
# python -m helpers.routing Qwen/Qwen3-30B-A3B --max-new-tokens 2048
# ```
#
# 它把同样的三个问题交给模型，轨迹存到 `assets/recorded/Qwen3-30B-A3B/routing.npz`，下一格用上面那种可以点的图打开它。真正的模型想得长得多，所以每个回答留了 2048 个词元。还没有在 GPU 上跑过。

# %% [markdown] lang="en" key="recorded-text" tags=["extra"]
# ## The real Qwen3-30B-A3B (extra)
#
# The same trace can be recorded from a real model. On a GPU with 80 GB (the bf16 weights take 57 GiB), after the download it is one command:
#
# ```bash
# python -m helpers.download Qwen/Qwen3-30B-A3B
# python -m helpers.routing Qwen/Qwen3-30B-A3B --max-new-tokens 2048
# ```
#
# It asks the model the same three questions and saves the trace as `assets/recorded/Qwen3-30B-A3B/routing.npz`, which the next cell opens in an explorer like the one above. A real model thinks far longer, hence room for 2048 tokens in each answer. It has not been run on a GPU yet.

# %% key="recorded" tags=["extra"]
from IPython.display import display

files = sorted((ROOT / "assets" / "recorded").glob("*/routing.npz"))
for file in files:
    display(RoutingExplorer(routing.RoutingTrace.load(file)))
if not files:
    print(say("真正的 Qwen3：还没有记录", "a real Qwen3: not recorded yet"))

# %% key="release" tags=["extra"]
# zh: 放掉模型，给最后一格的代码腾出内存
# en: let go of the model and make room for the code of the last cell
import gc

model = weights = ready = layer = tokens = seen = hook = block = None
gc.collect()
if torch.cuda.is_available():
    torch.cuda.empty_cache()

# %% [markdown] lang="zh" key="copy-me-text" tags=["extra"]
# ## 可以直接拿走的代码（选读）
#
# 下一格不依赖本课程：给它任何一个 Qwen3-MoE 的文件夹，它用 transformers 读一段文字，数出并画出每一层每个专家的负载。没有设 `COURSE_MOE_MODEL` 时，它只说一句话。再往前一格放掉了模型，给它腾出内存。

# %% [markdown] lang="en" key="copy-me-text" tags=["extra"]
# ## Code to take away (extra)
#
# The next cell needs nothing of this course: give it the folder of any Qwen3-MoE, and it reads a text with transformers, counts the load of every expert in every layer and draws it. With no `COURSE_MOE_MODEL` set, it says one sentence. The cell before it let go of the model, to make room.

# %% key="copy-me" tags=["copy-me", "extra", "raw"]
import os
from pathlib import Path

MODEL = os.environ.get("COURSE_MOE_MODEL", "Qwen/Qwen3-30B-A3B")
TEXT = "混合专家为每个词元选出几个专家。 "
TEXT += "A mixture of experts picks a few experts for each token. 37×46=1702"


def expert_load(folder, text):
    """Tokens that each expert got, (layers, num_experts)."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    counts = []

    def count(gate, inputs, output):
        # transformers 5.x, 4.x
        logits = output[0] if isinstance(output, tuple) else output
        chosen = logits.topk(model.config.num_experts_per_tok, dim=-1).indices
        tokens = chosen.flatten().bincount(minlength=model.config.num_experts)
        counts.append(tokens.cpu())

    hooks = []
    for name, module in model.named_modules():
        if name.endswith(".mlp.gate"):
            hooks.append(module.register_forward_hook(count))
    with torch.inference_mode():
        model(tokenizer(text, return_tensors="pt").input_ids.to(model.device))
    for hook in hooks:
        hook.remove()
    return torch.stack(counts) if counts else None


load = None
if not Path(MODEL, "config.json").is_file():
    print(f"No config.json in {MODEL}: set COURSE_MOE_MODEL to a checkpoint's folder.")
else:
    load = expert_load(MODEL, TEXT)
    if load is None:
        print(f"{MODEL} has no experts: it is a dense model.")
if load is not None:
    import matplotlib.pyplot as plt

    for layer, row in enumerate(load.tolist()):
        busiest = f"busiest expert {row.index(max(row))} ({max(row)} tokens)"
        print(f"layer {layer}: {busiest}, never used: {row.count(0)}")
    plt.imshow(load, aspect="auto", cmap="viridis")
    plt.xlabel("expert")
    plt.ylabel("layer")
    plt.colorbar(label="tokens")
    plt.show()

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - [附录 A2](../zh/A2_experts_in_depth.ipynb)：和 transformers、vLLM 逐层对照，共享专家的阀门，负载均衡损失，怎样怀疑一张热图
# - [Qwen3 技术报告](https://arxiv.org/abs/2505.09388)，第 2 节；稀疏门控的混合专家：[Shazeer 等](https://arxiv.org/abs/1701.06538)
# - transformers 源码：[`modeling_qwen3_moe.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/models/qwen3_moe/modeling_qwen3_moe.py)
#
# 下一课：用 vLLM 离线推理，让模型成批地回答。

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - [Appendix A2](../en/A2_experts_in_depth.ipynb): layer by layer beside transformers and vLLM, the shared expert's valve, the load-balancing loss, how to doubt a heat map
# - [Qwen3 report](https://arxiv.org/abs/2505.09388), section 2; sparsely gated mixtures of experts: [Shazeer et al.](https://arxiv.org/abs/1701.06538)
# - The source in transformers: [`modeling_qwen3_moe.py`](https://github.com/huggingface/transformers/blob/main/src/transformers/models/qwen3_moe/modeling_qwen3_moe.py)
#
# Next: offline inference with vLLM, where the model answers whole batches.
