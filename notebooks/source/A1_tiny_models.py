# %% [markdown] lang="zh" key="title"
# # A1 · 小模型是怎样造出来的
#
# | | |
# |---|---|
# | 学完能做 | 自己造一份训练数据并留出考题；说清一条对话里哪些词元算损失；读懂损失曲线和专家负载曲线；现场训练一个会做加法的小 Qwen3 |
# | 先修 | 第 03 课；思考和思考预算用到第 06 课，专家负载一节用到第 04 课，均衡损失的来历在附录 A2 |
# | 时间 | 主线 50 分钟；标着“选读”的再加 25 分钟 |
# | 硬件 | 任意 Linux CPU，内存 4 GB 以上 |
# | 模型 | 课程自带的两个小模型 |

# %% [markdown] lang="en" key="title"
# # A1 · How the tiny models were made
#
# | | |
# |---|---|
# | You will be able to | make training data and hold questions back for the exam; say which tokens of a conversation carry loss; read loss curves and expert-load curves; train a small Qwen3 live until it adds |
# | Prerequisites | lesson 03; for thinking and its budget, lesson 06; for the expert load, lesson 04, and appendix A2 for the load-balancing loss |
# | Time | 50 minutes for the main path; 25 more for what is marked "extra" |
# | Hardware | any Linux CPU with 4 GB of memory |
# | Model | the two bundled tiny models |

# %% key="setup"
import random

from helpers import ROOT, catalogue, models
from helpers.checkpoint import Checkpoint
from helpers.language import LANGUAGE, say
from helpers.lessons import lA1
from helpers.lessons.lA1 import recipe

# %% [markdown] lang="zh" key="intro"
# 课程里每一格都能在一台没有 GPU 的机器上真的运行，靠的是两个很小的 Qwen3。它们不是下载来的，也没有用过别的模型的输出：数据、分词器、对话模板、权重，全都由 `helpers/lessons/lA1` 里和它旁边的几个文件造出来，一共四步：
#
# ```text
# mix.py 造对话 → tokenizer.py 训练分词器 → chat_template.jinja 拼成文本 → recipe.py 训练
# ```
#
# 真正的 Qwen3 读过 36 万亿个词元（[技术报告](https://arxiv.org/abs/2505.09388)），能力从规模里来。小模型没有规模，每一样本事都要**专门为它造数据**。所以这一课也是一份坦白书：哪些现象是造出来的，哪些没有人教过。
#
# **选读。** 两个里有一个是混合专家（MoE）：每层 8 个专家，一个词元用 2 个。
#
# **先选一个（选读）。** 它的参数，一个词元用到多少？
#
# - A. 四分之一：8 个里的 2 个
# - B. 四成多
# - C. 全部

# %% [markdown] lang="en" key="intro"
# Every cell of this course really runs on a machine without a GPU, thanks to two very small Qwen3 models. They were downloaded from nowhere and saw no other model's output: data, tokenizer, chat template and weights all come from a few files in and beside `helpers/lessons/lA1`, in four steps:
#
# ```text
# mix.py makes conversations → tokenizer.py trains a tokenizer → chat_template.jinja joins them into text → recipe.py trains
# ```
#
# The real Qwen3 has read 36 trillion tokens ([report](https://arxiv.org/abs/2505.09388)); its abilities come with scale. A tiny model has no scale: for each thing it can do, **data was made on purpose**. So this lesson is a confession too: which effects were built in, and which nobody taught.
#
# **Extra.** One of the two is a mixture of experts (MoE): 8 experts in each layer, of which a token uses 2.
#
# **Choose first (extra).** What share of its parameters does one token use?
#
# - A. A quarter: 2 of 8
# - B. A little more than two fifths
# - C. All of them

# %% key="sizes" tags=["extra"]
folders = {name: models.find_checkpoint(name) for name in recipe.MODELS}
for name, folder in folders.items():
    config = Checkpoint(folder).config
    total = catalogue.parameters(config)
    active = catalogue.parameters(config, active=True)
    megabytes = (folder / "model.safetensors").stat().st_size / 1e6
    # zh: 参数，一个词元用到的参数，bf16 的文件大小
    # en: parameters, those that one token uses, size of the file in bf16
    print(f"{name:<15} {total:>9,} {active:>9,} {megabytes:.1f} MB")
    # zh: 每个参数两个字节，外加一个小小的文件头
    # en: two bytes each, and a small header
    assert abs(megabytes * 1e6 / (2 * total) - 1) < 0.02

# %% [markdown] lang="zh" key="data-text"
# <details><summary>读输出</summary>
#
# B：1,358,496 除以 3,201,696。专家用到四分之一，可是嵌入、注意力和路由器每个词元都要用。
#
# </details>
#
# ## 数据：一条样本是一段对话
#
# 一条样本有四部分：用户说的话、助手应当写的思考、助手应当写的答案，以及批改用的标准答案。算术题的思考由程序一步步写出来；问答、首都和小故事来自 `helpers/lessons/texts.toml` 里人写的句子。
#
# **先选一个。** 下一格打印六类样本。哪些思考里真的算了什么？
#
# - A. 每一类
# - B. 只有算术
# - C. 哪一类都没有

# %% [markdown] lang="en" key="data-text"
# <details><summary>Reading</summary>
#
# B: 1,358,496 of 3,201,696. Of the experts it is a quarter, but every token uses embedding, attention and router.
#
# </details>
#
# ## Data: a sample is a conversation
#
# A sample has four parts: what the user says, the thought that the assistant should write, the answer that it should write, and the key for marking it. Thoughts about arithmetic are written by a program, step by step; course questions, capitals and stories come from sentences that people wrote, in `helpers/lessons/texts.toml`.
#
# **Choose first.** The next cell prints samples of six kinds. In which does the thought compute something?
#
# - A. In all of them
# - B. In arithmetic only
# - C. In none

