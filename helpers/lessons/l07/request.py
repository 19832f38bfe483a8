"""Lesson 07, exercise 1: a request without thinking."""

from functools import partial

from helpers.check import Exercise

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


def without(*names_and_case):
    """The request without these arguments; what stands in extra_body by mistake counts for nothing."""
    *names, model, question = names_and_case
    return {name: value for name, value in request(model, question).items() if name not in names}


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
        (lambda *case: without("extra_body", *case) | EXTRA, f"create 不认识 {'、'.join(EXTRA)}：放进 extra_body。",
         f"create does not know {', '.join(EXTRA)}: put them into extra_body."),
        *[(partial(without, *names), f"create 认识 {'、'.join(names)}：直接写在字典里，不放进 extra_body。",
           f"create knows {', '.join(names)}: put it into the dictionary itself, not into extra_body.")
          for names in (list(SAMPLING), ["presence_penalty"])],
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
