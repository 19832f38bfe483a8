"""Old spellings: names that notebooks of 0.1.0 use and that have since moved to another module."""

from importlib import import_module


def to(*homes: str):
    """A module's ``__getattr__`` that looks for a name in the modules ``homes``, imported when one is asked for."""

    def __getattr__(name: str):
        for home in homes if not name.startswith("__") else ():  # the import system itself asks for __path__
            if name in vars(module := import_module(home)):
                return vars(module)[name]
        raise AttributeError(f"{name!r} is in none of {', '.join(homes)}")

    return __getattr__