# %% key="samples"
rng, lang = random.Random(6), LANGUAGE or "zh"
samples = [lA1.arithmetic(kind, rng, form=lang) for kind in ("product", "sum", "chain")]
samples.append(lA1.course_question(rng, language=lang))
samples.append(lA1.capital(rng, language=lang))
samples.append(lA1.honest(rng, language=lang))
for sample in samples:
    question, thought = sample.messages[-1]["content"], sample.thought
    print(f"{sample.task:<8} {question}")
    # zh: 思考的几行写在一行里
    # en: the lines of the thought, written in one
    thought = thought.replace("\n", "; ")
    print(f"{'':8} <think> {thought} </think>  {sample.answer}")
    if sample.expected is not None:
        assert sample.answer.rstrip("。.").endswith(sample.expected)

# %% [markdown] lang="zh" key="samples-read" facts="11"
# <details><summary>读输出</summary>
#
# B。算术的思考里写着中间结果，最后一步就是答案；问首都、问课程的思考只是一句客套话，什么也没算。
#
# </details>
#
# 第 06 课里“思考对算术有用，对回忆没用”，就是这样**造出来的**。真正的 Qwen3 没有人这样规定；它的思考来自后训练（预训练之后的那一段）。
#
# 最后一类叫 honest：遇到没学过的问题，答“不知道”。诚实也要专门教：加练之前，MoE 小模型对 100 个怪问题还一本正经地编了 11 个答案。
#
# ## 留出考题
#
# 会背不等于会算。要知道它会不会算，就得有训练时**从没出现过**的题。两位数乘法只有 4,095 道（不计先后），随手抽题来训练，考题迟早会混进去；只按文字去重也不够，`37×46=?` 和“46 乘以 37 等于多少？”是同一道题。所以按**数**来分：先把操作数排好序，再算摘要（SHA-256：同样的文字总得到同样的一串字节，看上去却像随机的），按摘要留出八分之一的题；它们永远不进训练，不管用什么说法问。

# %% [markdown] lang="en" key="samples-read" facts="11"
# <details><summary>Reading</summary>
#
# B. Thoughts about arithmetic hold the intermediate results, and their last step is the answer. Thoughts about capitals and course questions are a polite phrase that computes nothing.
#
# </details>
#
# Lesson 06 measures that thinking helps arithmetic and not recall. It was **built in** this way. Nobody laid it down for the real Qwen3, whose thinking comes from post-training (the stage after pre-training).
#
# The last kind is called honest: to a question outside its texts, the answer is "I do not know". Honesty has to be taught too: before some extra practice, the tiny MoE still made up answers to 11 of 100 strange questions.
#
# ## Hold questions back for the exam
#
# Knowing by heart is not computing. To see whether a model computes, you need questions that **never occurred** in training. There are only 4,095 products of two-digit numbers (in any order), so a training set drawn at random sooner or later holds the exam; and removing equal texts is not enough, for `37×46=?` and "What is 46 times 37?" are one question. So the split goes by the **numbers**: sort the operands, take a digest (SHA-256: the same text always gives the same bytes, and yet they look random), and one question in eight stays out of training in whatever words it is asked.

# %% key="held-out"
import numpy as np

held = np.zeros((90, 90), dtype=bool)
for a in range(10, 100):
    for b in range(10, 100):
        held[a - 10, b - 10] = lA1.held_out(a, b)
# zh: a×b 和 b×a 是同一道题
# en: a×b and b×a are one question
assert (held == held.T).all() and lA1.held_out(37, 46)
lA1.held_out_map(held)

# %% [markdown] lang="zh" key="held-out-read"
# 读图：左边一格是一道题，深色的从不进训练；图案沿对角线对称，因为 a×b 和 b×a 是同一道。右边是每个 a 有几分之一的题被留出：有多有少，没有哪个数被整个留出或整个放过，这正是摘要的好处。`37×46` 就在留出的题里，整门课都拿它当例子。
#
# ### 练习 1 ★★☆（8 分钟，选读）：自己写 `held_out`
#
# 写一个函数，收下任意几个操作数，返回这道题该不该留出：约八分之一，不看先后，今天和明天、这台机器和那台机器都给同样的答案。
#
# <details><summary>提示</summary>
#
# `hashlib.sha256(text.encode()).digest()` 把文本 `text` 变成 32 个字节，每个字节是 0 到 255 的整数。内置的 `hash` 对字符串不行：同一段文字，每次启动 Python 都得到不同的数。
#
# </details>

# %% [markdown] lang="en" key="held-out-read"
# How to read it: on the left a square is a question, and dark ones never enter training; the pattern mirrors at the diagonal because a×b and b×a are one question. On the right is the share that each a loses: some more, some less, and no number is held out or let through altogether, which is what a digest is good for. `37×46` is among those held out; the whole course uses it as its example.
#
# ### Exercise 1 ★★☆ (8 minutes, extra): write `held_out` yourself
#
# Write a function that takes any number of operands and returns whether the question is held out: about one in eight, in whatever order, with the same result today and tomorrow, on this machine and on any other.
#
# <details><summary>Hint</summary>
#
# `hashlib.sha256(text.encode()).digest()` makes 32 bytes of your `text`, and each byte is an integer from 0 to 255. The built-in `hash` will not do for a string: each start of Python gives another number for the same text.
#
# </details>


# %% key="ex1" tags=["exercise", "extra"]
def held_out(*operands):
    return ...


# %% key="ex1-solution" tags=["solution"]
import hashlib


def held_out(*operands):  # noqa: F811
    text = " ".join(str(number) for number in sorted(operands))
    return hashlib.sha256(text.encode()).digest()[0] % 8 == 0


# %% key="ex1-check" tags=["extra"]
lA1.ex1.check(held_out)

