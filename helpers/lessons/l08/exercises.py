"""Lesson 08, exercises 1, 2 and 4: the two waits, which errors are worth a retry, where latency doubles."""

from functools import partial

from helpers.check import Exercise

# ---------------------------------------------------------------------------------------------- exercise 1


def waits(start, moments, tokens, *, begun=None, gaps=None, careful=True, first=None, answer=lambda *both: both):
    """(time to first token, inter-token latency); with the options a learner's mistakes."""
    whole = moments[-1] - (moments[0] if begun is None else begun(start, moments))
    gaps = tokens - 1 if gaps is None else gaps(moments, tokens)
    to_first = moments[0] - start if first is None else first(start, moments)
    return answer(to_first, whole / gaps if gaps or not careful else 0.0)


PIECES = ("几个词元会并成一段，不能数段：用 tokens。",
          "several tokens may share a piece, so pieces cannot be counted: use tokens.")  # fmt: skip
FROM_FIRST = ("间隔从第一段算起，不从发出时算起：前面等的，是另一个数。",
              "count from the first piece, not from the start: the wait before it is the other number.")  # fmt: skip
ONE = ("只有一个词元时没有间隔：返回 0，不要除以 0。", "a single token has no gap: return 0, do not divide by it.")

ex1 = Exercise(
    right=waits,
    cases=[
        (10.0, [10.5, 10.6, 10.8, 11.0], 6),
        (0.0, [0.25, 0.5, 1.25], 3),
        (3.0, [3.5, 4.0], 11),
        (2.0, [2.25], 1),
        (7.0, [7.125], 2),
    ],
    start=("第一个数：首段的时刻减去 start；第二个数：首段到末段的时间，除以 tokens - 1。",
           "first the moment of the first piece less start; then the time from first to last piece over tokens - 1."),
    mistakes=[
        (partial(waits, careful=False), *ONE),
        *[(partial(waits, gaps=gaps, careful=careful), *PIECES) for gaps, careful in (
            (lambda moments, tokens: len(moments) - 1, True), (lambda moments, tokens: len(moments) - 1, False),
            (lambda moments, tokens: len(moments), False))],
        (partial(waits, gaps=lambda moments, tokens: tokens), "n 个词元之间只有 n - 1 个间隔。",
         "between n tokens there are n - 1 gaps."),
        *[(partial(waits, begun=lambda start, moments: start, gaps=gaps, careful=careful), *FROM_FIRST)
          for gaps, careful in ((None, True), (None, False), (lambda moments, tokens: tokens, False),
                                (lambda moments, tokens: tokens if tokens > 1 else 0, True))],
        *[(partial(waits, first=lambda start, moments: moments[0], careful=careful),
           "这是钟上的时刻：减去 start，才是等了多久。", "this is a time of day: less start it is how long one waits.")
          for careful in (True, False)],
        *[(partial(waits, first=lambda start, moments: moments[-1] - start, careful=careful),
           "这是整个请求的时间；首个词元看第一段 moments[0]。",
           "this is the time of the whole request; the first token came with moments[0].")
          for careful in (True, False)],
        *[(partial(waits, answer=lambda *both: both[::-1], careful=careful), "两个数的次序反了。",
           "the two numbers have changed places.") for careful in (True, False)],
        (lambda start, moments, tokens: (moments[0] - start, moments[1] - moments[0] if tokens > 2 else 0),
         "只看了前两段：间隔的平均值，要从首段看到末段。",
         "this looks at the first two pieces: the mean takes the time from the first to the last."),
        (lambda start, moments, tokens: waits(start, moments, tokens) if tokens > 1 else (0, 0),
         "只有一个词元时，首个词元的时间照算，只有间隔是 0。",
         "a single token has its time to first token all the same, only the latency is 0."),
        (lambda start, moments, tokens: (moments[0] - start, 1 / waits(start, moments, tokens)[1] if tokens > 2 else 0),
         "这是每秒几个词元：倒过来，才是每个词元几秒。",
         "these are tokens per second: turn it round for seconds per token."),
        (lambda *case: tuple(1000 * wait for wait in waits(*case)), "时间用秒，不用换成毫秒。",
         "the times are in seconds, do not turn them into milliseconds."),
        (partial(waits, gaps=lambda moments, tokens: 1), "这是首段到末段的全部时间：再除以间隔数。",
         "this is all the time from first to last piece: divide it by the number of gaps."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 2


def worth_a_retry(status, none=True, named=(408, 429), least=500, never=()):
    if status is None:
        return none
    return (status in named or status >= least) and status not in never


NO_CONNECTION = "连接失败（None）过一会儿可能就好了。", "a failed connection (None) may be over in a moment."
NONE_FIRST = "None 不能和数字比较：先处理它。", "None does not compare with numbers: deal with it first."
STATUS = {
    429: ("429 是请求太多：慢一点再来。", "429 means too many requests: slower, but again."),
    408: ("408 是超时。", "408 is a timeout."),
    503: ("503 是背压，值得重试。", "503 is back-pressure and worth a retry."),
    400: ("400 是请求本身不对，重试没有用。", "400 is a wrong request, and stays wrong."),
    401: ("401 是密钥不对，重试没有用。", "401 is a wrong key, and stays wrong."),
    404: ("404 是名字或路径不对，重试没有用。", "404 is a wrong name or path, and stays wrong."),
    200: ("200 是成功。", "200 is success."),
}

ex2 = Exercise(
    right=worth_a_retry,
    cases=[(status,) for status in (None, 503, 500, 504, 520, 429, 408, 400, 401, 404, 422, 200)],
    ask=lambda solution, status: bool(solution(status)),
    start=("连接失败、408、429、500 以上返回 True，其余 False。",
           "True for no connection, 408, 429 and from 500 on, else False."),
    mistakes=[
        (lambda status: status >= 500 or status in (408, 429), *NONE_FIRST),
        (partial(worth_a_retry, none=False), *NO_CONNECTION),
        (partial(worth_a_retry, none=False, named=()), *NO_CONNECTION),
        (partial(worth_a_retry, least=501), "500 也算，它是“500 和以上”的第一个。",
         "500 counts: it is the first of 500 and above."),
        *[(lambda status, known=known: status in (None, 408, 429, *known), "500 以上有很多，列不完：用 status >= 500。",
           "there are too many from 500 on for a list: status >= 500.")
          for known in ((500,), (500, 502, 503), (500, 502, 503, 504))],
        (partial(worth_a_retry, named=range(408, 430)), "408 和 429 是两个状态码，不是一段：422 是请求本身不对。",
         "408 and 429 are two codes and no range: 422 is a wrong request."),
        (partial(worth_a_retry, named=()), "408 和 429 也值得重试：一个是超时，一个是请求太多。",
         "408 and 429 are worth a retry too: a timeout, and too many requests."),
        (partial(worth_a_retry, named=(408,)), *STATUS[429]),
        (partial(worth_a_retry, named=(429,)), *STATUS[408]),
        (partial(worth_a_retry, never=(503,)), *STATUS[503]),
        *[(partial(worth_a_retry, named=(408, 429, status)), *STATUS[status]) for status in (400, 401, 404, 200)],
        (partial(worth_a_retry, least=400), *STATUS[400]),
        (lambda status: True, "每个状态都成了 True：status == 408 or 429 总是真，要写 status in (408, 429)。",
         "every status gives True: status == 408 or 429 always does; write status in (408, 429)."),
    ],
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- exercise 4


def doubled(curves, order=sorted, before=False, strictly=False, base=lambda curves: curves[1]):
    """All levels at twice the latency of 1, or with ``before`` of the level before."""
    levels = order(curves)
    bars = {n: 2 * (curves[levels[place - 1]] if before and place else base(curves)) for place, n in enumerate(levels)}
    return [n for n in levels if curves[n] > bars[n] or (curves[n] == bars[n] and not strictly)]


def latency_doubles(curves, what=lambda n, curves: n, **how):
    found = doubled(curves, **how)
    return what(found[0], curves) if found else None


NOT_THE_LATENCY = ("返回的应该是并发，不是序号，也不是延迟。",
                   "return the concurrency, not its place or the latency.")  # fmt: skip
NEVER = "一直没有翻倍时返回 None。", "return None where it never doubles."
FIRST = "要第一次达到的那个，后面又降下来也不管。", "the first that reaches it, even if a later one is below."

ex4 = Exercise(
    right=latency_doubles,
    cases=[
        ({1: 1.0, 2: 1.1, 4: 2.0, 8: 5.0},),
        ({1: 10.0, 2: 13.0, 4: 17.0, 8: 22.0, 16: 30.0},),
        ({8: 9.0, 1: 1.0, 4: 3.0, 2: 1.5},),
        ({1: 1.0, 2: 2.5, 4: 1.5, 8: 3.0},),
        ({1: 2.0, 2: 1.5, 4: 3.0, 8: 4.5},),
        ({1: 1.0, 2: 3.0, 4: 2.0},),
        ({1: 1.0, 2: 1.2, 4: 1.4},),
    ],
    start=("从小到大看每个并发，找第一个延迟不小于并发 1 的两倍的。",
           "look at each concurrency upwards for the first whose latency is at least twice that at 1."),
    mistakes=[
        (partial(latency_doubles, before=True), "要和并发 1 的延迟比，不是和前一档比。",
         "compare with the latency at 1, not with the level before."),
        (partial(latency_doubles, base=lambda curves: min(curves.values())), "要和并发 1 的延迟比，不是和最小的比。",
         "compare with the latency at 1, not with the smallest."),
        (partial(latency_doubles, what=lambda n, curves: max(filter(n.__gt__, curves))),
         "这是翻倍之前的那一档；要的是翻倍的那一档。", "this is the level before; return the one where it doubles."),
        (partial(latency_doubles, strictly=True), "正好两倍也算。", "exactly twice counts too."),
        (partial(latency_doubles, order=list), "字典不一定按顺序：先排序。",
         "the dictionary need not be in order: sort it first."),
        (partial(latency_doubles, what=lambda n, curves: sorted(curves).index(n)), *NOT_THE_LATENCY),
        (partial(latency_doubles, what=lambda n, curves: curves[n]), *NOT_THE_LATENCY),
        *[(wrong, *NEVER) for wrong in (
            lambda curves: min(doubled(curves)), lambda curves: doubled(curves)[0],
            lambda curves: next(iter(doubled(curves))), lambda curves: latency_doubles(curves) or max(curves),
            lambda curves: latency_doubles(curves) or 0)],
        (partial(latency_doubles, order=lambda curves: sorted(curves, key=curves.get)),
         "要按并发从小到大走，不是按延迟。", "go upwards by concurrency, not by latency."),
        (lambda curves: next((n for n in sorted(curves) if all(m in doubled(curves) for m in curves if m >= n)), None),
         *FIRST),
        (lambda curves: max(doubled(curves), default=None), *FIRST),
    ],
)  # fmt: skip
