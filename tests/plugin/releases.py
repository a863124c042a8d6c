"""Which release of ESPnet the tests run under, where its results differ.

The product never asks: it looks for what it needs. Tests state what is true of which.
"""

import importlib.util

#: ESPnet 202611 (Python 3.12, 3.13) rather than 202511 (Python 3.10, 3.11)
NEWER = importlib.util.find_spec("espnet2.legacy") is not None


def conv2d_frames(features, longest):
    """Return the frames that conv2d (4x) makes of an utterance in a batch.

    ESPnet 202611 counts them from the utterance's own length; 202511 slices the mask of
    the padded batch, ``mask[:, :, :-2:2][:, :, :-2:2]``.

    Args:
        features: of the utterance.
        longest: features of the batch's longest utterance.
    """
    for _ in range(2):
        if NEWER:
            features = max(0, (features - 3) // 2 + 1)
        else:
            kept = range(longest)[:-2:2]
            features, longest = sum(i < features for i in kept), len(kept)
    return features
