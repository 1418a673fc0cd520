"""Weights on this machine: where they are, whether they are the right bytes, and how to get them.

`opened`, `read` and `fill` are what a model's `load` calls; `pull`, `import_file`, `pack`, `verify`, `accept` and
`status` are `segwise weights`. A file is known by its card (`WeightFile`: name in the folder, size, SHA-256); weights
whose digest no card states and nobody vouched for are "unknown": shown, never ranked. Nothing here executes what a file
holds: tensors are read with safetensors or torch's `weights_only`, members of a wheel or an archive are copied byte by
byte to a name of ours.
"""

from segwise.weights.archive import Entry, pack
from segwise.weights.bring import Imported, import_file
from segwise.weights.checkpoint import Checkpoint, fill, opened, read, together
from segwise.weights.fetching import Progress
from segwise.weights.folders import ModelFolder, adapter
from segwise.weights.local import Status, accept, accepted, digest, folder, require, status
from segwise.weights.remote import Pulled, pull
from segwise.weights.tensors import signature, tensors
from segwise.weights.verify import Verified, verify

__all__ = [
    "Checkpoint",
    "Entry",
    "Imported",
    "ModelFolder",
    "Progress",
    "Pulled",
    "Status",
    "Verified",
    "accept",
    "accepted",
    "adapter",
    "digest",
    "fill",
    "folder",
    "import_file",
    "opened",
    "pack",
    "pull",
    "read",
    "require",
    "signature",
    "status",
    "tensors",
    "together",
    "verify",
]
