"""Users' own models, and other functions of theirs, named as `module:function`."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from torch import Tensor

from unmask.errors import ModelError, suggest

Classifier: TypeAlias = Callable[[Tensor], Tensor]
"""Anything that maps images (B, C, H, W) in [0, 1] to outputs (B, K)."""


def call_named(spec: str) -> Classifier:
    """Import `module:function`, call the function without arguments and return the model that it returns.

    Modules are looked up in the working directory first. Raises ModelError where the module or function does not exist,
    either of them raises, or the result cannot be called.
    """
    function = find_named(spec)
    with _working_directory_importable():
        try:
            model = function()
        except (Exception, SystemExit) as error:
            raise ModelError(
                f"Calling {spec} without arguments raised {type(error).__name__}: {error}. "
                "The function must take no arguments and return the model."
            ) from error
    if not callable(model):
        raise ModelError(
            f"{spec} returned a {type(model).__name__}, which cannot be called. It must return the model: a callable "
            "from images (B, C, H, W) in [0, 1] to logits (B, K)."
        )
    classifier: Classifier = model
    return classifier


def find_named(spec: str) -> Callable[..., Any]:
    """Import `module:function` and return the function, of whatever use it is; modules as for `call_named`.

    Raises ModelError where the module or function does not exist, or importing it raises.
    """
    module_name, _, function_name = spec.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), function_name]):
        raise ModelError(
            f"'{spec}' is not of the form module:function. Write for instance my_models:build, from the folder that "
            "holds my_models.py."
        )
    with _working_directory_importable():
        return _function(_module(module_name, spec), function_name, spec)


def import_own(name: str) -> None:
    """Import a module of the user's, for what it registers; raises ModelError where it does not exist, or raises."""
    with _working_directory_importable():
        _module(name, name)


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    entry = str(Path.cwd())
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _module(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ModelError(
                f"{spec}: there is no module '{error.name}' in {Path.cwd()} or among the installed packages. "
                "Run from the folder that holds it, or install it."
            ) from error
        raise ModelError(
            f"{spec}: importing {name} raised {type(error).__name__}: {error}. Mend the module, then try again."
        ) from error


def _function(module: ModuleType, name: str, spec: str) -> Callable[..., Any]:
    known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    function: Any = getattr(module, name, None)
    if function is None:
        raise ModelError(
            f"{spec}: the module {module.__name__} has no '{name}'.{suggest(name, known)} "
            f"Callables in it: {', '.join(known[:10]) or 'none'}."
        )
    if not callable(function):
        raise ModelError(f"{spec} is a {type(function).__name__}; expected a function.")
    made: Callable[..., Any] = function
    return made
