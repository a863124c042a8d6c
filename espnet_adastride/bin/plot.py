"""Draw a model's frames: in an utterance, a corpus, a training or a stream.

    adastride plot utterance --model exp/asr_... --data_dir dump/raw/test --output x.png
    adastride plot utterance --model exp/asr_... --audio talk.flac --output x.html
    adastride plot corpus --model exp/asr_... --data_dir dump/raw/test \
        --ref words.ctm --output corpus.png
    adastride plot training exp/asr_... exp/asr_... --output training.svg
    adastride plot stream --model exp/asr_... --audio talk.flac --blocks 0.5 2 \
        --output stream.png

``--output`` is a picture (.png, .svg, .pdf) or a page with the picture (.html).

utterance: the spectrogram, frame boundaries, frame lengths and the energy. Without
``--utt_id``, it draws the utterance whose length is nearest to 5 s. Word times come
from ``--ref`` (a CTM, or TextGrids, which may include phones), otherwise from the CTC
branch, mapped through the positions of every stage: of the transcript, or of the
recognised text.

corpus: the distribution of local strides in speech and silence, or by phone class, and
how well they predict speech and word boundaries (``--json`` for the numbers).

training: the values that the plugin reported every epoch, from the train.log files.

stream: when the words of a recording appear while it is being spoken
(``adastride transcribe --stream``), for one or more block lengths.
"""

import argparse
import json
from pathlib import Path
from typing import List

from espnet_adastride.bin.model_options import (
    add_model_options,
    add_segment_option,
    load_adaptive,
)
from espnet_adastride.bin.parsers import Parser, command, say
from espnet_adastride.corpora.kaldi import read_recordings, read_scp, shorten
from espnet_adastride.corpora.recordings import is_missing, name_of, read_audio
from espnet_adastride.errors import UserError, counted, located, nearest, no_such
from espnet_adastride.files import check_file, write_text
from espnet_adastride.options import real, whole
from espnet_adastride.report.pages import save_picture
from espnet_adastride.timing.energy import SPEECH_THRESHOLD_DB
from espnet_adastride.timing.transcripts import read_timed_reference

#: seconds of audio that arrive at a time in the picture of a stream
STREAM_CHUNK = 0.02
OUTPUTS = ("png", "svg", "pdf", "html")


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(
        __doc__,
        epilog="MODE --help lists the options of a mode",
    )
    modes = parser.add_subparsers(required=True, metavar="MODE", help="what to draw")
    one = modes.add_parser("utterance", help="one utterance over its spectrogram")
    one.set_defaults(draw=draw_utterance)
    add_model_options(one)
    source = one.add_mutually_exclusive_group(required=True)
    source.add_argument("--audio", help="a recording to draw, or - for stdin")
    source.add_argument("--data_dir", help="folder with wav.scp and, optionally, text")
    one.add_argument("--utt_id", help="default: the utterance nearest to 5 s")
    one.add_argument("--text", help="transcript of --audio")
    one.add_argument(
        "--ref",
        help="a CTM, a TextGrid or a folder of TextGrids, for the times of words and "
        "phones (default: from the CTC branch)",
    )
    many = modes.add_parser("corpus", help="local strides of many utterances")
    many.set_defaults(draw=draw_corpus)
    add_model_options(many)
    many.add_argument("--data_dir", required=True, help="folder with wav.scp")
    many.add_argument(
        "--ref",
        help="a CTM, or a folder of TextGrids, with the times of words (and phones) "
        "(default: speech is detected by its energy)",
    )
    many.add_argument(
        "--utterances", type=whole(0), default=0, help="only the first N (default: all)"
    )
    many.add_argument("--json", help="file for the numbers")
    for mode in (one, many):
        add_segment_option(mode)
        mode.add_argument(
            "--speech_threshold",
            type=real(0, above=True),
            default=SPEECH_THRESHOLD_DB,
            help="threshold of speech in dB below the loudest moment, used "
            f"without --ref (default: {SPEECH_THRESHOLD_DB:g})",
        )
    curves = modes.add_parser("training", help="reported values over the epochs")
    curves.set_defaults(draw=draw_training)
    curves.add_argument("experiments", nargs="+", help="folders exp/asr_...")
    live = modes.add_parser(
        "stream", help="when words appear while somebody is speaking"
    )
    live.set_defaults(draw=draw_stream)
    add_model_options(live)
    live.add_argument("--audio", required=True, help="a recording")
    live.add_argument(
        "--blocks",
        type=real(0, above=True),
        nargs="+",
        default=[0.5, 1.0, 2.0],
        help="block length of the input layer in s (default: 0.5 1 2)",
    )
    for mode in (one, many, curves, live):
        mode.add_argument("--output", required=True, help=".png, .svg, .pdf or .html")
    return parser