# %% [markdown] lang="zh" key="tokenizer-text"
# ## 分词器
#
# 和 Qwen3 一样，用字节级的 BPE：从 256 个字节出发，把最常相邻的两块并成一块，直到词表满了。任何文字都写得出来，大不了退回字节。Qwen3 的词表有 151,936 行，小模型只有 2,560 行，因为它只读这门课的句子。
#
# 两条规矩是特意定的：每个数字、每个汉字都单独成一个词元。数字逐个切开，竖式才列得出来，Qwen3 也这样；汉字逐个切开则是为了省词表，Qwen3 并不这样。
#
# **先选一个。** “麟”在训练文本里一次也没出现。它会变成什么？
#
# - A. 一个“未知”词元
# - B. 三个词元，每个是一个字节
# - C. 什么也不是：写不出来

# %% [markdown] lang="en" key="tokenizer-text"
# ## The tokenizer
#
# It is a byte-level BPE like Qwen3's: start from 256 bytes, join the two neighbours that occur together most, and go on until the vocabulary is full. Every text can be written, if need be in bytes. Qwen3's vocabulary has 151,936 rows, the tiny model's 2,560, because it reads nothing but the sentences of this course.
#
# Two rules were set on purpose: each digit and each Chinese character is a token of its own. Single digits make column arithmetic possible, and Qwen3 has them too; single characters save vocabulary, and Qwen3 does not do that.
#
# **Choose first.** 麟 ("unicorn") occurs nowhere in its texts. What does it become?
#
# - A. One token, "unknown"
# - B. Three tokens, each of them a byte
# - C. Nothing: it cannot be written

# %% key="tokenizer" tags=["raw", "varies"]
import time

import transformers

start = time.perf_counter()
tokenizer = lA1.build_tokenizer(recipe.CONTEXT)
print(f"{len(tokenizer)} tokens, {time.perf_counter() - start:.1f} s")
folder = models.find_checkpoint("qwen3-tiny")
shipped = transformers.AutoTokenizer.from_pretrained(folder)
# zh: 和检查点里的那个一块不差
# en: the one in the checkpoint, piece by piece
assert tokenizer.get_vocab() == shipped.get_vocab()
for text in (
    "37×46=1702",
    "什么是混合专家？",
    "What is a mixture of experts?",
    "麒麟",
    "unicorn",
):
    ids = tokenizer.encode(text)
    # zh: 字符数 → 词元数：每个词元
    # en: characters → tokens: each of them
    pieces = " | ".join(tokenizer.decode([i]) for i in ids)
    print(f"{len(text):>3} → {len(ids):>2}: {pieces}")
assert len(tokenizer.encode("麟")) == len("麟".encode()) == 3

# %% [markdown] lang="zh" key="tokenizer-read"
# <details><summary>读输出</summary>
#
# B。第一行是词表的大小和训练用的秒数。常见的词（`What`、`experts`）一块就是一个，少见的（`mixture`）切成几块。没见过的字退回字节，“麟”成了 3 个词元，单独一个字节不是字，显示成 �。
#
# </details>
#
# **选读。** 下一格数一数词表，再抽 1,000 条样本，量它们的长短。
#
# **先选一个（选读）。** 2,560 块里，哪一种最多？
#
# - A. 数字
# - B. 汉字
# - C. 字母和空格拼成的

# %% [markdown] lang="en" key="tokenizer-read"
# <details><summary>Reading</summary>
#
# B. The first line is the size of the vocabulary and the seconds that the training took. Common words (`What`, `experts`) are one piece each, rarer ones (`mixture`) several. A character it has never seen falls back to bytes, 麟 to 3 tokens; a single byte is no character, so it shows as �.
#
# </details>
#
# **Extra.** The next cell counts the vocabulary, then draws 1,000 samples and measures their lengths.
#
# **Choose first (extra).** Of which kind are most of the 2,560 pieces?
#
# - A. Digits
# - B. Chinese characters
# - C. Latin letters and spaces

# %% key="inventory" tags=["extra"]
from collections import Counter

kinds = Counter(lA1.kind_of(token, tokenizer) for token in range(len(tokenizer)))
assert sum(kinds.values()) == 2560 and kinds[say("数字", "digits")] == 10
lengths, rng = {}, random.Random(0)
for _ in range(1000):
    sample = lA1.draw(rng)
    ids, start, silent = recipe.encode(sample, tokenizer, rng)
    # zh: 提示词的词元数，要模型写的词元数
    # en: tokens of the prompt, tokens that the model must write
    lengths.setdefault(sample.task, []).append((start, len(ids) - start))
lA1.inventory(kinds, lengths)

# %% [markdown] lang="zh" key="template-text"
# <details><summary>读图</summary>
#
# C。左边是词表的组成，数字只有 10 块；中间是各类样本的份额，算术占大头，因为它最难学；右边是平均长度，灰色是提示词，绿色要模型自己写。
#
# </details>
#
# ## 模板，和哪些词元算损失
#
# 训练时，一条样本由对话模板拼成一串文本，再切成词元。语言模型的目标是猜下一个词元，但不是每个词元都该由它负责：问题是用户写的，猜它没有意义。做法是给每个位置一个目标：该负责的位置，目标是下一个词元；不该负责的位置，目标写成 -100，PyTorch 的交叉熵见到它就跳过。
#
# 最后一轮助手的话有四种写法，它们正是第 05、06 课里要用的四种情形：
#
# - thinking：完整的思考，然后答案；
# - cut：思考在随机的地方被切断，强行写上 `</think>`，然后照样给出答案；
# - soft：用户写了 `/no_think`，模型自己写一个空的思考块；
# - non-thinking：模板预填了空的思考块，模型直接写答案。
#
# **先选一个。** 被强行写上的那个 `</think>`，要不要算损失？
#
# - A. 要：它也在回答里
# - B. 不要

