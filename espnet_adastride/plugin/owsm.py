"""ESPnet's decoding of OWSM models, with an input layer whose rate it does not know.

ESPnet looks up the frame rate of ``input_layer`` among its own words. Only long
recordings need the rate: OWSM-CTC encodes overlapping windows of them, and ESPnet joins
these by counting frames. After adaptive strides, counting does not give the place of a
window's frames, so this is rejected. OWSM models with a decoder cut a recording at the
times that they predict, which needs no rate.

ESPnet 202511's greedy search asks for the rate of every model and fails on unknown
words; here the rate may be missing.
"""

from espnet_adastride.downsampling import available_downsamplers
from espnet_adastride.errors import ConfigurationError
from espnet_adastride.options import parse_rate
from espnet_adastride.plugin.imports import after_import, over
from espnet_adastride.plugin.model import input_layer


def _refuse_joining(decoder) -> None:
    if input_layer(decoder.s2t_model) is not None:
        raise ConfigurationError(
            "long recordings: ESPnet encodes OWSM-CTC in windows and joins them by "
            "counting frames, which adaptive strides do not allow; cut the recording "
            "into pieces of the length that the model was trained with, and decode each"
        )


def _init(stock, self, *args, **kwargs):
    try:
        stock(self, *args, **kwargs)
    except KeyError as error:
        # ESPnet sets the rate last
        if error.args[0] not in available_downsamplers():
            raise
        self.frames_per_sec = None


def _decode_long(stock, self, *args, **kwargs):
    _refuse_joining(self)
    return stock(self, *args, **kwargs)


def _iter_long(stock, self, *args, **kwargs):
    if input_layer(self.s2t_model) is not None:
        if self.ctc_only:
            _refuse_joining(self)
        rate = (self.s2t_train_args.frontend_conf or {}).get("fs", 16000)
        self.sample_rate = self.sample_rate or parse_rate(str(rate))
    return stock(self, *args, **kwargs)


def _install_ctc(module) -> None:
    kind = module.Speech2TextGreedySearch
    kind.__init__ = over(kind.__init__, _init)
    long = over(kind.decode_long_batched_buffered, _decode_long)
    kind.decode_long_batched_buffered = long


def _install_s2t(module) -> None:
    kind = module.Speech2Text
    if hasattr(kind, "iter_long"):  # from 202611 on
        kind.iter_long = over(kind.iter_long, _iter_long)


def install() -> None:
    """Change ESPnet's decoders in place, when they are imported; idempotent."""
    after_import("espnet2.bin.s2t_inference", _install_s2t)
    after_import("espnet2.bin.s2t_inference_ctc", _install_ctc)
