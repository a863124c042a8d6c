"""Build the parts of a configured model before there are data for it.

Values that only running code can check, such as attention heads that do not divide a
size, are found in seconds, not after hours of preparation. What could load a pretrained
model is not built, nor what follows an encoder without the plugin's input layers.
"""

import contextlib
import inspect
import re
import traceback

from espnet_adastride.errors import UserError
from espnet_adastride.plugin.encoders import DownsamplingEncoder
from espnet_adastride.plugin.espnet import asr_task, scheduler_classes

#: of features that are not computed yet
FEATURES = 80

#: tokens of a vocabulary that is not made yet
TOKENS = 4


@contextlib.contextmanager
def _reported(word):
    """Report what a class does not accept as a user's mistake in option ``word``."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) and str(error).startswith(f"{word}: "):
            raise
        reason = error if isinstance(error, UserError) else _reason(error)
        raise UserError(f"{word}: {reason}") from None


def _reason(error):
    """Return ESPnet's error in one line, with the line of code if that says more."""
    reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    frames = traceback.extract_tb(error.__traceback__)
    lines = [one.line for one in frames if re.search(r"\bespnet2?\b", one.filename)]
    if lines and lines[-1] and not lines[-1].startswith(("raise ", "def ")):
        reason += f" at `{lines[-1]}`"
    return f"its values do not work ({reason}); correct them"


def build_parts(config, frontend=True):
    """Build what a configuration chooses, with its sizes and a few tokens.

    Args:
        config: options of a training, already checked for unknown words and keys.
        frontend: whether ESPnet computes the features.

    Raises:
        UserError: one line that names the option and ESPnet's reason.
    """
    task = asr_task.ASRTask
    parser = task.get_parser()
    parser.set_defaults(**{**config, "token_list": None})
    args = parser.parse_args([])
    choices = {choice.name: choice for choice in task.class_choices_list}

    def chosen(name):
        return choices[name].get_class(getattr(args, name))

    def build(name, **sizes):
        with _reported(f"{name}_conf"):
            return chosen(name)(**sizes, **getattr(args, f"{name}_conf"))

    features = FEATURES
    if frontend and args.frontend == "default":
        output = build("frontend").output_size()
        features = FEATURES if args.preencoder else output
    if args.specaug is not None:
        build("specaug")
    kind = chosen("encoder")
    if kind is None or not issubclass(kind, DownsamplingEncoder):
        return
    encoder = build("encoder", input_size=features)
    with _reported("optim_conf"):
        optimizer = task.build_optimizers(args, encoder)[0]
    if args.scheduler is not None:
        with _reported("scheduler_conf"):
            scheduler_classes[args.scheduler](optimizer, **args.scheduler_conf)
    if args.postencoder is not None:
        return
    size = {"encoder_output_size": encoder.output_size()}
    with _reported("ctc_conf"):
        asr_task.CTC(odim=TOKENS, **size, **args.ctc_conf)
    if args.decoder is None:
        return
    arguments = {*inspect.signature(chosen("decoder")).parameters}
    pretrained = {"whisper_model", "model_name_or_path"} & arguments
    if "encoder_output_size" in arguments and not pretrained:
        build("decoder", vocab_size=TOKENS, **size)
