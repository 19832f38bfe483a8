"""The exercises of lesson 07: a request without thinking, a stream with a thought, a tool call in fragments."""

from functools import partial
from operator import add

from helpers.check import Exercise

# ---------------------------------------------------------------------------------------------- exercise 1

SAMPLING = {"temperature": 0.7, "top_p": 0.8, "presence_penalty": 1.5}
OFF = {"enable_thinking": False}
EXTRA = {"top_k": 20, "min_p": 0, "chat_template_kwargs": OFF}


def message(question):
    return [{"role": "user", "content": question}]


def request(model, question, extra=EXTRA, messages=message, **changes):
    return {"model": model, "messages": messages(question), "extra_body": extra, **SAMPLING, **changes}


def what_matters(solution, *case):
    """The request without messages before the last one, and without what the task says nothing about."""
    asked = solution(*case)
    if not isinstance(asked, dict):
        return asked
    asked = {name: value for name, value in asked.items() if name in {*request(*case), *EXTRA, *OFF}}
    if isinstance(asked.get("messages"), list):
        asked["messages"] = asked["messages"][-1:]
    if isinstance(asked.get("extra_body"), dict):
        asked["extra_body"] = {
            name: asked["extra_body"][name] for name in asked["extra_body"] if name in {*EXTRA, *OFF}
        }
    return asked


def moved(*names):
    """These arguments beside the others instead of in extra_body."""
    stay = {name: value for name, value in EXTRA.items() if name not in names}
    return {"extra": stay, **{name: EXTRA[name] for name in names}}


LIST = ("messages 是一个列表，最后一条的 role 是 user。",
        "messages is a list whose last entry has the role user.")  # fmt: skip
SWITCH = ("不要在用户的消息里写 /no_think 或 <think>：用模板的开关。",
          "leave /no_think and <think> out of the user's message: use the template's switch.")  # fmt: skip
NO_TEMPLATE = ("思考还开着：extra_body 里还缺 chat_template_kwargs。",
               "thinking is on: chat_template_kwargs is missing.")  # fmt: skip
DEEPER = ("enable_thinking 是模板的参数：再放深一层，放进 chat_template_kwargs。",
          "enable_thinking is an argument of the template: one level deeper, inside chat_template_kwargs.")  # fmt: skip
FALSE = ('值要是布尔值 False；字符串 "false" 算真。',
         'the value is the boolean False; the string "false" counts as true.')  # fmt: skip
MISPLACED = [
    ("chat_template_kwargs",), ("top_k",), ("min_p",), ("top_k", "min_p"), ("chat_template_kwargs", "top_k", "min_p"),
]  # fmt: skip

