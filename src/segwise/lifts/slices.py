"""A 2D net on a volume: every marked slice answers for itself.

A 2D box is a box one slice thick; a 3D box is repeated on its slices. Several boxes of one prompt enclose the target
together; for two on one slice the greater logit counts. Slices that no mark lies on are OUTSIDE.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from segwise.lifts.planes import Piece, Planes, marked, nothing
from segwise.nets.contract import Marks
from segwise.segmenter import Ask, Prediction, State, expect


class Slices(Planes):
    """The Segmenter of a 2D promptable net that asks each marked slice."""

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """One prediction an ask: on the box of slices marked; each slice is encoded once for all asks.

        Raises:
            PromptError: a prompt says nothing that the net can use on any slice.
        """
        wanted: dict[int, list[tuple[int, Marks]]] = defaultdict(list)  # slice -> (ask, its marks there)
        for i, ask in enumerate(asks):
            marks = self._marks(state, ask)
            if not marks:
                raise nothing(ask.prompt)
            for place, there in marks.items():
                wanted[place].append((i, there))
        last = {i: place for place in sorted(wanted) for i, _ in wanted[place]}
        pieces: dict[int, dict[int, Piece]] = defaultdict(dict)
        done: dict[int, Prediction] = {}
        expect(len(wanted), "slices")
        for place in sorted(wanted):
            (features,) = self.features(state, [place])
            answered = self.answers(features, [marks for _, marks in wanted[place]])
            for (i, _), piece in zip(wanted[place], answered, strict=True):
                pieces[i][place] = piece
                if last[i] == place:  # views are larger than masks: kept no longer than needed
                    done[i] = self.assembled(state, asks[i], pieces.pop(i))
        return [done[i] for i in range(len(asks))]

    def _marks(self, state: State, ask: Ask) -> dict[int, Marks]:
        spans = marked(ask.prompt, state.volume.grid)
        found = {}
        for place in sorted({place for first, last in spans for place in range(first, last)}):
            window = self.window(state, place)
            marks = self.frame.marks(ask.prompt, window, self.seen(ask, window))
            if len(marks.image):
                found[place] = marks
        return found
