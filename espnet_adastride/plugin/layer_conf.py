"""Checks of ``input_layer_conf``: one function for each word that needs one.

Each raises a ValueError that names the wrong word and the choices; the layer adds where
it is (:data:`WHERE`).
"""

from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from espnet_adastride.downsampling.output import check_number, check_whole
from espnet_adastride.downsampling.registry import downsampler_options
from espnet_adastride.errors import ConfigurationError, unknown_word
from espnet_adastride.plugin.blocks import BlockLength
from espnet_adastride.plugin.strides import WHERE
from espnet_adastride.plugin.trunk import TRUNKS

#: the input layer's own words in input_layer_conf; the rest are the methods' words
OWN_WORDS = (
    "stride",
    "method",
    "trunk",
    "channels",
    "vp_weight",
    "after_blocks",
    "restore",
    "score_from_ctc",
    "train_strides",
    "tell_strides",
    "true_times",
    "block",
    "train_blocks",
)


#: arguments of the layer that the encoder gives it
OF_THE_ENCODER = (
    *("idim", "odim", "dropout_rate", "pos_enc", "self"),
    *("input_size", "output_size"),  # of the transducer's
)


def given_options(conf) -> Dict[str, Any]:
    """Return ``input_layer_conf`` as a dict of its own, empty for None."""
    if conf is None:
        return {}
    if not isinstance(conf, Mapping):
        raise ValueError(f"must be options such as {{stride: 4}}, got {conf!r}")
    for word in conf:
        if not isinstance(word, str) or word in OF_THE_ENCODER:
            choices = [*OWN_WORDS, "the method's own words"]
            raise ValueError(unknown_word("key", word, choices))
    return dict(conf)


def check_options(options: Dict[str, Any], methods: Sequence[str]) -> None:
    """Reject words that no stage's method knows."""
    known = [word for name in set(methods) for word in downsampler_options(name)]
    for word in options:
        if word not in known:
            choices = list(OWN_WORDS) + sorted(set(known))
            raise ValueError(unknown_word("key", word, choices))


def stage_blocks(after_blocks, strides: Sequence[float]) -> List[int]:
    """Return the block of each stage, 0 for the input layer."""
    if after_blocks is None:
        return [0] * len(strides)
    given = after_blocks if isinstance(after_blocks, (list, tuple)) else ()
    whole = all(isinstance(b, int) and not isinstance(b, bool) for b in given)
    if len(given) != len(strides) or not whole:
        more = ""
        if whole and len(given) > len(strides):
            more = f"; for {len(given)} stages, give stride as a list of {len(given)}"
        raise ValueError(
            f"after_blocks must be a list of {len(strides)} whole "
            f"number{'s' * (len(strides) != 1)}, one for each stage of {strides}, got "
            f"{after_blocks!r}{more}"
        )
    if given[0] != 0 or list(given) != sorted(given):
        raise ValueError(
            f"after_blocks must begin with 0, this layer, and not decrease, got "
            f"{after_blocks!r}"
        )
    return list(given)


def checked_restore(restore, after_blocks: Sequence[int]) -> Union[bool, int]:
    """Return True, a block's number, or False."""
    if isinstance(restore, bool) and not restore:
        return False
    if not isinstance(restore, (bool, int)) or restore < 1:
        raise ValueError(
            "restore must be true (restore the rate after the last block), "
            f"false, or the number of a block, got {restore!r}"
        )
    if not any(after_blocks):
        raise ValueError(
            "restore is for stages after blocks, and there is none: give after_blocks, "
            "such as [0, 1]"
        )
    if restore is not True and restore <= after_blocks[-1]:
        raise ValueError(
            f"restore: {restore} leaves no block at the rate of the stage after "
            f"block {after_blocks[-1]}: give a later block, or true"
        )
    return restore


def checked_ctc_start(
    score_from_ctc,
    methods: Sequence[str],
    after_blocks: Sequence[int],
    options: Dict[str, Any],
) -> Optional[float]:
    """Return the factor of 1 - p(blank) in the scores at the start, or None."""
    if isinstance(score_from_ctc, bool):
        if not score_from_ctc:
            return None
        score_from_ctc = 1.0
    start = check_number("score_from_ctc", score_from_ctc)
    if not any(after_blocks):
        raise ValueError(
            "score_from_ctc is for stages after blocks, and there is none: give "
            "after_blocks, such as [0, 1]"
        )
    for method, block in zip(methods, after_blocks):
        if block and method not in ("adastride", "adastride_f"):
            raise ValueError(
                f"score_from_ctc: the stage after block {block} is {method}, which has "
                "no scores; make it adastride or adastride_f"
            )
    if options.get("score_hidden") is not None or options.get("score_context", 1) != 1:
        raise ValueError(
            "score_from_ctc is a part of scores of one vector, and score_hidden and "
            "score_context compute these with a network; leave one of them out"
        )
    return start


def block_length(
    block, train_blocks, after_blocks: Sequence[int], strides: Sequence[float]
) -> Optional[BlockLength]:
    """Return the length of blocks, or None."""
    if block is None:
        if train_blocks is not None:
            raise ValueError("train_blocks is for training: give block, too")
        return None
    if any(after_blocks):
        raise ValueError(
            "block cannot be combined with after_blocks: a stage after a block of the "
            "encoder places the whole utterance; leave one of them out"
        )
    return BlockLength(block, train_blocks, strides)


def check_trunk(trunk: str, channels: int) -> None:
    """Reject an unknown trunk and an invalid number of channels."""
    if trunk not in tuple(TRUNKS):  # compared, not hashed: it may be a list
        raise ValueError(unknown_word("trunk", trunk, TRUNKS))
    check_whole("channels", channels)


def check_together(layer) -> None:
    """Reject options of a built layer that exclude each other.

    Raises:
        ConfigurationError: naming them.
    """
    told = layer.stride_vector is not None or layer.true_times
    if layer.later and told:
        raise ConfigurationError(
            f"{WHERE}: after_blocks cannot be combined with tell_strides and "
            "true_times, which describe only this layer's strides"
        )
    if layer.blocks is not None and layer.lengths_from_content():
        raise ConfigurationError(
            f"{WHERE}: block needs output frames whose number does not depend on the "
            "content: set exact: true, or leave block out"
        )