ex1 = Exercise(
    right=request,
    cases=[("some-model", "1+1=?")],
    ask=what_matters,
    start=("返回一个字典：create 认识的参数直接写，另外三样放进 extra_body。",
           "return a dictionary: what create knows stands in it, the three others go into its extra_body."),
    mistakes=[
        (lambda model, question: request("Qwen3-8B", question), "model 要用传进来的模型名。",
         "model should be the name that was passed in."),
        *[(partial(request, messages=messages), *LIST) for messages in (
            lambda question: question, lambda question: message(question)[0], lambda question: [question],
            lambda question: [{"role": "system", "content": question}])],
        (lambda model, question: {"model": model}, *LIST),
        *[(partial(request, messages=lambda question, text=text: message(question + text)), *SWITCH)
          for text in (" /no_think", "/no_think", "<think>\n\n</think>\n\n")],
        (partial(request, messages=lambda question: message("hello")), "问题要原样放进消息。",
         "the question should be in the message as it is."),
        *[(partial(request, **moved(*names)), f"create 不认识 {names[0]}：放进 extra_body。",
           f"create does not know {names[0]}: put it into extra_body.") for names in MISPLACED],
        *[(partial(request, **{name: EXTRA[name]}), f"create 不认识 {name}：放进 extra_body。",
           f"create does not know {name}: put it into extra_body.") for name in EXTRA],
        (partial(request, extra={"top_k": 20, "min_p": 0}), *NO_TEMPLATE),
        (partial(request, extra={"top_k": 20, "min_p": 0} | OFF), *DEEPER),
        *[(partial(request, extra=EXTRA | {"chat_template_kwargs": {name: False}}),
           "模板不认识 ['{name}']，也不会报错；名字是 enable_thinking。".replace("{name}", name),
           "the template ignores ['{name}'] without a word; the name is enable_thinking.".replace("{name}", name))
          for name in ("ensure_thinking", "thinking")],
        *[(partial(request, extra=EXTRA | {"chat_template_kwargs": {"enable_thinking": value}}), *FALSE)
          for value in ("false", "False", True)],
        (partial(request, temperature=0), "temperature 不要设成 0。", "temperature should not be 0."),
        *[(partial(request, **wrong), "这是思考模式的采样参数。", "these are the sampling parameters of thinking mode.")
          for wrong in ({"temperature": 0.6, "top_p": 0.95}, {"temperature": 0.6}, {"top_p": 0.95})],
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 2


def chunks(*deltas, usage=False):
    """Real chunks of the openai client, one per delta; then, as with ``include_usage``, one without choices."""
    from openai.types.chat import ChatCompletionChunk

    base = {"id": "c", "created": 0, "model": "m", "object": "chat.completion.chunk"}
    last = len(deltas) - 1
    made = [
        base | {"choices": [{"index": 0, "delta": delta, "finish_reason": "stop" if place == last else None}]}
        for place, delta in enumerate(deltas)
    ]
    if usage:
        made.append(base | {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}})
    return [ChatCompletionChunk.model_validate(chunk) for chunk in made]


def stream_cases():
    role = {"role": "assistant", "content": ""}

    def plain(name):
        return [role, {name: "4"}, {name: "2"}, {"content": "so"}, {"content": " 42"}, {}]

    return {
        "reasoning": (chunks(*plain("reasoning")),),
        "reasoning_content": (chunks(*plain("reasoning_content")),),
        "choices=[]": (chunks(*plain("reasoning"), usage=True),),
        'content=""': (chunks(role, {"reasoning": "hm"}),),
        "reasoning=None": (chunks(role, {"reasoning": None, "reasoning_content": "4"}, {"content": "a"}),),
        "reasoning, content": (chunks({"reasoning": "hm", "content": "a"}, {"content": "b"}),),
        "content=None": (chunks(role, {"content": "a"}, {"content": None}, {"content": "b"}),),
    }


NAMES = "reasoning", "reasoning_content"


def read_stream(chunks, names=NAMES, every=True, use=bool, of=lambda text, piece: text or "", add=add):
    """use: which of the thoughts under these names; of: a chunk's answer, from its content and its thought."""
    thought = answer = ""
    for chunk in chunks:
        for choice in chunk.choices if every else [chunk.choices[0]]:
            found = [getattr(choice.delta, name) for name in names if hasattr(choice.delta, name)]
            piece = next(filter(use, found), "") or ""
            thought, answer = add(thought, piece), add(answer, of(choice.delta.content, piece))
    return thought, answer


ex2 = Exercise(
    right=read_stream,
    cases=stream_cases,
    start=("对每段的每个 choice，把 delta 里的思考和答案分别接到两个字符串后面。",
           "for every choice of every chunk, append thought and answer of its delta to two strings."),
    mistakes=[
        (lambda chunks: read_stream(chunks)[::-1], "顺序反了：先思考，后答案。",
         "the order is wrong: thought first, then answer."),
        (partial(read_stream, names=NAMES[:1]), "旧服务器把思考叫作 reasoning_content。",
         "older servers call the thought reasoning_content."),
        (partial(read_stream, names=NAMES[1:]), "新服务器把思考叫作 reasoning：两个名字都要认。",
         "newer servers call the thought reasoning: know both names."),
        (partial(read_stream, every=False), "最后那段没有 choices，只有 usage。（{given.error}）",
         "the last chunk has no choices, only usage. ({given.error})"),
        (partial(read_stream, use=lambda text: True), "reasoning 的值是 None 时，还要看 reasoning_content。",
         "where reasoning is there, but None, look at reasoning_content too."),
        (partial(read_stream, of=lambda text, piece: "" if piece else text or ""),
         "一段里可以又有思考又有答案：两样都要接，不要二选一。",
         "a chunk may hold both thought and answer: append both instead of one or the other."),
        *[(partial(read_stream, add=add), "后来的盖掉了先前的：把每一段接到字符串后面，用 +=。",
           "later chunks overwrote earlier ones: append each to its string with +=.")
          for add in (lambda whole, piece: piece or whole, lambda whole, piece: piece)],
        (partial(read_stream, add=lambda whole, piece: whole + piece.strip()),
         "空格和换行也是内容：不要用 strip()。", "spaces and newlines belong to the text: do without strip()."),
        (partial(read_stream, of=lambda text, piece: text), "字段的值可以是 None：当作空字符串。（{given.error}）",
         "a field may be None: take it for an empty string. ({given.error})"),
        (lambda chunks: tuple(text or None for text in read_stream(chunks)), "没有答案时返回空字符串。",
         "with no answer, return the empty string."),
        (lambda chunks: "".join(read_stream(chunks)), "应该返回两个字符串：return thought, answer。",
         "two strings are wanted: return thought, answer."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 3


def call(index, arguments=None, name=None, id=None):
    kind = {"type": "function"} if name else {}
    return {"index": index, "id": id, "function": {"name": name, "arguments": arguments}} | kind


def deltas(*fragments):
    found = [{"tool_calls": list(group)} if group else {"content": ""} for group in fragments]
    return ([chunk.choices[0].delta for chunk in chunks(*found)],)


def tool_call_cases():
    first, second = partial(call, name="add", id="x"), partial(call, name="mul", id="y")
    return {
        "tool_calls[0]": deltas([], [first(0)], [call(0, '{"a"')], [call(0, ": 1}")], []),
        "index 0, 1, 0, 1": deltas([first(0, '{"a": ')], [second(1, '{"b": ')], [call(0, "1}")], [call(1, "2}")]),
        "index 1 + 0, 0 + 1": deltas([second(1, "{"), first(0, "{")], [call(0, "}"), call(1, "}")]),
        "tool_calls=None": deltas([], []),
    }


def append(whole, text, place):
    return whole + (text or "")


def join(deltas, parts=lambda delta: delta.tool_calls or [], order=sorted, add=append):
    """add: joins id (place 0), name (1) or arguments (2) with what there was before."""
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        for part in parts(delta):
            whole = calls.setdefault(part.index, ["", "", ""])
            for place, text in enumerate((part.id, part.function.name, part.function.arguments)):
                whole[place] = add(whole[place], text, place)
    return [tuple(calls[index]) for index in order(calls)]


def by_arrival(deltas):
    calls = []
    for delta in deltas:
        for part in delta.tool_calls or []:
            if part.id:
                calls.append([part.id, part.function.name, ""])
            calls[-1][2] += part.function.arguments or ""
    return [tuple(call) for call in calls]


MAY_BE_NONE = ("tool_calls、name、arguments 都可能是 None。（{given.error}）",
               "tool_calls, name and arguments may all be None. ({given.error})")  # fmt: skip

ex3 = Exercise(
    right=join,
    cases=tool_call_cases,
    start=("对每个 delta 的每个片段，按 index 把 id、name、arguments 接起来。",
           "for every fragment of every delta, join id, name and arguments under its index."),
    mistakes=[
        (by_arrival, "两个调用的片段会交错到来：用 index 区分，不要用“最近的那个”。",
         "fragments of two calls may come in turns: tell them apart by index, not by which came last."),
        (partial(join, order=list), "按 index 的顺序返回；一个 delta 里可以有好几个片段。",
         "return them in the order of index; one delta may hold several fragments."),
        (partial(join, parts=lambda delta: (delta.tool_calls or [])[:1]), "一个 delta 里可以有好几个片段。",
         "one delta may hold several fragments."),
        *[(wrong, *MAY_BE_NONE) for wrong in (
            partial(join, parts=lambda delta: delta.tool_calls), partial(join, add=lambda whole, text, _: whole + text),
            lambda deltas: [(p.id, p.function.name, p.function.arguments) for d in deltas for p in d.tool_calls])],
        (partial(join, add=lambda whole, text, _: text or whole), "后来的片段盖掉了先前的：要用 += 接起来。",
         "later fragments overwrote earlier ones: append them with +=."),
        (partial(join, add=lambda whole, text, place: append(whole, text, place) if place == 2 else text),
         "id 和 name 只在第一个片段里，后面的是 None：不要盖掉。",
         "only the first fragment holds id and name: do not overwrite them with the None of later ones."),
        (lambda deltas: join(deltas) or None, "没有调用时返回空列表。", "with no calls, return an empty list."),
    ],
)  # fmt: skip