# %% [markdown] lang="en" key="template-text"
# <details><summary>Reading the figure</summary>
#
# C. On the left is what the vocabulary is made of; digits are 10 pieces only. In the middle is the share of each kind of sample, arithmetic most of all because it is the hardest to learn. On the right is their average length, the prompt in grey, and in green what the model must write.
#
# </details>
#
# ## The template, and which tokens carry loss
#
# For training, the chat template joins a sample into one text, which is cut into tokens. A language model learns to guess the next token, but it should not answer for each of them: the question is the user's, and there is nothing to gain from guessing it. So each position gets a target: the next token where the model answers for it, and -100 where not, which PyTorch's cross-entropy passes over.
#
# The assistant's last turn is written in one of four ways, which are the four situations of lessons 05 and 06:
#
# - thinking: a whole thought, then the answer;
# - cut: the thought is cut at a random place, `</think>` is forced, and the answer follows all the same;
# - soft: the user wrote `/no_think`, and the model itself writes an empty think block;
# - non-thinking: the template pre-fills the empty block, and the model goes on with the answer.
#
# **Choose first.** Should the forced `</think>` carry loss?
#
# - A. Yes: it is part of the reply
# - B. No

# %% key="modes"
thought = lA1.think_chain([17, 25, 8])
sample = lA1.Sample("chain", [lA1.user("17+25+8=?")], thought, "17+25+8=50")
names = [
    say("不算损失", "no loss"),
    say("算损失", "loss"),
    say("强行写上，不算", "forced, no loss"),
]
strips = {}
for mode in ("thinking", "cut", "soft", "non-thinking"):
    # zh: 词元编号，模型从哪里写起，哪些位置是强行写上的
    # en: token ids, where the model begins to write, which positions are forced
    ids, start, silent = lA1.encode_as(mode, sample, tokenizer)
    tokens, kinds = [], []
    for place, token in enumerate(ids):
        tokens.append(tokenizer.decode([token]).encode())
        if place < start:
            kinds.append(0)
        elif place in silent:
            kinds.append(2)
        else:
            kinds.append(1)
    first = repr(tokenizer.decode(ids[start]))
    title = say(f"{mode}：从 {first} 起算损失", f"{mode}: loss from {first} on")
    strips[title] = tokens, kinds
lA1.token_strips(strips, names)

# %% [markdown] lang="zh" key="modes-read"
# <details><summary>读图</summary>
#
# B。一格一个词元，像文字一样逐行读；灰色是提示词，绿色是模型要学着写的，橙色是强行写上的 `</think>`。橙色不算损失：使用时它也是引擎写的（第 06 课的思考预算），要是让模型去学，它会在随便什么地方收住思考。绿色在橙色之后继续，这教会它**从半截思考出发也给出答案**。
#
# </details>
#
# 所以小模型的思考预算管用，是因为训练数据里 30% 的样本就是这样切断的。[Qwen3 技术报告](https://arxiv.org/abs/2505.09388)说，真正的 Qwen3 没有专门学过这件事，这种能力是自然出现的。两者看上去一样，来历完全不同。
#
# ### 练习 2 ★★☆（8 分钟）：写出目标
#
# `ids` 是整条样本的词元编号，`start` 是第一个该由模型写的位置，`silent` 是强行写上的位置的集合（`ids` 的下标，从 0 数起）。返回一个列表，比 `ids` 短 1：第 `i` 个元素是模型读完 `ids[i]` 之后该猜的词元，不算损失的写 -100。
#
# <details><summary>提示</summary>
#
# 在位置 i 上猜的是位置 i + 1 的词元，所以“该不该负责”也要看 i + 1。
#
# </details>

# %% [markdown] lang="en" key="modes-read"
# <details><summary>Reading the figure</summary>
#
# B. A box is a token, line by line as in a text: grey is the prompt, green is what the model learns to write, orange is the forced `</think>`. Orange carries no loss. In use, too, the engine writes it (the thinking budget of lesson 06), and a model that learned it would stop thinking anywhere. Green goes on after it, and that teaches the model to **answer from half a thought**.
#
# </details>
#
# So the tiny model's thinking budget works because 30% of its training samples were cut like this. The [Qwen3 report](https://arxiv.org/abs/2505.09388) says that the real Qwen3 was not trained for it: the ability emerged. They look alike and come from different places.
#
# ### Exercise 2 ★★☆ (8 minutes): write the targets
#
# `ids` are the token ids of a whole sample, `start` is the first position that the model must write, `silent` the set of forced positions (indices into `ids`, counted from 0). Return a list that is shorter than `ids` by 1: element `i` is the token to be guessed after reading `ids[i]`, or -100 where there is no loss.
#
# <details><summary>Hint</summary>
#
# At position i the model guesses the token at position i + 1, so whether it answers for it depends on i + 1 as well.
#
# </details>


# %% key="ex2" tags=["exercise"]
def make_targets(ids, start, silent):
    return ...


# %% key="ex2-solution" tags=["solution"]
def make_targets(ids, start, silent):  # noqa: F811
    targets = []
    for i in range(1, len(ids)):
        if i >= start and i not in silent:
            targets.append(ids[i])
        else:
            targets.append(-100)
    return targets


# %% key="ex2-check"
lA1.ex2.check(make_targets)

# %% [markdown] lang="zh" key="loss-text"
# ## 损失说明什么
#
# 损失是目标词元的负对数概率的平均；用的是自然对数，所以单位叫 nat。它有一个可以口算的起点：一个什么也不懂的模型，给 2,560 个词元同样的概率。
#
# **选读。** 下一格量一量两个模型：没训练过的，和训练好的。
#
# **先选一个（选读）。** 没训练过的模型，损失是多少？
#
# - A. 接近 0
# - B. $\ln 2560$，约 7.85
# - C. 2560

# %% [markdown] lang="en" key="loss-text"
# ## What the loss says
#
# The loss is the mean negative log-probability of the target tokens; the logarithm is the natural one, so its unit is called nat. Its starting point can be worked out in the head: a model that knows nothing gives all 2,560 tokens the same probability.
#
# **Extra.** The next cell measures two models: an untrained one, and the trained one.
#
# **Choose first (extra).** What is the loss of the untrained one?
#
# - A. About 0
# - B. $\ln 2560$, about 7.85
# - C. 2560

# %% key="loss" tags=["extra"]
import math

import torch
import torch.nn.functional as F

