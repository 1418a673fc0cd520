"""How large the prediction is, and by how much too large or too small."""

from __future__ import annotations

from segwise.card import Measure, MetricCard
from segwise.pair import Pair, undefined

CARD = MetricCard(
    title="Volume",
    summary="Volume of the prediction and its signed and relative error.",
    measures={
        "volume_ml": Measure(
            higher_is_better=True, unit="ml", low=0.0, meaning="of the prediction; no better or worse"
        ),
        "volume_error_ml": Measure(
            higher_is_better=False, unit="ml", meaning="prediction minus reference, signed: 0 is best"
        ),
        "relative_volume_error": Measure(
            higher_is_better=False, low=0.0, meaning="|prediction - reference| / reference"
        ),
    },
    edge_cases=(
        "No reference: both errors undefined. Reference empty (both empty too): volume_error_ml is the prediction's "
        "volume, the relative error undefined. Prediction empty: the relative error is 1."
    ),
    source="Metrics Reloaded: absolute volume difference ratio",
)


def score(pair: Pair) -> dict[str, float]:
    """Volumes, from voxel counts and the determinant of the grid's affine (right for sheared grids too).

    Args:
        pair: both masks.

    Returns:
        volume_ml, volume_error_ml (signed) and relative_volume_error (at least 0), undefined as the card says.
    """
    volume = pair.n_prediction * pair.voxel_ml
    if pair.reference is None:
        error = relative = undefined(pair.gap)
    else:
        error = volume - pair.n_reference * pair.voxel_ml
        relative = abs(pair.n_prediction / pair.n_reference - 1) if pair.n_reference else undefined(pair.gap)
    return {"volume_ml": volume, "volume_error_ml": error, "relative_volume_error": relative}
