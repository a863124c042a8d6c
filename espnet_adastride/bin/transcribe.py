#!/usr/bin/env python3
"""Transcribe recordings with a trained model, with times.

    adastride-transcribe --model exp/asr_train_... talk.mp3
    adastride-transcribe --model model.zip --output_dir out --format txt,srt folder/

It reads files, folders (recursively) and ``-`` (standard input), in any format, rate
and number of channels that libsndfile or FFmpeg support, video included. Without
``--output_dir``, the result is printed. Unusable files, and media in a folder that are
not read, are reported on standard error and the others continue; the exit status is 1.

``--stream`` processes recordings as if they were being spoken, in chunks, with a model
trained for streaming (docs/streaming.md). The text so far is shown on standard error,
with its latency. ``-`` is then raw samples from a microphone::

    arecord -q -f S16_LE -r 16000 -t raw | adastride transcribe --stream --model ... -

``--output_dir`` remembers the recording of each of its files: finished recordings are
skipped, and another recording with the same name is written under its name with suffix.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from espnet_adastride.bin.model_options import add_model_options, load_transcriber
from espnet_adastride.bin.parsers import Parser
from espnet_adastride.corpora.audio import quick_seconds
from espnet_adastride.corpora.recordings import (
    STDIN,
    Source,
    describe_unread,
    find_media,
    read_audio,
    read_pcm,
)
from espnet_adastride.errors import (
    AudioError,
    UnknownTimesError,
    UserError,
    located,
    one_line_errors,
)
from espnet_adastride.files import AUDIO_SUFFIXES, shown, write_text
from espnet_adastride.options import real, str2bool
from espnet_adastride.recipe.sources import Sources
from espnet_adastride.timing.transcripts import FORMATS, Transcript, to_dict

NAME = "adastride-transcribe"
#: suffixes of adastride export
ONNX = ".onnx"
#: seconds of audio per chunk of --stream
CHUNK = 0.1
BAR = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s, {remaining} left{postfix}"
BAR_WITHOUT_END = "{n:.0f} s, {elapsed}{postfix}"


class Job(NamedTuple):
    """A recording and its output files by format; none: standard output.

    Attributes:
        source: the recording.
        outputs: output files by format.
        name: name of the files, without the format's suffix.
        done: all of them exist and belong to this recording.
        obstacle: reason why they cannot be written, or "".
    """

    source: Source
    outputs: Dict[str, Path]
    name: str = ""
    done: bool = False
    obstacle: str = ""


def read_formats(words: str) -> List[str]:
    """Parse ``txt,srt``."""
    formats = list(dict.fromkeys(words.split(",")))
    for word in formats:
        if word not in FORMATS:
            raise argparse.ArgumentTypeError(
                f"{word!r} is not one of {', '.join(FORMATS)}"
            )
    return formats


def get_parser() -> argparse.ArgumentParser:
    """Build the command's argument parser."""
    parser = Parser(
        prog=NAME,
        description="Transcribe recordings with a trained model, with times.",
    )
    parser.add_argument(
        "audio", nargs="+", help="files, folders (recursively), or - for stdin"
    )
    add_model_options(parser)
    parser.add_argument(
        "--inference_config",
        help="YAML of an ESPnet beam search (default: greedy CTC, which is faster)",
    )
    parser.add_argument("--output_dir", help="output folder (default: print)")
    parser.add_argument(
        "--format",
        type=read_formats,
        default=["txt"],
        help=f"{', '.join(sorted(FORMATS))}, or several: txt,srt (default: txt)",
    )
    parser.add_argument(
        "--overwrite",
        type=str2bool,
        default=False,
        metavar="true|false",
        help="transcribe finished recordings again (default: false)",
    )
    parser.add_argument(
        "--max_segment",
        type=real(),
        help="seconds; longer recordings are cut at pauses (default: the length of the "
        "training utterances, at most 20; 20 if unknown)",
    )
    streaming = parser.add_argument_group("streaming")
    streaming.add_argument(
        "--stream",
        action="store_true",
        help="feed recordings in chunks, show the text so far, and measure the "
        "latency; - is raw 16-bit mono at the model's rate, or a WAV of this kind",
    )
    streaming.add_argument(
        "--chunk",
        type=real(0, above=True),
        default=CHUNK,
        help=f"seconds of audio per chunk (default: {CHUNK:g})",
    )
    streaming.add_argument(
        "--block",
        type=real(0, above=True),
        help="block length of the input layer in s, also without --stream (default: "
        "as trained)",
    )
    return parser