# zh: 矩阵这么小，第二个线程得不偿失
# en: for matrices this small a second thread costs more than it brings
torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
trained = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
untrained = recipe.build_model("qwen3-tiny", tokenizer)
# zh: 64 条样本，按长度排好
# en: 64 samples, sorted by length
chunks = list(recipe.batches(step=0, tokenizer=tokenizer, seed=123))
for name, model in (("untrained", untrained), ("trained", trained)):
    total = count = 0
    for input_ids, targets in chunks:
        with torch.no_grad():
            logits = model(input_ids).logits.flatten(0, 1)
        total += F.cross_entropy(logits, targets.flatten(), reduction="sum").item()
        count += (targets != -100).sum().item()
    loss = total / count
    # zh: 损失，以及正确词元的概率（几何平均）
    # en: the loss, and the probability of the right token (geometric mean)
    print(f"{name:<10} {loss:.3f} {math.exp(-loss):.2%}")
    assert name == "trained" or abs(loss - math.log(2560)) < 0.1
assert loss < 0.1

# %% [markdown] lang="zh" key="loss-read"
# <details><summary>读输出</summary>
#
# B。每个词元的概率是 1/2560，负对数就是 $\ln 2560$。训练好的停在零点零几，降不到零，因为数据里有真正的偶然：故事的每个空有四五个同样好的词，谁也猜不准。这里的百分数是几何平均。
#
# </details>
#
# ## 损失曲线和专家负载
#
# 下图是 MoE 小模型训练时自己记下的：`python -m tools.tiny_models.train qwen3-moe-tiny --log` 每 5 步写一行损失和每个专家的份额（每个词元有第一名和第二名两个专家，所以算两次；滑动平均：每一步旧值占 0.9，新值占 0.1，起点是 1/8）。另有一次训练去掉了**负载均衡损失**（`--balance 0`），就是把词元从拥挤的专家推开的那一项（附录 A2）；别的都一样，600 步就停了。稠密小模型的曲线当时没有留下，同一条命令可以再得到一条。
#
# **选读。** 先看损失。
#
# **先选一个（选读）。** 3,800 步里，损失怎样往下走？
#
# - A. 匀速
# - B. 先快后慢

# %% [markdown] lang="en" key="loss-read"
# <details><summary>Reading</summary>
#
# B. Each token has the probability 1/2560, and the negative logarithm of that is $\ln 2560$. Trained, it ends at a few hundredths. It cannot reach zero, for the data holds real chance: each slot of a story has four or five words that are equally good, and nobody can guess which. The percentages are geometric means.
#
# </details>
#
# ## Loss curves and expert load
#
# The next figure is what the training of the tiny MoE wrote down itself: `python -m tools.tiny_models.train qwen3-moe-tiny --log` keeps, every 5 steps, the loss and the share of each expert. Each token has a first and a second expert, so that it counts twice; and the share is a running average: each step keeps 0.9 of the old value and adds 0.1 of the new one, from 1/8. A second training had no **load-balancing loss** (`--balance 0`), the term that pushes tokens away from crowded experts (appendix A2). All else was the same, but it stopped after 600 steps. The dense model's curve was not kept; the same command makes another.
#
# **Extra.** The loss first.
#
# **Choose first (extra).** How does it fall over 3,800 steps?
#
# - A. Evenly
# - B. Fast, then slowly

# %% key="curves" tags=["extra"]
log = np.load(ROOT / "assets" / "traces" / "moe_balance_on.npz")
lA1.loss_and_rate(log)

# %% [markdown] lang="zh" key="curves-read" facts="400 1,200 89"
# <details><summary>读图</summary>
#
# B。左边是损失（对数轴），右边是学习率的安排，学习率就是每一步改权重的幅度：先升温 100 步，再沿余弦降下来，最后 400 步从峰值的 10% 重新开始，直线降下。开头几百步学会的是格式和句子，损失一落千丈；后面几千步磨的是进位和乘法，每降一点都慢。1,200 步起提示词变长，曲线几乎看不出来；最后 400 步加了更多更难的“不知道”，题目难了，损失不再下降，模型却更好了：在 100 个怪问题里老实说不知道的，从 89 个变成 99 个（见 `assets/models/qwen3-moe-tiny/README.md`）。损失只能在同一份数据上比较。
#
# </details>
#
# **先选一个。** 再看专家。去掉均衡，训练到最后，一层的八个专家怎样分？
#
# - A. 差不多平均：没有谁把它们拉开
# - B. 忙的有平均的两三倍，有的几乎一个词元也拿不到
# - C. 两个专家拿走全部

# %% [markdown] lang="en" key="curves-read" facts="400 1,200 89"
# <details><summary>Reading the figure</summary>
#
# B. The loss is on the left (log axis), on the right the plan of the learning rate, which is how far a step moves the weights: 100 steps of warm-up, then down along a cosine; the last 400 steps start again from 10% of the peak and go down in a line. The first few hundred steps learn format and sentences, and the loss plunges; the thousands after them work on carries and products, and each bit less is slow. From step 1,200 prompts get longer, which the curve hardly shows. The last 400 steps add more and harder refusals. The questions are harder and the loss no longer falls, and yet the model is better: of 100 strange questions it now admits for 99 that it does not know, up from 89 (see `assets/models/qwen3-moe-tiny/README.md`). Losses compare on the same data only.
#
# </details>
#
# **Choose first.** Now the experts. Without balance, how do the eight experts of a layer share the tokens in the end?
#
# - A. About equally: nothing pulls them apart
# - B. The busiest have two or three times an equal share, some get next to nothing
# - C. Two experts get all of them

# %% key="load"
logs = {}
for name in ("on", "off"):
    logs[name] = np.load(ROOT / "assets" / "traces" / f"moe_balance_{name}.npz")