def choose(args: argparse.Namespace):
    """Return the Utterance that the options ask for.

    Raises:
        UserError: for an unknown id, or a folder that cannot be read.
    """
    from espnet_adastride.report.utterance import Utterance, typical_utterance

    if args.audio is not None:
        text = None if args.text is None else " ".join(args.text.split())
        key = args.utt_id or name_of(args.audio)
        return Utterance(key, args.audio, text)
    if args.text is not None:
        raise UserError("--text requires --audio; --data_dir has its own file text")
    folder = Path(args.data_dir)
    waves = read_recordings(folder)
    key = args.utt_id
    if key is None:
        key = typical_utterance(waves)
    elif key not in waves:
        near = nearest(key, waves)
        hint = f"; did you mean {near}?" if near else ""
        raise UserError(f"--utt_id {key} is not in {folder}/wav.scp{hint}")
    text = None
    if (folder / "text").exists():
        text = read_scp(folder / "text", allow_empty=True).get(key)
    return Utterance(key, waves[key], text)


def draw_utterance(args: argparse.Namespace) -> List[str]:
    """Draw one utterance; return the lines to print."""
    from espnet_adastride.report.utterance import make_picture, plot_strides, summary

    chosen = choose(args)
    if is_missing(chosen.audio):
        raise UserError(no_such(chosen.audio))
    reference = None if args.ref is None else read_timed_reference(args.ref)
    transcriber = load_adaptive(args, max_segment=args.max_segment)
    picture = make_picture(transcriber, chosen, args.speech_threshold, reference)
    lines = summary(picture)
    sound = picture.wave, picture.rate
    save_picture(plot_strides(picture), args.output, chosen.id, lines, sound)
    return [f"{chosen.id}: {'; '.join(lines)}"]


def draw_corpus(args: argparse.Namespace) -> List[str]:
    """Draw a corpus; return the lines to print."""
    from espnet_adastride.evaluation.stride_statistics import measure_strides
    from espnet_adastride.report.charts import corpus_lines, plot_corpus

    if args.json and Path(args.json).resolve() == Path(args.output).resolve():
        raise UserError(f"--json {args.json}: the name of --output; give another")
    waves = read_recordings(args.data_dir)
    reference = None if args.ref is None else read_timed_reference(args.ref)
    waves = {key: waves[key] for key in sorted(waves)[: args.utterances or None]}
    if reference is not None and not waves.keys() & reference.words.keys():
        raise UserError(
            f"--ref {args.ref}: has none of the utterances of {args.data_dir}; its ids "
            "must be those of wav.scp"
        )
    if all(map(is_missing, waves.values())):
        raise UserError(
            f"{args.data_dir}/wav.scp: none of its recordings exists; check its paths"
        )
    transcriber = load_adaptive(args, max_segment=args.max_segment)
    statistics, left_out = measure_strides(
        transcriber, waves, reference, args.speech_threshold
    )
    first = ": ".join(next(iter(left_out.items()), ()))
    if not statistics.strides:
        raise UserError(f"no utterance could be used; the first: {first}")
    numbers = statistics.numbers()
    lines = corpus_lines(numbers)
    if args.json:
        write_text(args.json, json.dumps(numbers, indent=1) + "\n")
    title = f"{numbers['method']}: local strides"
    save_picture(plot_corpus(statistics, numbers), args.output, title, lines)
    told = [
        f"{numbers['method']}: {counted(numbers['utterances'], 'utterance')}, "
        f"{numbers['seconds']:.0f} s, {counted(numbers['frames'], 'frame')}",
        *lines,
    ]
    if left_out:
        names, (reason, *_) = shorten(list(left_out)), left_out.values()
        told.append(f"{len(left_out)} left out: {names} (the first: {reason})")
    return told