def plan(
    sources: Sequence[Source],
    output_dir,
    formats: Sequence[str],
    overwrite: bool = False,
) -> List[Job]:
    """Return a job per recording; no two write to the same file.

    Recordings that differ only in their suffix keep it: ``a.wav.txt``. So does a
    recording if the folder has files of that name from another recording.

    Raises:
        UserError: for two recordings with the same name.
    """
    if output_dir is None:
        return [Job(source, {}) for source in sources]
    counts: Dict[str, int] = {}
    for source in sources:
        counts[source.name] = counts.get(source.name, 0) + 1
    jobs, owners, known = [], {}, Sources(output_dir)
    for source in sources:
        name = source.name if counts[source.name] == 1 else source.full
        taken = any((Path(output_dir) / f"{name}.{f}").exists() for f in FORMATS)
        if taken and not overwrite and known.relation(name, source.path) == "other":
            name = source.full
        outputs = {f: Path(output_dir) / f"{name}.{f}" for f in formats}
        for path in outputs.values():
            if path in owners:
                raise UserError(
                    f"{owners[path]} and {source.path} would both be written to "
                    f"{path}: give the folder that contains both, or a separate "
                    "--output_dir for each"
                )
            owners[path] = source.path
        done, obstacle = False, ""
        there = [path for path in outputs.values() if path.exists()]
        if there and not overwrite:
            relation = known.relation(name, source.path)
            done = relation == "same" and len(there) == len(outputs)
            if relation in ("", "other"):
                other = known.known.get(name, {}).get("source")
                obstacle = (
                    f"{shown(source.path)}: {shown(there[0])} exists, made from "
                    f"{shown(other) if other else 'an unknown recording'}; "
                    "give another --output_dir, or --overwrite true"
                )
        jobs.append(Job(source, outputs, name, done, obstacle))
    return jobs


def _check(args: argparse.Namespace) -> Tuple[List[Job], bool]:
    """Return the jobs, and whether some media are not read; check options first.

    This finds all mistakes that can be found before the model is loaded.
    """
    if args.ngpu not in (0, 1):
        raise UserError(f"--ngpu {args.ngpu}: give 0 or 1")
    if args.stream and args.max_segment is not None:
        raise UserError("--max_segment cuts whole recordings: leave out --stream")
    if args.max_segment is not None and not args.max_segment >= 1:
        raise UserError(f"--max_segment {args.max_segment:g}: give 1 second or more")
    if not os.path.exists(args.model):
        raise UserError(
            f"--model {args.model}: no such file or folder; give an experiment's "
            "folder (exp/asr_...) or a packed .zip"
        )
    if args.output_dir is None and len(args.format) > 1:
        raise UserError("several formats need --output_dir")
    sources, unread, others = find_media(args.audio)
    if others:
        what = "file that is" if others == 1 else "files that are"
        _say(f"skipped {others} {what} not audio")
    if unread:
        _say(describe_unread(unread))
    if not sources:
        raise UserError(
            f"{', '.join(args.audio)}: no audio in it "
            f"({' '.join(sorted(AUDIO_SUFFIXES))})"
        )
    if args.output_dir is None and len(sources) > 1 and args.format[0] in "srt vtt":
        raise UserError(
            f"{len(sources)} recordings as {args.format[0]} need --output_dir"
        )
    return plan(sources, args.output_dir, args.format, args.overwrite), bool(unread)


def _say(message: str) -> None:
    print(f"{NAME}: {message}", file=sys.stderr, flush=True)


def _write(transcript: Transcript, job: Job, args, several: bool) -> None:
    if not job.outputs:
        kind = args.format[0]
        if several and kind == "txt":
            print(f"{transcript.name}\t{transcript.text}", flush=True)
        elif several and kind == "json":
            print(json.dumps(to_dict(transcript), ensure_ascii=False), flush=True)
        else:
            print(FORMATS[kind](transcript), end="", flush=True)
        return
    for kind, path in job.outputs.items():
        write_text(path, FORMATS[kind](transcript))


def _load_trained(args: argparse.Namespace):
    return load_transcriber(
        args,
        inference_config=args.inference_config,
        max_segment=args.max_segment,
        times=args.stream or set(args.format) != {"txt"},
        say=_say,
        block=args.block,
    )


def _load_exported(args: argparse.Namespace):
    """Return the transcriber of an exported model, without ESPnet.

    Raises:
        UserError: if the file is not an exported model, or does not support the
            options.
    """
    whole = "an exported model reads whole recordings; give the experiment or its "
    whole += "archive"
    for option, fix in (
        ("asr_model_file", "the file contains the parameters"),
        ("inference_config", "an exported model decodes with greedy CTC"),
        ("stride", "the rate is fixed in the file; export again with --stride"),
        ("ngpu", "an exported model runs on the CPU"),
        ("stream", whole),
        ("block", whole),
    ):
        if getattr(args, option):
            raise UserError(f"--{option} cannot be used with {args.model}: {fix}")
    from espnet_adastride.deployment.recogniser import OnnxTranscriber

    return OnnxTranscriber(args.model, args.max_segment, args.upstream_model, say=_say)


def _chunks(source: Source, rate: int, seconds: float) -> Iterator[np.ndarray]:
    """Yield a recording in float32 chunks of the given length; the last is shorter."""
    size = max(round(seconds * rate), 1)
    if source.path == STDIN:
        yield from read_pcm(sys.stdin.buffer, rate, size)
        return
    wave = read_audio(source.path, rate, say=_say)
    for start in range(0, len(wave), size):
        yield wave[start : start + size]