# zh: 没有均衡的那一次短一些，两次都只看到它停下的地方
# en: the training without balance is the shorter one; both are read up to its end
length = len(logs["off"]["step"])
labels = {"on": say("有均衡", "with balance"), "off": say("没有均衡", "without")}
for name, log in logs.items():
    load = log["load"][length - 1].astype(float)  # (layers, experts)
    busiest = (8 * load.max(axis=1)).round(2)
    smallest = (100 * load.min(axis=1)).round(2)
    loss = log["loss"][length - 10 : length].mean()
    print(labels[name])
    print(say("    最忙的是平均的几倍：", "    busiest over equal share:"), busiest)
    print(say("    最少的份额，%：", "    smallest share, %:"), smallest)
    print(say("    最后 50 步的损失：", "    loss, last 50 steps:"), f"{loss:.3f}")
lA1.load_curves(logs, labels)

# %% [markdown] lang="zh" key="load-read"
# <details><summary>读图</summary>
#
# B。一格一层，一种颜色一个专家，虚线是绝对平均的 1/8；上面四格有均衡，下面四格没有。两次训练数据和初始权重都相同。
#
# - 每个词元选两个专家，一个专家最多占一半，那就是每个词元都选了它。没有均衡，开头几十步就有专家接近一半；到 600 步，最忙的仍是平均的 1.9 到 2.9 倍，第 2、3 层各有两个专家几乎拿不到词元，参数白养着。
# - 有均衡，最初的混乱之后，大家都围着 1/8 打转；第 3 层晃得最久，快到 600 步才收敛些。
# - 损失：没有均衡的略高一点。只有一个种子，差别也小，**下不了结论**；均衡的好处首先是专家都用上了，不是损失更低。
#
# </details>
#
# 均衡损失只管“多少”，不管“是谁”。哪个专家接哪类词元，数据和损失里都没有写；附录 A2 看到的分工，是唯一没有人教过的东西。
#
# ### 练习 3 ★★☆（6 分钟，选读）：均衡损失
#
# 写法按 [Qiu 等（2025）](https://arxiv.org/abs/2501.11873)，Qwen3 用的就是它：$N_E \sum_i f_i p_i$，$N_E$ 是专家数。`load` 是每个专家的份额 $f$，形状 `(experts,)`，加起来是 1；`probabilities` 是路由器对每个词元的 softmax，形状 `(tokens, experts)`，$p$ 是它在词元上的平均。
#
# <details><summary>提示</summary>
#
# 绝对平均时，结果正好是 1（附录 A2 的 $f$ 按词元数算，那里是 $k$）；词元都挤向同样的 $k$ 个专家时最大，接近 $N_E / k$。
#
# </details>

# %% [markdown] lang="en" key="load-read"
# <details><summary>Reading the figure</summary>
#
# B. A panel is a layer, a colour is an expert, the dashed line is an equal share of 1/8; balanced above, not balanced below. Both trainings had the same data and the same initial weights.
#
# - Each token takes two experts, so that one has at most half, and then every token takes it. Without balance, some expert is close to half within a few dozen steps; at step 600 the busiest still have 1.9 to 2.9 times an equal share, and in layers 2 and 3 two experts each get next to nothing: parameters kept for no use.
# - With balance, after the first turmoil, all move around 1/8; layer 3 swings longest and calms down only towards step 600.
# - The loss without balance is slightly higher. That is one seed and a small difference, so it **proves nothing**; what balance buys first is that all experts are used, not a lower loss.
#
# </details>
#
# The balancing loss governs how many, not which. Nothing in data or loss says which expert should take which token; the division of labour that appendix A2 shows is the one thing here that nobody taught.
#
# ### Exercise 3 ★★☆ (6 minutes, extra): the balancing loss
#
# Write it as [Qiu et al. (2025)](https://arxiv.org/abs/2501.11873) do, whose loss Qwen3 uses: $N_E \sum_i f_i p_i$, with $N_E$ experts. `load` is the share of each expert, $f$, shape `(experts,)`, summing to 1; `probabilities` is the router's softmax for every token, shape `(tokens, experts)`, and $p$ is its mean over the tokens.
#
# <details><summary>Hint</summary>
#
# With perfect balance the result is exactly 1 (in appendix A2, where $f$ counts per token, it is $k$); it is largest, close to $N_E / k$, where all tokens crowd to the same $k$ experts.
#
# </details>


# %% key="ex3" tags=["exercise", "extra"]
def balancing_loss(load, probabilities):
    return ...


# %% key="ex3-solution" tags=["solution"]
def balancing_loss(load, probabilities):  # noqa: F811
    return len(load) * (load * probabilities.mean(dim=0)).sum()


# %% key="ex3-check" tags=["extra"]
lA1.ex3.check(balancing_loss)

# %% [markdown] lang="zh" key="live-text"
# ## 现场训练一个（选读）
#
# 眼见为实：一个只有两层的小 Qwen3，从随机权重学三位数加法。用的就是上面的零件：同样的数据、分词器、模板、损失和优化器（照着梯度改权重的程序；矩阵用 [Muon](https://kellerjordan.github.io/posts/muon/)，其余用 AdamW）。训练两遍：一遍让它先写竖式再写答案，一遍让它直接写答案。考的都是留出的题。
#
# 下面三格要依次运行。默认 200 步，两遍一共约半分钟，机器忙时一分多钟；想多练，先运行 `os.environ["COURSE_TRAIN_STEPS"] = "1000"`，再运行这几格，时间是五倍。
#
# **先选一个（选读）。** 看过同样多的题，哪一个对得多？
#
# - A. 直接写答案的：它要写的少
# - B. 先写竖式的
# - C. 差不多

# %% [markdown] lang="en" key="live-text"
# ## Train one live (extra)
#
# See for yourself: a Qwen3 of two layers only learns to add three-digit numbers, from random weights. It takes the parts above: the same data, tokenizer, template, loss and optimizers (what changes the weights by their gradients: [Muon](https://kellerjordan.github.io/posts/muon/) for matrices, AdamW for the rest). It is trained twice: once it writes the column addition before the answer, once the answer at once. The exam is on sums that were held out.
#
# Run the three cells below in order. By default it takes 200 steps, about half a minute for both, more than one on a busy machine; for more, run `os.environ["COURSE_TRAIN_STEPS"] = "1000"` and then these cells, which takes five times as long.
#
# **Choose first (extra).** Having seen equally many sums, which of the two gets more right?
#
# - A. The one that answers at once: it has less to write
# - B. The one that writes columns first
# - C. About equal


