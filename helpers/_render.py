"""Renders a chat template as transformers does. Run by helpers/checkpoint.py as a process of its own.

stdin: ``{"template": ..., "variables": [...]}``; stdout: for each set of variables ``{"text"}`` or ``{"error"}``. A
template can loop for ever or double a text until the memory is full, so the process limits itself.
"""

import contextlib
import json
import sys
from datetime import datetime

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 2  # of computing
MEMORY = 2**30  # bytes


class Generation(Extension):
    """``{% generation %}``, which marks what the model wrote: here only its content counts."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def raise_exception(message):
    raise TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def render(template, variables):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    try:
        return {"text": environment.from_string(template).render(**variables)}
    except Exception as error:  # a template can raise anything, as Python can
        return {"error": (str(error) or type(error).__name__)[:200]}


def main():
    work = json.load(sys.stdin)
    with contextlib.suppress(ImportError, ValueError, OSError):  # none on Windows; a limit may be lower already
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(json.dumps([render(work["template"], variables) for variables in work["variables"]]))


if __name__ == "__main__":
    main()
