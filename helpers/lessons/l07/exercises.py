"""Lesson 07, exercises 2 and 3: a stream with a thought, a tool call in fragments."""

from functools import partial
from operator import add

from helpers.check import Exercise

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


def as_text(chunks):
    thought = answer = ""
    for chunk in chunks:
        for choice in chunk.choices:
            piece, _ = read_stream([chunk])
            thought, answer = thought + str(piece or None), answer + str(choice.delta.content)
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
        (partial(read_stream, add=lambda whole, piece: whole + (piece or None)),
         "没有内容的字段是 None：写 reasoning_of(choice.delta) or \"\"。（{given.error}）",
         "a field without content is None: write reasoning_of(choice.delta) or \"\". ({given.error})"),
        (lambda chunks: chunks[0].nothing,
         "思考用 reasoning_of(choice.delta) 取，答案是 choice.delta.content。（{given.error}）",
         "the thought is reasoning_of(choice.delta), the answer choice.delta.content. ({given.error})"),
        (lambda chunks: read_stream(chunks[:1]), "读完第一段就返回了：return 要放在循环外面。",
         "this returns after the first chunk: return belongs behind the loop."),
        (as_text, "str(None) 是 'None' 这几个字：写 or \"\"，不写 str()。",
         "str(None) is the word 'None': write or \"\" in place of str()."),
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


def by_id(deltas):
    calls: dict = {}
    for delta in deltas:
        for part in delta.tool_calls or []:
            whole = calls.setdefault(part.id, ["", "", ""])
            for place, text in enumerate((part.id, part.function.name, part.function.arguments)):
                whole[place] = text or "" if place == 0 else append(whole[place], text, place)
    return [tuple(call) for call in calls.values()]


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
        (by_id, "后面的片段没有 id：用 index 作键。", "later fragments have no id: make index the key."),
        (partial(join, order=list), "按 index 的顺序返回；一个 delta 里可以有好几个片段。",
         "return them in the order of index; one delta may hold several fragments."),
        (partial(join, parts=lambda delta: (delta.tool_calls or [])[:1]), "一个 delta 里可以有好几个片段。",
         "one delta may hold several fragments."),
        *[(wrong, *MAY_BE_NONE) for wrong in (
            partial(join, parts=lambda delta: delta.tool_calls),
            partial(join, add=lambda whole, text, place: whole + text if place == 2 else append(whole, text, place)),
            partial(join, add=lambda whole, text, _: whole + text),
            lambda deltas: [(p.id, p.function.name, p.function.arguments) for d in deltas for p in d.tool_calls])],
        (partial(join, add=lambda whole, text, _: text or whole), "后来的片段盖掉了先前的：要用 += 接起来。",
         "later fragments overwrote earlier ones: append them with +=."),
        (partial(join, add=lambda whole, text, place: append(whole, text, place) if place == 2 else text),
         "id 和 name 只在第一个片段里，后面的是 None：不要盖掉。",
         "only the first fragment holds id and name: do not overwrite them with the None of later ones."),
        (lambda deltas: join(deltas) or None, "没有调用时返回空列表。", "with no calls, return an empty list."),
    ],
)  # fmt: skip
