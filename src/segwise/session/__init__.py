"""One volume under someone's hands: a person and a simulated user drive the same session.

`Session` is a list of rounds with undo, redo, replay and acceptance; `file` keeps it in one file without the patient's
identity, so that a crash loses nothing.
"""

from segwise.session.packed import Packed
from segwise.session.session import Round, Session

__all__ = ["Packed", "Round", "Session"]
