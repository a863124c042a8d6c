"""Stage 3 with --feats_type extracted: extract features of a pretrained encoder once.

    python -m espnet_adastride.bin.extract_features --upstream whisper \
        --set dump/raw/org/train dump/extracted/org/train --nj 2

A finished and unchanged ``--set SOURCE OUTPUT`` is skipped; an interrupted run resumes.
``--upstream`` is ``whisper`` (Whisper tiny.en,
which pip installs), ``whisper:FOLDER`` (any faster-whisper folder) or
``transformers:FOLDER`` (WavLM, HuBERT, wav2vec2 or Whisper), see
espnet_adastride/corpora/features.py.

``--training_options FOLDER`` prints the options of asr_train that the features in a
folder need; ``--check NAME[:MODEL]`` tells whether an upstream is available.
"""

import sys
from pathlib import Path

from espnet_adastride.bin.parsers import Parser, add_set_options
from espnet_adastride.corpora.datadir import TABLES, audio_files
from espnet_adastride.corpora.features import build_upstream, check_upstream
from espnet_adastride.corpora.upstream_record import RECORD_NAME, read_record
from espnet_adastride.errors import UserError, located, one_line_errors
from espnet_adastride.options import parse_rate, whole
from espnet_adastride.recipe.extraction import MADE_FROM, extract_data_dir
from espnet_adastride.recipe.stamps import Stamp, fingerprint, hash_listing

#: the files in a folder of features
MADE = (
    *TABLES,
    "feats.scp",
    "spk2utt",
    "utt2num_samples",
    "utt2num_frames",
    "feats_dim",
    "feats_type",
    RECORD_NAME,
)


def get_parser():
    parser = Parser(__doc__)
    add_set_options(parser, "a formatted data folder and its output folder")
    parser.add_argument(
        "--upstream",
        required=True,
        metavar="NAME[:MODEL]",
        help="whisper, whisper:FOLDER or transformers:FOLDER",
    )
    parser.add_argument(
        "--layers", default="last", help="last, all, or numbers (transformers)"
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to compute"
    )
    parser.add_argument(
        "--nj", type=whole(1), default=1, help="recordings processed in parallel"
    )
    return parser


@one_line_errors
def main(cmd=None):
    words = sys.argv[1:] if cmd is None else cmd
    if len(words) == 2 and words[0] == "--training_options":
        record = read_record(Path(words[1]) / RECORD_NAME)
        print("\n".join(record.training_options()))
        return
    if len(words) == 2 and words[0] == "--check":
        with located("--upstream"):
            check_upstream(words[1])
        return
    args = get_parser().parse_args(words)
    for source, _ in args.set:
        if not (Path(source) / "wav.scp").is_file():
            raise UserError(f"--set {source}: no wav.scp in it; stage 3 makes it")
    rate = parse_rate(args.fs)
    with located("--upstream"):
        check_upstream(args.upstream)
        upstream = build_upstream(args.upstream, args.layers, args.device, args.nj)
    if upstream.record.rate != rate:
        raise UserError(
            f"--fs {args.fs}: {upstream.record.words()} takes {upstream.record.rate} "
            f"Hz; give --fs {upstream.record.rate}"
        )
    import torch

    torch.set_num_threads(1)  # recordings run in parallel
    for source, output in args.set:
        stamp = Stamp(Path(output) / ".stage_done")
        options = {
            "upstream": upstream.record.to_yaml(),
            "audio": hash_listing(audio_files(source)),
        }
        inputs = [Path(source) / name for name in (*TABLES, "utt2num_samples")]
        work = fingerprint(inputs, options=options)
        if stamp.is_done(work, args.rerun, output):
            continue
        if args.rerun:
            (Path(output) / "feats" / MADE_FROM).unlink(missing_ok=True)
        summary = extract_data_dir(source, output, upstream, args.nj, work)
        stamp.write(work, [Path(output) / name for name in MADE], summary)
        print(summary, flush=True)


if __name__ == "__main__":
    main()
