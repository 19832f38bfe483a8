"""What lesson 03 and its appendix A4 say of queries and keys that were not normed first and rotated then."""


def hint_of(name, steps):
    """The hint, in Chinese and English, for the query or the key; steps: "n" for normed, "r" for rotated, in order."""
    if steps == "rn":
        return (
            f"{name} 先旋转、后归一化了；Qwen3 是先归一化，再旋转。",
            f"{name} is rotated first and normed after; Qwen3 norms first, then rotates.",
        )
    if "n" not in steps:
        return f"{name} 还没有归一化。", f"{name} is not normed yet."
    return f"{name} 还没有旋转。", f"{name} is not rotated yet."
