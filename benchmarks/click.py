"""What a click costs after the scan is encoded: a session on a real CT, first word against later words, in turn.

python benchmarks/click.py ../shared/data/ct_abdomen_ts/image.nii.gz [MODEL]

Prints, over several fresh sessions, the seconds of the first word (image encoder, prompt encoder and mask decoder) and
of the second one on the same slice (prompt encoder and mask decoder only: the store must make nothing), their ratio
with its spread, and how the second one divides between the net's decoder and everything else (marks, resize, mask).
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

from segwise import assemble, io
from segwise.prompt import Box, Prompt
from segwise.session import Session
from segwise.store import FeatureStore

REPEATS = 7


class Counted(FeatureStore):
    """A store that counts what it had to make."""

    made = 0

    def get(self, keys, make_many):
        def counted(missing):
            self.made += len(missing)
            return make_many(missing)

        return super().get(keys, counted)


def main(image: str, model: str = "litemedsam") -> None:
    """Print the table."""
    volume = io.read(Path(image)).volume
    segmenter = assemble.segmenter(model)
    decoder_s: list[float] = []
    decode = segmenter.parts.net.decode

    def timed_decode(*args):
        start = time.perf_counter()
        answer = decode(*args)
        decoder_s.append(time.perf_counter() - start)
        return answer

    segmenter.parts.net.decode = timed_decode
    axis = volume.grid.axis_of("axial")
    firsts, seconds, decodes = [], [], []
    for i in range(REPEATS):
        low, high = [n // 4 for n in volume.grid.shape], [3 * n // 4 for n in volume.grid.shape]
        low[axis] = volume.grid.shape[axis] // 4 + i % max(1, volume.grid.shape[axis] // 2)
        high[axis] = low[axis] + 1
        store = Counted()
        session = Session(segmenter, volume, store=store)
        box = Prompt((Box.of(volume.grid, low, high),))
        first = _said(session, box)
        made = store.made
        inner = [a + (k != axis) for k, a in enumerate(low)]
        decoder_s.clear()
        second = _said(session, box.also(Box.of(volume.grid, inner, high)))
        assert store.made == made == 1, "a word on an encoded slice encoded again"
        firsts.append(first)
        seconds.append(second)
        decodes.append(sum(decoder_s))
    ratios = [a / b for a, b in zip(firsts, seconds, strict=True)]
    print(f"{model} on {'x'.join(map(str, volume.grid.shape))} voxels, {torch.get_num_threads()} threads")
    for name, found, unit in (
        ("first word (encoder + prompt encoder + decoder)", firsts, "s"),
        ("second word (prompt encoder + decoder), 2 boxes", seconds, "s"),
        ("  of it the net's prompt encoder and decoder", decodes, "s"),
        ("first / second", ratios, ""),
    ):
        print(f"{name:50} {statistics.median(found):8.3f} {unit} ({min(found):.3f} to {max(found):.3f})")


def _said(session: Session, prompt: Prompt) -> float:
    start = time.perf_counter()
    session.say({"target": prompt})
    session.masks()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*sys.argv[1:])
