"""Parity: what our code computes from an official checkpoint, beside what the official code computed.

One file a model, named like its folder of fixtures, with `outputs(fixture)`: every `out.*` key of the fixture's io.npz
→ our array, or `Skip(reason)`. `python -m parity` (in tests/) writes the table.
"""