# %% key="live-data" tags=["extra", "raw"]
# zh: 提示词和回答的词元编号，以及正确的数；test=True 时抽的是留出的题
# en: token ids of prompt and reply, and the right number; test=True draws held-out sums
def make_sum(rng, with_thought, test=False):
    sample = lA1.arithmetic("sum", rng, test=test, form="formula")
    prompt = tokenizer.apply_chat_template(
        sample.messages,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=with_thought,
    )
    thought = f"<think>\n{sample.thought}\n</think>\n\n" if with_thought else ""
    return (
        tokenizer.encode(prompt),
        tokenizer.encode(f"{thought}{sample.answer}<|im_end|>"),
        sample.expected,
    )


prompt, reply, expected = make_sum(random.Random(5), with_thought=True)
print(tokenizer.decode(prompt + reply))

# %% key="live-train" tags=["extra", "varies"]
import os

import torch
from torch.nn.utils.rnn import pad_sequence

live_steps = int(os.environ.get("COURSE_TRAIN_STEPS", 200))
small = recipe.SHARED | {
    "num_hidden_layers": 2,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_attention_heads": 4,
}


def draw_batch(rng, with_thought):
    inputs, targets = [], []
    for _ in range(32):
        prompt, reply, expected = make_sum(rng, with_thought)
        inputs.append(torch.tensor(prompt + reply))
        targets.append(torch.tensor([-100] * len(prompt) + reply))
    # zh: 短的在后面补齐，成为 (32, seq)
    # en: the shorter ones are padded at the end, which gives (32, seq)
    inputs = pad_sequence(inputs, batch_first=True)
    targets = pad_sequence(targets, batch_first=True, padding_value=-100)
    # zh: 位置 i 的目标是 i + 1 的词元
    # en: the target at i is the token at i + 1
    return inputs[:, :-1], targets[:, 1:]


def train_live(with_thought):
    torch.manual_seed(0)
    config = transformers.Qwen3Config(vocab_size=len(tokenizer), **small)
    model = transformers.Qwen3ForCausalLM(config)
    optimizers, rng, losses = recipe.make_optimizers(model), random.Random(0), []
    for step in range(live_steps):
        # zh: 先升温，再降到 2 %
        # en: warm up, then down to 2 %
        share = min(1, (step + 1) / 20) * (1.02 - (step + 1) / live_steps)
        for optimizer, rate in zip(optimizers, (1e-2, 3e-3), strict=True):
            optimizer.param_groups[0]["lr"] = rate * share
        chunks = [draw_batch(rng, with_thought)]
        loss, _ = recipe.train_step(model, optimizers, chunks, load=None, balance=0)
        losses.append(loss)
    return model.eval(), losses


trained_live, curves = {}, {}
for with_thought in (True, False):
    start = time.perf_counter()
    model, losses = train_live(with_thought)
    seconds = time.perf_counter() - start
    trained_live[with_thought], curves[with_thought] = model, losses
    print(f"with_thought={str(with_thought):5} {seconds:.0f} s, loss {losses[-1]:.3f}")


# %% key="live-exam" tags=["extra"]
def exam(model, with_thought, questions=50):
    rng, right = random.Random(1), 0
    for _ in range(questions):
        prompt, reply, expected = make_sum(rng, with_thought, test=True)
        tokens = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=len(reply) + 8,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=tokenizer.eos_token_id,
        )
        written = tokenizer.decode(tokens[0, len(prompt) :])
        if written.removesuffix("<|im_end|>").endswith(f"={expected}"):
            right += 1
    return right / questions, written


names = {True: say("先写思考", "with thoughts"), False: say("只写答案", "answer only")}
losses, scores = {}, {}
for with_thought, model in trained_live.items():
    name = names[with_thought]
    scores[name], written = exam(model, with_thought)
    losses[name] = curves[with_thought]
    print(f"--- {name}\n{written}")
assert live_steps < 200 or scores[names[True]] > scores[names[False]]
lA1.live_curves(losses, scores, 50)

# %% [markdown] lang="zh" key="live-read"
# <details><summary>读图</summary>
#
# B。横轴是步数，纵轴是每个词元的损失（对数轴），图例里是留出题的正确率。写竖式的那个学得会，直接写答案的几乎全错：它要在写出第一个数字之前就把所有进位做完；写竖式每次只要加两个一位数，再加上进位。这就是“思考有用”最小的样子，也正是小模型的数据要造出来的效果。
#
# </details>
#
# 别把它说过头。直接写答案不是学不会，是学得慢：设成 1000 步跑过一次，写竖式的全对，直接写的也升到了一半左右。带思考的每道题有更多词元、更多计算；步数相同，时间不同。一个种子、一种任务、一种大小，说明机制，不说明真正的 Qwen3。

# %% [markdown] lang="en" key="live-read"
# <details><summary>Reading the figure</summary>
#
# B. Steps are on the x axis, loss per token on the y axis (log), and the legend has the share of held-out sums that come out right. The one that writes columns learns to add, the one that answers at once gets nearly all wrong: it must work out every carry before it writes the first digit; in columns, each step adds two digits and a carry. This is "thinking helps" at its smallest, and it is the very effect that the tiny models' data was built to show.
#
# </details>
#
# Do not make too much of it. Answering at once is not impossible to learn, only slow: in one run with 1000 steps the columns got all right, and the direct answers had come up to about half. With thoughts, a sum has more tokens and takes more computing; the steps are equal, the time is not. One seed, one task, one size: it shows a mechanism and says nothing about the real Qwen3.

