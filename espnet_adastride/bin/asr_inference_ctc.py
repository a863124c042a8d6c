"""Decode with the CTC branch alone, greedily: the best token of every frame.

It takes the options of ``espnet2.bin.asr_inference`` that mean something without a
beam, and writes the same files
(``OUTPUT_DIR/1best_recog/{text,token,token_int,score}``). It is much faster than beam
search, and shows what the encoder's frames are worth without a decoder's help.

Batches larger than 1 are faster on a GPU. The default is 1, because ESPnet's Conformer
lets padding reach the valid frames in its convolution module: results in a padded batch
differ a little from those alone.
"""

import argparse
import logging
import sys
from typing import List, Optional, Tuple

import torch
from espnet2.fileio.datadir_writer import DatadirWriter
from espnet2.tasks.asr import ASRTask
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter
from espnet2.torch_utils.device_funcs import to_device
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from espnet2.utils import config_argparse
from espnet2.utils.types import str2bool, str2triple_str, str_or_none

import espnet_adastride.plugin  # noqa: F401  (registers the plugin)
from espnet_adastride.plugin.errors import ConfigurationError, PluginError
from espnet_adastride.plugin.espnet import TooShortUttError


def ctc_collapse(path: List[int], blank: int) -> List[int]:
    """Merge repeats, then drop blanks: [0, 5, 5, 0, 5] -> [5, 5] with blank 0."""
    merged = [t for i, t in enumerate(path) if i == 0 or t != path[i - 1]]
    return [token for token in merged if token != blank]


class CTCGreedy:
    """A trained model as a function from speech to (text, tokens, ids, score).

    Args:
        asr_train_config: the experiment's config.yaml (None: beside the model file).
        asr_model_file: parameters.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigurationError: if the model has no CTC branch.
    """

    def __init__(
        self,
        asr_train_config: Optional[str],
        asr_model_file: Optional[str],
        device: str = "cpu",
    ):
        model, args = ASRTask.build_model_from_file(
            asr_train_config, asr_model_file, device
        )
        if model.ctc is None:
            raise ConfigurationError(
                "this model has no CTC branch (ctc_weight 0): decode it with "
                "espnet2.bin.asr_inference"
            )
        self.model, self.args, self.device = model.eval(), args, device
        self.converter = TokenIDConverter(token_list=model.token_list)
        bpe = {"bpemodel": args.bpemodel} if args.token_type == "bpe" else {}
        self.tokenizer = build_tokenizer(token_type=args.token_type, **bpe)

    @torch.no_grad()
    def __call__(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> List[Tuple[str, List[str], List[int], float]]:
        """Decode a padded batch.

        Args:
            speech: (B, samples).
            speech_lengths: (B,).

        Returns:
            One (text, tokens, token ids, summed log probability) per utterance.

        Raises:
            TooShortUttError: if no utterance of the batch is long enough.
        """
        batch = to_device(
            {"speech": speech, "speech_lengths": speech_lengths}, self.device
        )
        frames, lengths = self.model.encode(**batch)
        if isinstance(frames, tuple):  # intermediate CTC
            frames = frames[0]
        best, path = self.model.ctc.log_softmax(frames).max(dim=2)
        results = []
        for scores, ids, length in zip(best.cpu(), path.cpu(), lengths.tolist()):
            ids = ctc_collapse(ids[:length].tolist(), self.model.blank_id)
            tokens = self.converter.ids2tokens(ids)
            text = self.tokenizer.tokens2text(tokens)
            results.append((text, tokens, ids, float(scores[:length].sum())))
        return results


def get_parser():
    """Return the parser; underscored options, YAML through --config."""
    parser = config_argparse.ArgumentParser(
        description="Greedy CTC decoding",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--log_level", type=lambda x: x.upper(), default="INFO")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--ngpu", type=int, default=0, help="0: CPU, 1: one GPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float32", choices=["float32"])
    parser.add_argument("--num_workers", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument(
        "--data_path_and_name_and_type",
        type=str2triple_str,
        required=True,
        action="append",
    )
    parser.add_argument("--key_file", type=str_or_none)
    parser.add_argument("--allow_variable_data_keys", type=str2bool, default=False)
    parser.add_argument("--asr_train_config", type=str_or_none)
    parser.add_argument("--asr_model_file", type=str_or_none)
    return parser


def inference(args: argparse.Namespace) -> None:
    """Decode all utterances of the scp files and write the results."""
    logging.basicConfig(
        level=args.log_level,
        format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s",
    )
    if args.ngpu > 1:
        raise ConfigurationError("ngpu: decoding uses one GPU at most; run more jobs")
    set_all_random_seed(args.seed)
    decode = CTCGreedy(
        args.asr_train_config, args.asr_model_file, "cuda" if args.ngpu else "cpu"
    )
    loader = ASRTask.build_streaming_iterator(
        args.data_path_and_name_and_type,
        dtype=args.dtype,
        batch_size=args.batch_size,
        key_file=args.key_file,
        num_workers=args.num_workers,
        preprocess_fn=ASRTask.build_preprocess_fn(decode.args, False),
        collate_fn=ASRTask.build_collate_fn(decode.args, False),
        allow_variable_data_keys=args.allow_variable_data_keys,
        inference=True,
    )
    with DatadirWriter(args.output_dir) as writer:
        recognised = writer["1best_recog"]
        for keys, batch in loader:
            for length in batch["speech_lengths"].tolist():
                logging.info("speech length: %d", length)
            try:
                results = decode(batch["speech"], batch["speech_lengths"])
            except TooShortUttError as error:
                logging.warning("Utterance %s %s", ", ".join(keys), error)
                results = [("", [], [], 0.0)] * len(keys)
            for key, (text, tokens, ids, score) in zip(keys, results):
                recognised["token"][key] = " ".join(tokens)
                recognised["token_int"][key] = " ".join(map(str, ids))
                recognised["score"][key] = str(score)
                recognised["text"][key] = text


def main(cmd=None):
    """Run the command."""
    try:
        inference(get_parser().parse_args(cmd))
    except PluginError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
