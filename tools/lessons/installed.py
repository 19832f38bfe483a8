"""What an installed library offers, read from its source: flags, environment variables, fields with their defaults.

Nothing is imported, so that vLLM takes a second, needs none of its dependencies, and a library that is only unpacked
(``pip install --no-deps --target FOLDER``) will do.
"""

import ast
import re
from functools import cached_property
from importlib import metadata
from itertools import chain
from pathlib import Path

SOURCES = {  # by library, the files that hold what prose names
    "vllm": (
        "vllm/*.py", "vllm/config/*.py", "vllm/engine/*.py", "vllm/entrypoints/**/*.py", "vllm/reasoning/*.py",
        "vllm/tool_parsers/*.py", "vllm/v1/engine/*.py", "vllm/v1/metrics/*.py", "vllm/platforms/*.py",
        "vllm/model_executor/layers/mamba/mamba_utils.py",
    ),
    "transformers": ("transformers/*.py", "transformers/models/qwen*/*.py", "transformers/models/auto/*.py"),
    "modelscope": ("modelscope/hub/**/*.py", "modelscope/cli/*.py", "modelscope_hub/**/*.py"),
    "openai": ("openai/*.py", "openai/lib/*.py", "openai/types/*.py", "openai/types/chat/*.py"),
    "huggingface_hub": ("huggingface_hub/*.py", "huggingface_hub/cli/*.py"),
    "torch": ("torch/*.py", "torch/nn/modules/*.py"),
}  # fmt: skip
PARSERS = {  # where the flags of a library's commands are added
    "vllm": r"^class (?:EngineArgs|FrontendArgs)\b",  # those of `vllm serve`, and no other parser's of the package
    "modelscope": r"\.add_argument\(",
}
FLAG_FIELDS = ("BaseFrontendArgs", "FrontendArgs")  # vLLM makes a flag of each of their fields
DEFINED = re.compile(r"^(?:class|def|async def) (\w+)", re.MULTILINE)
METHOD = "()"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Library:
    """A library as it lies in ``folder``, a site-packages folder.

    Raises FileNotFoundError if it is not there.
    """

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        self._members: dict[str, dict[str, str]] = {}
        named = (metadata.distributions(name=known, path=[str(folder)]) for known in (name, f"{name}_cpu"))
        found = next(chain.from_iterable(named), None)
        if not found:
            raise FileNotFoundError(f"{name} is not in {folder}")
        self.version = found.version.split("+")[0]

    @cached_property
    def files(self) -> dict[Path, str]:
        """The text of each source file."""
        paths = [path for place in SOURCES[self.name] for path in sorted(self.folder.glob(place))]
        return {path: path.read_text(encoding="utf-8", errors="replace") for path in paths}

    @cached_property
    def words(self) -> set[str]:
        """Every word of the source that a program could use as a name."""
        return {word for text in self.files.values() for word in re.findall(r"[A-Za-z_]\w*", text)}

    @cached_property
    def _places(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path, text in self.files.items():
            for name in DEFINED.findall(text):
                found.setdefault(name, []).append(path)
        return found

    def _definitions(self, name: str) -> list[Definition]:
        nodes = [node for path in self._places.get(name, []) for node in ast.parse(self.files[path]).body]
        return [node for node in nodes if isinstance(node, Definition) and node.name == name]

    def members(self, name: str) -> dict[str, str]:
        """What a class has: fields, parameters of its ``__init__`` and methods, also inherited ones; or the parameters
        of a function.

        By member its default as source text, "" where it has none, :data:`METHOD` for a method. Of a name that is not
        there, nothing.
        """
        if name not in self._members:
            self._members[name] = {}  # a class that inherits from one of its own name ends here
            found = self._members[name]
            for node in self._definitions(name):
                for base in node.bases if isinstance(node, ast.ClassDef) else []:
                    found |= self.members(ast.unparse(base).split(".")[-1].split("[")[0])
                for part in node.body if isinstance(node, ast.ClassDef) else [node]:
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                        found[part.target.id] = _default(part.value)
                    elif isinstance(part, FUNCTIONS) and part.name in ("__init__", name):
                        found |= _parameters(part)
                    elif isinstance(part, FUNCTIONS):
                        found[part.name] = METHOD
        return self._members[name]

    @cached_property
    def flags(self) -> set[str]:
        """The flags of its command: each ``--name`` that its parser adds."""
        found = set()
        for text in self.files.values():
            if self.name in PARSERS and re.search(PARSERS[self.name], text, re.MULTILINE):
                for node in ast.walk(ast.parse(text)):
                    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                        found |= {value for a in node.args if (value := getattr(a, "value", None)) and _is_flag(value)}
        fields = [field for name in FLAG_FIELDS for field in self.members(name).items()]
        return found | {"--" + name.replace("_", "-") for name, default in fields if default != METHOD}

    @cached_property
    def variables(self) -> set[str]:
        """The environment variables that it reads, as far as it names them in quotes."""
        if self.name == "vllm":  # it has a table of them
            tree = ast.parse(self.files[self.folder / "vllm" / "envs.py"])
            tables = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.AnnAssign)]
            keys = [key for table in tables if isinstance(table, ast.Dict) for key in table.keys]
            return {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
        return {name for text in self.files.values() for name in re.findall(r"[\"']([A-Z][A-Z0-9_]+)[\"']", text)}


def _is_flag(value: object) -> bool:
    return isinstance(value, str) and value.startswith("--")


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, str]:
    a = function.args
    ordered = a.posonlyargs + a.args
    defaults = [None] * (len(ordered) - len(a.defaults)) + a.defaults
    pairs = [*zip(ordered, defaults, strict=True), *zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    return {argument.arg: _default(value) for argument, value in pairs if argument.arg != "self"}


def _default(value: ast.expr | None) -> str:
    """A default as source text; that of ``Field(default=16, ge=1)`` is 16."""
    if isinstance(value, ast.Call) and getattr(value.func, "id", "") in ("Field", "field"):
        named = {keyword.arg: keyword.value for keyword in value.keywords}
        first = value.args[0] if value.args else None
        return _default(named.get("default", first))
    return ast.unparse(value) if value is not None else ""