def _stream(recognise, chunks, name, late, progress, say) -> Transcript:
    """Process a recording chunk by chunk; optionally show the text so far.

    Args:
        recognise: Transcriber.
        chunks: chunks of samples.
        name: name of the recording.
        late: list to which the stream's latency is appended.
        progress: called with the seconds of each chunk.
        say: called with the text so far and the time when it grows; None: not called.
    """
    streamer, before = recognise.stream(), ""

    def hear(chunk, final=False):
        nonlocal before
        made = streamer.push(chunk, final)
        progress(len(chunk) / recognise.trained.rate)
        text = streamer.text() if made and say else before
        if text != before:
            say(f"[{streamer.clock.now:7.2f} s] {text}")
            before = text

    try:
        for chunk in chunks:
            hear(chunk)
    except KeyboardInterrupt:
        if say is None:
            raise  # Ctrl-C ends a single recording (a microphone), not a list
    hear(np.zeros(0, dtype=np.float32), final=True)
    transcript = recognise.streamed(streamer, name)
    late.append(streamer.latency())
    return transcript


def transcribe(args: argparse.Namespace) -> int:
    """Transcribe all recordings; return the exit status."""
    jobs, unread = _check(args)
    before = sum(job.done for job in jobs)
    if before:
        _say(
            f"{before} of {len(jobs)} recordings are already done "
            "(--overwrite true transcribes them again)"
        )
    blocked = [job for job in jobs if job.obstacle]
    for job in blocked:
        _say(f"error: {job.obstacle}")
    todo = [job for job in jobs if not job.done and not job.obstacle]
    if not todo:
        return 1 if blocked or unread else 0
    from tqdm import tqdm

    load = _load_exported if args.model.endswith(ONNX) else _load_trained
    recognise = load(args)
    if args.stream:  # an unsuitable model is rejected before any recording is read
        with located(f"--model {args.model}"):
            recognise.stream()

    terminal = sys.stderr.isatty()
    total = sum(quick_seconds(j.source.path) for j in todo if j.source.path != STDIN)
    failed, done = len(blocked), 0
    heard, begin = 0.0, time.monotonic()
    records = None if args.output_dir is None else Sources(args.output_dir)
    late = []
    with tqdm(
        total=round(total, 1) or None,
        unit="s",
        disable=not terminal,
        file=sys.stderr,
        bar_format=BAR if total else BAR_WITHOUT_END,
    ) as bar:

        def show(line):
            with tqdm.external_write_mode(sys.stderr):
                print(line, file=sys.stderr, flush=True)

        def note(line):
            show(f"{NAME}: {line}")

        def progress(seconds):
            nonlocal heard
            heard += seconds
            rtf = (time.monotonic() - begin) / heard if heard else 0.0
            bar.set_postfix_str(f"RTF {rtf:.2f}", refresh=False)
            bar.update(seconds)

        try:
            for job in todo:
                source = job.source
                try:
                    name = "stdin" if source.path == STDIN else source.path
                    if args.stream:
                        chunks = _chunks(source, recognise.trained.rate, args.chunk)
                        known = show if len(jobs) == 1 else None
                        transcript = _stream(
                            recognise, chunks, name, late, progress, known
                        )
                    else:
                        wave = read_audio(source.path, recognise.trained.rate, say=note)
                        transcript = recognise.transcribe(wave, name, progress)
                    if transcript.silent:
                        note(f"{shown(source.path)}: only silence; no words")
                    with tqdm.external_write_mode(sys.stderr):
                        _write(transcript, job, args, len(jobs) > 1)
                    if records is not None and source.path != STDIN:
                        records.add(job.name, source.path)
                    done += 1
                except AudioError as error:
                    failed += 1
                    note(f"error: {error}")
        except UnknownTimesError as error:
            raise UserError(f"{error}; --format txt needs no times") from None
        except KeyboardInterrupt:
            bar.close()
            _say(f"interrupted: {done} of {len(todo)} recordings are done and kept")
            return 130
    spent = time.monotonic() - begin
    if args.output_dir is not None or terminal:
        rtf = f", RTF {spent / heard:.2f}" if heard else ""
        _say(f"{done} recordings, {heard:.1f} s of audio in {spent:.1f} s{rtf}")
    if late:
        from espnet_adastride.timing.latency import describe_latency

        _say(f"latency: {describe_latency(late)}")
    if failed:
        _say(f"{failed} of {len(todo) + len(blocked)} recordings failed")
    return 1 if failed or unread else 0


@one_line_errors(name=NAME)
def main(cmd=None) -> None:
    """Run the command; a mistake ends in one line and status 1."""
    args = get_parser().parse_args(cmd)
    try:
        status = transcribe(args)
    except BrokenPipeError:
        # the reader has closed the pipe; nothing is left to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    raise SystemExit(status)


if __name__ == "__main__":
    main()
