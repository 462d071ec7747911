"""Generate molecules, crystals and graphs: checked RDKit, pymatgen and networkx objects."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sciar.checkpoint import models as models
    from sciar.errors import DataError as DataError
    from sciar.errors import InputError as InputError
    from sciar.errors import SciarError as SciarError
    from sciar.errors import WeightsError as WeightsError
    from sciar.files import read as read
    from sciar.files import write as write
    from sciar.generate import generate as generate
    from sciar.generator import Generator as Generator
    from sciar.generator import load as load
    from sciar.prompt import Prompt as Prompt
    from sciar.samples import Samples as Samples
    from sciar.structure import Structure as Structure
    from sciar.validate import Verdict as Verdict
    from sciar.validate import validate as validate

# public name → the file it comes from; imported on first use, so that `import sciar` loads nothing heavy
_PUBLIC = {
    "DataError": "errors",
    "Generator": "generator",
    "InputError": "errors",
    "Prompt": "prompt",
    "Samples": "samples",
    "SciarError": "errors",
    "Structure": "structure",
    "Verdict": "validate",
    "WeightsError": "errors",
    "finetune": "finetune",
    "generate": "generate",
    "load": "generator",
    "models": "checkpoint",
    "predict": "predict",
    "read": "files",
    "validate": "validate",
    "write": "files",
}
__all__ = sorted(_PUBLIC)  # noqa: PLE0605


class _Package(ModuleType):
    """Importing the file sciar/generate.py must not hide the function `sciar.generate`, so such a file never becomes an attribute."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _PUBLIC.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        if not name.startswith("_") and importlib.util.find_spec(f"sciar.{name}") is not None:
            return importlib.import_module(f"sciar.{name}")  # sciar.datasets, sciar.metrics …
        raise AttributeError(f"module 'sciar' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sciar.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
