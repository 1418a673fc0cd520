"""Files into volumes and masks into files; LPS and RAS end here."""

from segwise.io.inspection import Inspection, inspect, would_read
from segwise.io.limits import Limits
from segwise.io.reading import peek, read, read_labels
from segwise.io.scan import Finding, Header, LabelMap, Peek, Scan
from segwise.io.values import guess_modality
from segwise.io.writing import must_be_free, write_mask

__all__ = [
    "Finding",
    "Header",
    "Inspection",
    "LabelMap",
    "Limits",
    "Peek",
    "Scan",
    "guess_modality",
    "inspect",
    "must_be_free",
    "peek",
    "read",
    "read_labels",
    "would_read",
    "write_mask",
]
