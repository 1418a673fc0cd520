"""The one family of exceptions that Segwise raises for things a user can meet.

    SegwiseError
    ├── InputError            what came in cannot be used
    │   ├── FileError         a file is unreadable, incomplete, of the wrong kind or too large
    │   ├── GridError         two arrays that must share a grid do not, or a grid is impossible
    │   ├── PromptError       a prompt is malformed or says nothing on this volume
    │   └── DatasetError      a folder does not hold the layout it should
    ├── CatalogError          a member or one of its arguments does not exist
    │   └── SpecError         a spec cannot be parsed, or an argument has a wrong value
    ├── PlanError             a plan file is wrong; names the file, the field and what was expected
    ├── WeightsError          weights are missing, damaged, of another model, or not accepted
    ├── NoSuchStructure       a closed-label model is asked for something it does not know
    ├── RunError              a run folder is damaged, foreign, or holds nothing to do
    └── TrainingError         a training cannot begin, go on, or be taken up again

A message says what was wrong, what came, what was expected and what to do. The command line prints it without a
traceback and exits with 2. `assert` is for our own mistakes only.
"""

from __future__ import annotations

NO_MEMORY = ("not enough memory", "allocate memory", "out of memory", "defaultcpuallocator")


def is_no_memory(error: BaseException) -> bool:
    """Whether the system said that there is too little memory, in any of its ways."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY)
    )


class SegwiseError(Exception):
    """Root of the family. `str(error)` is the message a user reads."""


class InputError(SegwiseError):
    """What came in cannot be used."""


class FileError(InputError):
    """A file is unreadable, incomplete, of the wrong kind or too large."""


class GridError(InputError):
    """Two arrays that must share a grid do not, or a grid is impossible."""


class ConditionError(InputError):
    """A condition cannot be made of a case, such as finer slices than it has."""


class PromptError(InputError):
    """A prompt is malformed or says nothing on this volume."""


class DatasetError(InputError):
    """A folder does not hold the layout it should."""


class CatalogError(SegwiseError):
    """A member or one of its arguments does not exist."""


class SpecError(CatalogError):
    """A spec cannot be parsed, or an argument has a wrong value."""


class PlanError(SegwiseError):
    """A plan is wrong: the file, the field, what came and what was expected."""


class WeightsError(SegwiseError):
    """Weights are missing, damaged, of another model, or not accepted."""


class NoSuchStructure(SegwiseError):
    """A closed-label model is asked for a structure that is not on its list."""


class RunError(SegwiseError):
    """A run folder is damaged, foreign, or holds nothing to do."""


class TrainingError(SegwiseError):
    """A training cannot begin, go on, or be taken up again."""
