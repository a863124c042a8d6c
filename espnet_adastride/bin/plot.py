"""Draw a model's frames: in an utterance, a corpus, a training or a stream.

    adastride-plot utterance --model exp/asr_... --data_dir dump/raw/test --output x.png
    adastride-plot utterance --model exp/asr_... --audio talk.flac --output x.html
    adastride-plot corpus --model exp/asr_... --data_dir dump/raw/test \
        --ref words.ctm --output corpus.png
    adastride-plot training exp/asr_... exp/asr_... --output training.svg
    adastride-plot stream --model exp/asr_... --audio talk.flac --blocks 0.5 2 \
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
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from espnet_adastride.bin.model_options import (
    add_model_options,
    add_segment_option,
    load_transcriber,
)
from espnet_adastride.bin.parsers import Parser, command, say
from espnet_adastride.corpora.audio import audio_info
from espnet_adastride.corpora.kaldi import read_scp, shorten
from espnet_adastride.corpora.recordings import read_audio
from espnet_adastride.errors import AudioError, UserError, located
from espnet_adastride.errors import nearest as nearest_word
from espnet_adastride.errors import no_such
from espnet_adastride.files import check_file, shown, write_text
from espnet_adastride.options import real
from espnet_adastride.timing.ctc import Timed
from espnet_adastride.timing.transcripts import read_reference, read_textgrid

#: seconds; the utterance nearest to it is drawn
GOOD_LENGTH = 5.0
FIX = "choose a model with adastride or adastride_f"
#: seconds of audio that arrive at a time in the picture of a stream
STREAM_CHUNK = 0.02
OUTPUTS = ("png", "svg", "pdf", "html")


class Recording(NamedTuple):
    """One utterance to draw: id, audio file, transcript (None if not known)."""

    id: str
    audio: str
    text: Optional[str]


class Reference(NamedTuple):
    """Words and phones by utterance, and their source."""

    words: Dict[str, List[Timed]]
    phones: Dict[str, List[Timed]]
    source: str


def get_parser() -> argparse.ArgumentParser:
    from espnet_adastride.timing.energy import SPEECH_THRESHOLD_DB

    parser = Parser(
        __doc__,
        epilog="MODE --help lists the options of a mode",
    )
    modes = parser.add_subparsers(required=True, metavar="MODE", help="what to draw")
    one = modes.add_parser("utterance", help="one utterance over its spectrogram")
    one.set_defaults(draw=draw_utterance)
    add_model_options(one)
    source = one.add_mutually_exclusive_group(required=True)
    source.add_argument("--audio", help="a recording to draw")
    source.add_argument("--data_dir", help="folder with wav.scp and, optionally, text")
    one.add_argument(
        "--utt_id", help=f"default: the utterance nearest to {GOOD_LENGTH:g} s"
    )
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
        "--utterances", type=int, default=0, help="only the first N (default: all)"
    )
    many.add_argument("--json", help="file for the numbers")
    for mode in (one, many):
        add_segment_option(mode)
        mode.add_argument(
            "--speech_threshold",
            type=real(),
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


# ------------------------------------------------------------------ the input


def choose(args: argparse.Namespace) -> Recording:
    """Return the utterance that the options ask for.

    Raises:
        UserError: for an unknown id, or a folder that cannot be read.
    """
    if args.audio is not None:
        text = None if args.text is None else " ".join(args.text.split())
        key = args.utt_id or shown(Path(args.audio).stem)
        return Recording(key, args.audio, text)
    if args.text is not None:
        raise UserError("--text requires --audio; --data_dir has its own file text")
    folder = Path(args.data_dir)
    waves = read_scp(folder / "wav.scp")
    key = args.utt_id
    if key is None:
        key = nearest(waves, GOOD_LENGTH)
    elif key not in waves:
        near = nearest_word(key, waves)
        hint = f"; did you mean {near}?" if near else ""
        raise UserError(f"--utt_id {key} is not in {folder}/wav.scp{hint}")
    text = None
    if (folder / "text").exists():
        text = read_scp(folder / "text", allow_empty=True).get(key)
    return Recording(key, waves[key], text)


def nearest(waves: Dict[str, str], seconds: float) -> str:
    """Return the id of the recording with the nearest length; the first of equals.

    Raises:
        AudioError: for a recording that cannot be read.
    """

    def distance(key):
        return abs(audio_info(waves[key]).seconds - seconds)

    return min(sorted(waves), key=distance)


def read_words(path: str) -> Reference:
    """Return the words, and any phones, of a CTM or of TextGrids.

    Raises:
        UserError: if it cannot be read.
    """
    if Path(path).suffix == ".TextGrid":
        files = [Path(path)]
        words = {files[0].stem: read_textgrid(path)}
    else:
        words = read_reference(path)
        files = sorted(Path(path).rglob("*.TextGrid")) if Path(path).is_dir() else []
    phones = {}
    for file in files:
        try:
            phones[file.stem] = read_textgrid(file, "phones")
        except UserError:  # not every TextGrid has this tier
            pass
    silent = ("<eps>", "sil", "sp", "spn", "<sil>")
    words = {
        k: [w for w in v if w.text.lower() not in silent] for k, v in words.items()
    }
    return Reference(words, phones, Path(path).name)


def load(args: argparse.Namespace):
    """Return the model as a Transcriber.

    Raises:
        UserError: if the model has no adaptive strides or cannot be read.
    """
    transcriber = load_transcriber(
        args, max_segment=getattr(args, "max_segment", None), say=say
    )
    problem = transcriber.trained.why_uniform()
    if problem:
        raise UserError(f"{args.model}: {problem}; {FIX}")
    return transcriber


# ------------------------------------------------------------------ the modes


def analyse(
    transcriber,
    recording: Recording,
    threshold: float,
    reference: Optional[Reference] = None,
):
    """Encode a recording and return its StridePicture.

    Raises:
        UserError: if the model cannot encode the recording.
    """
    from espnet_adastride.report.utterance import StridePicture

    trained = transcriber.trained
    wave = read_audio(recording.audio, trained.rate, say=say)
    pieces = list(transcriber.encode_pieces(wave, recording.id))
    encoded = transcriber.joined(pieces, len(wave))
    times = encoded.times.of_strides()
    hypothesis, words, source = None, [], ""
    if encoded.log_probs is not None:
        hypothesis, words = transcriber.recognise_pieces(pieces)
        source = "CTC path of the hypothesis"
        if recording.text:
            try:
                words = transcriber.align(wave, recording.text).words
                source = "best CTC path of the reference"
            except ValueError:  # too few frames, or unknown tokens
                pass
    phones: Sequence[Timed] = []
    if reference is not None:
        key = recording.id
        if key not in reference.words and len(reference.words) == 1:
            key = next(iter(reference.words))
        if key not in reference.words:
            raise UserError(
                f"--ref {reference.source} has no utterance {key}; leave out --ref, or "
                "add its times"
            )
        words, source = reference.words[key], reference.source
        phones = reference.phones.get(key, [])
    return StridePicture(
        utterance=recording.id,
        wave=wave,
        rate=trained.rate,
        step=trained.step,
        boundaries=times.boundaries,
        uniform=times.windows,
        method=trained.describe_strides(),
        reference=recording.text,
        hypothesis=hypothesis,
        hypothesis_from="greedy CTC",
        threshold=threshold,
        words=words,
        phones=phones,
        times_from=source,
    )


def draw_utterance(args: argparse.Namespace) -> List[str]:
    """Draw one utterance; return the lines to print."""
    from espnet_adastride.report.utterance import plot_strides, summary

    recording = choose(args)
    if not recording.audio.endswith("|") and not Path(recording.audio).exists():
        raise UserError(no_such(recording.audio))
    reference = None if args.ref is None else read_words(args.ref)
    picture = analyse(load(args), recording, args.speech_threshold, reference)
    lines = summary(picture)
    sound = picture.wave, picture.rate
    save(plot_strides(picture), args.output, picture.utterance, lines, sound)
    return [f"{recording.id}: {'; '.join(lines)}"]


def collect(
    transcriber,
    recordings: Sequence[Recording],
    reference: Optional[Reference],
    threshold: float,
):
    """Return the StrideStatistics of recordings, and (id, reason) of those left out."""
    from espnet_adastride.evaluation.stride_statistics import StrideStatistics
    from espnet_adastride.timing.energy import energy_db, frame_edges, is_speech

    trained = transcriber.trained
    source = (
        f"energy within {threshold:g} dB of the loudest"
        if reference is None
        else reference.source
    )
    statistics = StrideStatistics(trained.describe_strides(), trained.step, source)
    left_out: List[Tuple[str, str]] = []
    every_phone = reference is not None and all(
        r.id in reference.phones for r in recordings if r.id in reference.words
    )
    for recording in recordings:
        words = phones = None
        if reference is not None:
            words = reference.words.get(recording.id)
            if words is None:
                left_out.append((recording.id, "not in --ref"))
                continue
            phones = reference.phones.get(recording.id) if every_phone else None
        try:
            wave = read_audio(recording.audio, trained.rate, say=say)
            times = transcriber.encode(wave, recording.id).times.of_strides()
        except AudioError as error:
            left_out.append((recording.id, str(error)))
            continue
        speech = None
        if words is None:
            speech = (
                frame_edges(wave, trained.rate),
                is_speech(energy_db(wave, trained.rate), threshold),
            )
        statistics.add(times.boundaries, words, phones, speech)
    return statistics, left_out


def draw_corpus(args: argparse.Namespace) -> List[str]:
    """Draw a corpus; return the lines to print."""
    from espnet_adastride.report.charts import corpus_lines, plot_corpus

    if args.utterances < 0:
        raise UserError(f"--utterances {args.utterances}: give a number, or 0 for all")
    waves = read_scp(Path(args.data_dir) / "wav.scp")
    reference = None if args.ref is None else read_words(args.ref)
    keys = sorted(waves)[: args.utterances or None]
    if reference is not None and not any(key in reference.words for key in keys):
        raise UserError(
            f"--ref {args.ref}: has none of the utterances of {args.data_dir}; its ids "
            "must be those of wav.scp"
        )
    recordings = [Recording(key, waves[key], None) for key in keys]
    if not any(r.audio.endswith("|") or Path(r.audio).exists() for r in recordings):
        raise UserError(
            f"{args.data_dir}/wav.scp: none of its recordings exists; check its paths"
        )
    statistics, left_out = collect(
        load(args), recordings, reference, args.speech_threshold
    )
    if not statistics.strides:
        key, reason = left_out[0]
        raise UserError(f"no utterance could be used; the first: {key}: {reason}")
    numbers = statistics.numbers()
    lines = corpus_lines(numbers)
    if args.json:
        write_text(args.json, json.dumps(numbers, indent=1) + "\n")
    title = f"{numbers['method']}: local strides"
    save(plot_corpus(statistics, numbers), args.output, title, lines)
    told = [
        f"{numbers['method']}: {numbers['utterances']} utterances, "
        f"{numbers['seconds']:.0f} s, {numbers['frames']} frames",
        *lines,
    ]
    if left_out:
        names = shorten([key for key, _ in left_out])
        reason = left_out[0][1]
        told.append(f"{len(left_out)} left out: {names} (the first: {reason})")
    return told


def draw_training(args: argparse.Namespace) -> List[str]:
    """Draw trainings; return the lines to print."""
    from espnet_adastride.evaluation.learning_curves import curves, read_epochs
    from espnet_adastride.report.charts import plot_training

    runs, lines = {}, []
    for folder in map(Path, args.experiments):
        if not folder.is_dir():
            fix = "give an experiment (exp/asr_...)"
            raise UserError(no_such(folder, fix, "folder"))
        epochs = read_epochs(folder)
        if not epochs:
            raise UserError(
                f"{folder}: no train.log with a finished epoch in it; give an "
                "experiment (exp/asr_...) whose training has finished an epoch"
            )
        name = folder.resolve().name
        name = name if name not in runs else str(folder)
        runs[name] = curves(epochs)
        lines.append(f"{name}: {len(epochs)} epochs{_last(runs[name])}")
    save(plot_training(runs), args.output, "Training", lines)
    return lines


def draw_stream(args: argparse.Namespace) -> List[str]:
    """Draw when the words of a stream appear; return the lines to print."""
    from espnet_adastride.report.charts import StreamRow, plot_stream
    from espnet_adastride.timing.latency import describe_latency

    if not Path(args.audio).exists():
        raise UserError(no_such(args.audio))
    transcriber = load(args)
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
    save(figure, args.output, "Stream", lines, (wave, trained.rate))
    return lines


def _last(stats) -> str:
    found = []
    for stat in ("loss", "stride_entropy", "empty_slots", "largest_stride"):
        phases = stats.get(stat, {})
        curve = phases.get("valid", phases.get("train"))
        if curve is not None:
            found.append(f"{stat} {curve.values[-1]:g}")
    return f", at the end {', '.join(found)}" if found else ""


def save(figure, output: str, title: str, lines: Sequence[str], sound=None) -> None:
    """Write a figure as a picture, or as a page with text below it.

    Args:
        figure: matplotlib figure.
        output: output file; its suffix selects the format.
        title: title of the page.
        lines: text below the picture.
        sound: (samples, rate) to listen to, or None.
    """
    from espnet_adastride.report.style import save_figure, to_png

    if Path(output).suffix.lower() != ".html":
        save_figure(figure, output)
        return
    from espnet_adastride.report.pages import data_uri, encode_audio, render

    audio = None if sound is None else encode_audio(*sound)
    page = render(
        "picture.html.j2",
        title=title,
        picture=data_uri(to_png(figure), "image/png"),
        lines=lines,
        audio=audio,
    )
    write_text(output, page)


def check_output(output: str) -> None:
    """Reject unknown picture formats before anything is computed.

    Raises:
        UserError: with the choices.
    """
    if Path(output).suffix[1:].lower() not in OUTPUTS:
        raise UserError(
            f"--output {output}: the name must end in "
            f"{', '.join('.' + kind for kind in OUTPUTS)}"
        )


@command(get_parser)
def main(args) -> None:
    check_output(args.output)
    check_file(args.output, "--output")
    if getattr(args, "json", None) is not None:
        check_file(args.json, "--json")
    if not getattr(args, "speech_threshold", 1.0) > 0:
        raise UserError(
            f"--speech_threshold {args.speech_threshold:g}: give a positive number of "
            "dB"
        )
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    for line in args.draw(args):
        print(line)
    print(args.output)


if __name__ == "__main__":
    main()