def draw_training(args: argparse.Namespace) -> List[str]:
    """Draw trainings; return the lines to print."""
    from espnet_adastride.evaluation.learning_curves import curves, read_epochs
    from espnet_adastride.report.charts import plot_training
    from espnet_adastride.report.experiments import named_folders

    runs, lines = {}, []
    for folder, name in named_folders(args.experiments).items():
        if not folder.is_dir():
            fix = "give an experiment (exp/asr_...)"
            if folder.exists():
                raise UserError(f"{folder}: a file, not a folder; {fix}")
            raise UserError(no_such(folder, fix, "folder"))
        epochs = read_epochs(folder)
        if not epochs:
            below = sorted(str(log.parent) for log in folder.glob("*/train.log"))
            if below:
                raise UserError(
                    f"{folder}: not an experiment but a folder of some; give one or "
                    f"more of them: {shorten(below)}"
                )
            raise UserError(
                f"{folder}: no train.log with a finished epoch in it; give an "
                "experiment (exp/asr_...) whose training has finished an epoch, with "
                "ESPnet's output in train.log (asr.sh writes it)"
            )
        runs[name] = curves(epochs)
        lines.append(f"{name}: {counted(len(epochs), 'epoch')}{_last(runs[name])}")
    save_picture(plot_training(runs), args.output, "Training", lines)
    return lines


def draw_stream(args: argparse.Namespace) -> List[str]:
    """Draw when the words of a stream appear; return the lines to print."""
    from espnet_adastride.report.charts import StreamRow, plot_stream
    from espnet_adastride.timing.latency import describe_latency

    if is_missing(args.audio):
        raise UserError(no_such(args.audio))
    transcriber = load_adaptive(args)
    trained = transcriber.trained
    wave = read_audio(args.audio, trained.rate, say=say)
    rows, lines = [], []
    with located(args.model):
        for seconds in args.blocks:
            transcriber.trained.set_block(seconds)
            streamer = transcriber.stream()
            size = round(STREAM_CHUNK * trained.rate)
            for start in range(0, len(wave), size):
                streamer.push(wave[start : start + size])
            streamer.push(wave[:0], final=True)
            length = trained.layer.blocks.frames * streamer.step
            rows.append(StreamRow(length, *streamer.words()))
            told = describe_latency([streamer.latency()])
            lines.append(f"block {length:g} s: {streamer.text()}; {told}")
    figure = plot_stream(rows, len(wave) / trained.rate)
    save_picture(figure, args.output, "Stream", lines, (wave, trained.rate))
    return lines


def _last(stats) -> str:
    found = []
    for stat in ("loss", "stride_entropy", "empty_slots", "largest_stride"):
        phases = stats.get(stat, {})
        curve = phases.get("valid", phases.get("train"))
        if curve is not None:
            found.append(f"{stat} {curve.values[-1]:g}")
    return f", at the end {', '.join(found)}" if found else ""


@command(get_parser)
def main(args) -> None:
    if Path(args.output).suffix[1:].lower() not in OUTPUTS:
        kinds = ", ".join(f".{kind}" for kind in OUTPUTS)
        raise UserError(f"--output {args.output}: the name must end in {kinds}")
    check_file(args.output, "--output")
    if getattr(args, "json", None) is not None:
        check_file(args.json, "--json", [args.ref] if args.ref else [])
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    for line in args.draw(args):
        print(line)
    print(args.output)


if __name__ == "__main__":
    main()