# %% [markdown] lang="zh" key="recap"
# ## 小结
#
# - 小模型的每样本事都有对应的数据：思考里有中间结果，30% 的思考被切断，故事的空有四五个同样好的词。这些现象是造出来的；专家的分工不是。
# - 考题按操作数留出，换了说法、换了先后也不会混进训练。
# - 只有该由模型写的词元算损失；预填的和强行写上的不算。
# - 没训练过的损失是 $\ln 2560$；不同数据上的损失不能比。
# - 负载均衡损失管“多少”，不管“是谁”；去掉它，有的专家几乎拿不到词元。
#
# ## 自测
#
# 1. 为什么不能按问题的文字去重来留考题？
# 2. 给提示词也算损失，模型会怎样？
# 3. 训练数据换了一批，损失升高了一点，模型一定变差了吗？
# 4. 负载完全均衡时，练习 3 的均衡损失是多少？
# 5. 小模型的思考预算管用，能说明真正的 Qwen3 也是这样学会的吗？
#
# <details><summary>答案</summary>
#
# 1. 同一道题有很多说法，操作数还能交换；按文字去重，换个说法的原题仍会进训练。
# 2. 它会把一部分力气花在猜用户的话上；用户的话多半猜不出来，损失里就混进了降不下去的部分。
# 3. 不一定：数据变难，损失也会升。最后 400 步损失没有降，模型却更好了。
# 4. 正好是 1，乘上系数之前。
# 5. 不能。小模型是用切断的思考专门教的；报告说，真正的 Qwen3 没有为此训练过。
#
# </details>
#
# ## 常见错误
#
# | 现象 | 原因 | 办法 |
# |---|---|---|
# | 考题上百分之百，换个数就错 | 考题混进了训练 | 按操作数留出，先分再写问法 |
# | 损失很低，却从不停下 | `<\|im_end\|>` 没有算损失 | 让结尾的词元也是目标 |
# | 模型把问题又抄一遍 | 提示词也算了损失 | 提示词的目标写成 -100 |
# | 目标对不上，损失降不下去 | 忘了错开一位 | 位置 i 的目标是 i + 1 的词元 |

# %% [markdown] lang="en" key="recap"
# ## Recap
#
# - Each thing a tiny model can do has its data: thoughts hold intermediate results, 30% of them were cut, a slot in a story has four or five equally good words. These effects were built in; the division of labour among experts was not.
# - Exam questions are held out by their operands, so no other wording or order lets them into training.
# - Only tokens that the model must write carry loss; what is pre-filled or forced does not.
# - An untrained model's loss is $\ln 2560$; losses on different data do not compare.
# - The balancing loss governs how many, not which; without it, some experts get next to no tokens.
#
# ## Test yourself
#
# 1. Why is it not enough to hold out questions by their text?
# 2. What happens to a model if the prompt carries loss too?
# 3. The training data changes, and the loss rises a little. Has the model become worse?
# 4. What is the balancing loss of exercise 3 at perfect balance?
# 5. The tiny model's thinking budget works. Does that show that the real Qwen3 learned it in this way?
#
# <details><summary>Answers</summary>
#
# 1. A question has many wordings, and its operands can be swapped; the same question in other words would still be trained on.
# 2. Part of its effort goes into guessing what users say, most of which cannot be guessed: the loss then holds a part that never falls.
# 3. Not necessarily: harder data raise the loss as well. In the last 400 steps it did not fall, and the model became better.
# 4. Exactly 1, before its coefficient.
# 5. No. The tiny model was taught with cut thoughts; the report says that the real Qwen3 was not trained for it.
#
# </details>
#
# ## Common errors
#
# | Symptom | Cause | Remedy |
# |---|---|---|
# | perfect in the exam, wrong with other numbers | the exam was in the training set | hold out by operands, and split before any wording |
# | a low loss, but it never stops | `<\|im_end\|>` carries no loss | make the closing token a target too |
# | the model copies the question | the prompt carries loss | give the prompt the target -100 |
# | targets do not fit, the loss does not fall | the shift by one is missing | the target at i is the token at i + 1 |

# %% [markdown] lang="zh" key="reading"
# ## 延伸阅读
#
# - [Qwen3 技术报告](https://arxiv.org/abs/2505.09388)：预训练的数据量、思考预算、MoE 的负载均衡
# - 负载均衡损失为什么要在整批上算：[Qiu 等，2025](https://arxiv.org/abs/2501.11873)；更早的写法：[Switch Transformer](https://arxiv.org/abs/2101.03961)
# - 字节级 BPE：[Radford 等，2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf)，2.2 节
# - 很小的模型也能学会讲故事：[TinyStories](https://arxiv.org/abs/2305.07759)
# - 把步骤一步步写出来，学会加法：[Nye 等，2021](https://arxiv.org/abs/2112.00114)
# - 用自己的题目选思考预算、上线、测量：[第 09 课](../zh/09_project.ipynb)
# - 自己重训一个小模型，在课程文件夹里运行：`.venv/bin/python -m tools.tiny_models.train qwen3-tiny --output build/my-tiny`，中断后再运行会接着训练

# %% [markdown] lang="en" key="reading"
# ## Further reading
#
# - [Qwen3 report](https://arxiv.org/abs/2505.09388): amount of pre-training data, thinking budget, load balance of the MoE models
# - Why the balancing loss belongs to the whole batch: [Qiu et al., 2025](https://arxiv.org/abs/2501.11873); its older form: [Switch Transformer](https://arxiv.org/abs/2101.03961)
# - Byte-level BPE: [Radford et al., 2019](https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf), section 2.2
# - Small models that learn to tell stories: [TinyStories](https://arxiv.org/abs/2305.07759)
# - Addition learned by writing out the steps: [Nye et al., 2021](https://arxiv.org/abs/2112.00114)
# - Choose a thinking budget for your own questions, serve with it and measure: [lesson 09](../en/09_project.ipynb)
# - Train a tiny model yourself, in the course's folder: `.venv/bin/python -m tools.tiny_models.train qwen3-tiny --output build/my-tiny`; after an interruption, the same command goes on where it stopped
