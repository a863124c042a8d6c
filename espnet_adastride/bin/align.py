"""Align transcripts with recordings: the time of every word.

    python -m espnet_adastride.bin.align --model exp/asr_train_... \
        --data_dir dump/raw/test_clean --output_dir alignment
    python -m espnet_adastride.bin.align --model model.zip \
        --audio talk.flac --text "SO IT BEGINS" --output_dir alignment

It writes ``words.ctm``, ``tokens.ctm`` and ``alignment.json``. Times come from the CTC
branch and are mapped through the positions of every stage of the input layer, because
adaptive strides do not space frames evenly. Long recordings are encoded in pieces, cut
at pauses, and aligned as a whole. ``--times uniform`` assumes evenly spaced frames, as
ESPnet's asr_align does without the plugin; ``score_times`` measures the difference.
After Ctrl-C, the same command resumes: finished utterances are kept, as long as the
model, the options, the recording and the transcript are the same.
"""

import argparse
import os
from pathlib import Path
from typing import Dict, List, Tuple

from espnet_adastride.bin.model_options import (
    add_model_options,
    add_segment_option,
    check_model_exists,
    load_transcriber,
)
from espnet_adastride.bin.parsers import Parser, add_switch, command, say
from espnet_adastride.corpora.kaldi import read_recordings, read_text, shorten
from espnet_adastride.corpora.recordings import is_missing, name_of, read_audio
from espnet_adastride.errors import (
    AlignmentError,
    AudioError,
    ModelError,
    UnknownTimesError,
    UserError,
    counted,
    fail,
    no_such,
)
from espnet_adastride.files import check_folder, read_utf8
from espnet_adastride.recipe.alignments import Alignments, utterance_fingerprint
from espnet_adastride.recipe.stamps import model_fingerprint

#: options other than the model's files that change the times
OPTIONS_OF_TIMES = (
    "asr_model_file",
    "stride",
    "upstream_model",
    "max_segment",
    "times",
    "ngpu",
)


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    add_model_options(parser)
    add_segment_option(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data_dir", help="folder with wav.scp and text")
    source.add_argument("--audio", help="one recording, or - for stdin; needs --text")
    parser.add_argument("--text", help="the transcript of --audio, or a file with it")
    parser.add_argument(
        "--output_dir",
        required=True,
        help="output folder; it contains the utterances of its last call",
    )
    parser.add_argument(
        "--times",
        default="positions",
        choices=("positions", "uniform"),
        help="frame times: as the input layer placed them (default), or at a "
        "constant rate",
    )
    add_switch(parser, "--overwrite", "align finished utterances again")
    return parser


def read_jobs(args: argparse.Namespace) -> Dict[str, Tuple[str, str]]:
    """Return (audio, transcript) by utterance.

    Raises:
        UserError: for missing files, or files that do not match.
    """
    if args.audio is not None:
        if args.text is None:
            raise UserError("--audio needs its transcript: give --text")
        text = args.text
        if os.sep in text and os.path.isdir(text):  # "data" may be all that is said
            raise UserError(no_such(text, option="--text"))
        if os.path.isfile(text):  # False for a text that no file can be named by
            text = read_utf8(text)
        return {name_of(args.audio): (args.audio, " ".join(text.split()))}
    if args.text is not None:
        raise UserError("--text requires --audio; --data_dir has its own file text")
    folder = Path(args.data_dir)
    waves = read_recordings(folder)
    texts = read_text(folder / "text", allow_empty=True)
    missing = sorted(set(waves) ^ set(texts))
    if missing:
        raise UserError(
            f"{folder}: wav.scp and text hold different utterances: {shorten(missing)}"
            "; give each a line in both"
        )
    return {key: (waves[key], texts[key]) for key in sorted(waves)}


def _load(args: argparse.Namespace):
    """Return the Transcriber; reject a model without a CTC branch."""
    recognise = load_transcriber(args, max_segment=args.max_segment, say=say)
    if recognise.trained.model.ctc is None:
        raise UserError(
            f"{args.model}: no CTC branch (ctc_weight 0), which alignment needs; train "
            "with a ctc_weight above 0"
        )
    return recognise


def align(args: argparse.Namespace) -> List[str]:
    """Align all utterances and write the results; return those that failed.

    Raises:
        SystemExit: with status 130 after Ctrl-C; what is finished is kept.
    """
    jobs = read_jobs(args)
    check_folder(args.output_dir, "--output_dir")
    failed = [key for key, (audio, _) in jobs.items() if is_missing(audio)]
    if failed and len(failed) == len(jobs):
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise UserError(no_such(jobs[failed[0]][0] + more, "check the paths"))
    for key in failed:
        say(f"{key}: {no_such(jobs.pop(key)[0])}")
    check_model_exists(args.model)
    options = {name: getattr(args, name) for name in OPTIONS_OF_TIMES}
    made_from = model_fingerprint(args.model, options)
    aligned = Alignments(args.output_dir, args.times, made_from)
    inputs = {key: utterance_fingerprint(*job) for key, job in jobs.items()}
    if not args.overwrite:
        aligned.read(inputs)
    todo = {key: job for key, job in jobs.items() if key not in aligned.segments}
    if len(todo) < len(jobs):
        say(
            f"{len(jobs) - len(todo)} of {len(jobs)} utterances are already aligned "
            "(--overwrite true aligns them again)"
        )
    if todo:
        recognise = _load(args)
    try:
        for key, (audio, text) in todo.items():
            try:
                wave = read_audio(audio, recognise.trained.rate, say=say)
                uniform = args.times == "uniform"
                segment = recognise.align(wave, text, uniform, audio)
                aligned.add(key, segment, inputs[key])
            except UnknownTimesError as error:  # of no utterance
                raise UserError(f"{args.model}: {error}") from None
            except (AudioError, AlignmentError, ModelError) as error:
                failed.append(key)
                say(f"{key}: {error}")
    except KeyboardInterrupt:
        aligned.write()
        say(
            f"interrupted: {len(aligned.segments)} of {len(jobs)} utterances are "
            "aligned and kept; run the same command to resume"
        )
        raise SystemExit(130) from None
    aligned.write()
    if aligned.segments:
        words = sum(len(segment.words) for segment in aligned.segments.values())
        print(
            f"{counted(len(aligned.segments), 'utterance')}, {counted(words, 'word')}: "
            f"{args.output_dir}/words.ctm"
        )
    unknown = [
        key
        for key, segment in aligned.segments.items()
        if any(token.text == "<unk>" for token in segment.tokens)
    ]
    if unknown:
        say(
            "tokens that the model does not know (<unk> in tokens.ctm) in "
            f"{len(unknown)} of {len(aligned.segments)} utterances: {shorten(unknown)}"
        )
    return failed


@command(get_parser)
def main(args) -> None:
    failed = align(args)
    if failed:
        fail(f"{counted(len(failed), 'utterance')} failed: {shorten(failed)}")


if __name__ == "__main__":
    main()
