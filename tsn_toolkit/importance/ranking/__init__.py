"""From scores to keep masks.

    scores -> normalise per layer or group -> pools that are ranked together -> masks

A folder and no file, because every file beside the criteria is one of them.
"""

from tsn_toolkit.importance.ranking.keep import keep_units, keep_weights
from tsn_toolkit.importance.ranking.normalise import NORMALISATIONS, normalise
from tsn_toolkit.importance.ranking.pools import UNIT_SCOPES, WEIGHT_SCOPES, layer_pools, unit_pools

__all__ = ["NORMALISATIONS", "UNIT_SCOPES", "WEIGHT_SCOPES", "keep_units", "keep_weights", "layer_pools", "normalise", "unit_pools"]
