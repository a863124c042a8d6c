"""The published configurations of conf/, read as ESPnet reads them."""

from pathlib import Path

from espnet_adastride.plugin.espnet import asr_task

CONF = Path(__file__).resolve().parents[1] / "conf"
TOKENS, TOKENS_PER_SECOND = 5000, 4  # BPE pieces of read English


def read_configuration(name):
    """Return the options of a training with conf/NAME and as many tokens."""
    conf = asr_task.ASRTask.get_parser().parse_args(["--config", str(CONF / name)])
    pieces = [str(piece) for piece in range(TOKENS - 3)]
    conf.token_list = ["<blank>", "<unk>", *pieces, "<sos/eos>"]
    return conf
