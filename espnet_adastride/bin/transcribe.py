"""Transcribe recordings with a trained model, with times.

    adastride transcribe --model exp/asr_train_... talk.mp3
    adastride transcribe --model model.zip --output_dir out --format txt,srt folder/

It reads files, folders (recursively) and ``-`` (standard input), in any format, rate
and number of channels that libsndfile or FFmpeg support, video included. Without
``--output_dir``, the result is printed. Unusable files, and media in a folder that are
not read, are reported on standard error and the others continue; the exit status is 1.

``--stream`` processes recordings as if they were being spoken, in chunks, with a model
trained for streaming (docs/streaming.md). The text so far is shown on standard error,
with its latency. ``-`` is then raw samples from a microphone::

    arecord -q -f S16_LE -r 16000 -t raw | adastride transcribe --stream --model ... -

``--output_dir`` remembers the recording of each of its files: finished recordings are
skipped as long as the model and the options are the same, and another recording with
the same name is written under its name with suffix.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from espnet_adastride.bin.model_options import (
    add_model_options,
    add_segment_option,
    check_model_exists,
    load_transcriber,
)
from espnet_adastride.bin.parsers import Parser, add_switch, command, say
from espnet_adastride.corpora.audio import quick_seconds
from espnet_adastride.corpora.recordings import (
    STDIN,
    Source,
    describe_unread,
    find_media,
    is_missing,
    read_audio,
    read_pcm,
)
from espnet_adastride.errors import (
    AudioError,
    UnknownTimesError,
    UserError,
    counted,
    located,
    no_such,
)
from espnet_adastride.files import AUDIO_SUFFIXES, check_folder, shown, write_text
from espnet_adastride.options import real
from espnet_adastride.recipe.sources import Job, Sources, plan
from espnet_adastride.recipe.stamps import model_fingerprint
from espnet_adastride.timing.transcripts import (
    FORMATS,
    Transcript,
    recording_id,
    to_dict,
)

#: suffixes of adastride export
ONNX = ".onnx"
#: options other than the model's files that change the text
OPTIONS_OF_TEXT = (
    "asr_model_file",
    "inference_config",
    "stride",
    "upstream_model",
    "max_segment",
    "stream",
    "block",
)
#: seconds of audio per chunk of --stream
CHUNK = 0.1
BAR = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s, {remaining} left{postfix}"
BAR_WITHOUT_END = "{n:.0f} s, {elapsed}{postfix}"


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
    parser = Parser(__doc__)
    parser.add_argument(
        "audio", nargs="+", help="files, folders (recursively), or - for stdin"
    )
    add_model_options(parser, ", or an .onnx file of adastride export")
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
    add_switch(parser, "--overwrite", "transcribe finished recordings again")
    add_segment_option(parser)
    streaming = parser.add_argument_group("streaming")
    streaming.add_argument(
        "--stream",
        action="store_true",
        help="feed recordings in chunks, show the text so far, and measure the "
        "latency; - is raw 16-bit mono at the model's rate, or a WAV of this kind",
    )
    streaming.add_argument(
        "--chunk",
        type=real(0, 3600, above=True),
        help=f"seconds of audio per chunk, with --stream (default: {CHUNK:g})",
    )
    streaming.add_argument(
        "--block",
        type=real(0, above=True),
        help="block length of the input layer in s, also without --stream (default: "
        "as trained)",
    )
    return parser


def _check_ids(sources: Sequence[Source]) -> None:
    """Reject recordings whose lines in one CTM could not be told apart."""
    ids: Dict[str, str] = {}
    for source in sources:
        key = recording_id(source.path)
        other = ids.setdefault(key, source.path)
        if other != source.path:
            raise UserError(
                f"{shown(other)} and {shown(source.path)} have the same id in a CTM, "
                f"{key}; give --output_dir, for a file each"
            )


def _records(args: argparse.Namespace) -> Optional[Sources]:
    """Return the records of the output folder; None: the transcripts are printed."""
    if args.output_dir is None:
        return None
    check_folder(args.output_dir, "--output_dir")
    options = {name: getattr(args, name) for name in OPTIONS_OF_TEXT}
    return Sources(args.output_dir, model_fingerprint(args.model, options))


def _check(args: argparse.Namespace) -> Tuple[List[Job], Optional[Sources], bool]:
    """Return the jobs, their records, and whether some media are not read.

    This finds all mistakes that can be found before the model is loaded.
    """
    if args.stream and args.max_segment is not None:
        raise UserError("--max_segment cuts whole recordings: leave out --stream")
    if args.chunk is not None and not args.stream:
        raise UserError("--chunk is for live recognition: give --stream, too")
    check_model_exists(args.model)
    if args.output_dir is None and len(args.format) > 1:
        raise UserError("several formats need --output_dir")
    sources, unread, others = find_media(args.audio)
    if others:
        what = "file that is" if others == 1 else "files that are"
        say(f"skipped {others} {what} not audio")
    if unread:
        say(describe_unread(unread))
    if not sources:
        raise UserError(
            f"{', '.join(args.audio)}: no audio in it "
            f"({' '.join(sorted(AUDIO_SUFFIXES))})"
        )
    if args.output_dir is None and len(sources) > 1 and args.format[0] in "srt vtt":
        raise UserError(
            f"{len(sources)} recordings as {args.format[0]} need --output_dir"
        )
    if args.output_dir is None and args.format == ["ctm"]:
        _check_ids(sources)
    records = _records(args)
    jobs = [
        (
            job._replace(obstacle=no_such(shown(job.source.path)))
            if is_missing(job.source.path)
            else job
        )
        for job in plan(sources, records, args.format, args.overwrite)
    ]
    return jobs, records, bool(unread)


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

    return OnnxTranscriber(args.model, args.max_segment, args.upstream_model, say=say)


def _chunks(source: Source, rate: int, seconds: float) -> Iterator[np.ndarray]:
    """Yield a recording in float32 chunks of the given length; the last is shorter."""
    size = max(round(seconds * rate), 1)
    if source.path == STDIN:
        yield from read_pcm(sys.stdin.buffer, rate, size)
        return
    wave = read_audio(source.path, rate, say=say)
    for start in range(0, len(wave), size):
        yield wave[start : start + size]


def _until_interrupted(chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield chunks until Ctrl-C, which does not interrupt the processing of a chunk.

    The stream would have lost frames, and could not be finished.
    """
    waiting, interrupted = True, False

    def interrupt(*_):
        nonlocal interrupted
        interrupted = True
        if waiting:
            raise KeyboardInterrupt

    # a job in the background ignores Ctrl-C
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, interrupt)
    try:
        for chunk in chunks:
            waiting = False
            yield chunk
            waiting = True
            if interrupted:
                break
    except KeyboardInterrupt:
        pass
    finally:
        if heeded:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _stream(recognise, chunks, name, progress, show):
    """Process a recording chunk by chunk; optionally show the text so far.

    Args:
        recognise: Transcriber.
        chunks: chunks of samples.
        name: name of the recording.
        progress: called with the seconds of each chunk.
        show: called with the text so far and the time when it grows; None: not called.

    Returns:
        The transcript, and the latency of its words.
    """
    streamer, before = recognise.stream(), ""

    def hear(chunk, final=False):
        nonlocal before
        made = streamer.push(chunk, final)
        progress(len(chunk) / recognise.trained.rate)
        text = streamer.text() if made and show else before
        if text != before:
            show(f"[{streamer.clock.now:7.2f} s] {text}")
            before = text

    if show is not None:
        # Ctrl-C ends a single recording (a microphone); of a list, it ends the list
        chunks = _until_interrupted(chunks)
    with contextlib.closing(chunks):
        for chunk in chunks:
            hear(chunk)
    hear(np.zeros(0, dtype=np.float32), final=True)
    return recognise.streamed(streamer, name), streamer.latency()


class Meter:
    """The progress bar of a terminal: seconds of audio, and the real-time factor.

    Args:
        jobs: what will be transcribed.
    """

    def __init__(self, jobs: Sequence[Job]):
        from tqdm import tqdm

        paths = [job.source.path for job in jobs if job.source.path != STDIN]
        total = sum(map(quick_seconds, paths))
        self.heard, self.begin = 0.0, time.monotonic()
        self.bar = tqdm(
            total=round(total, 1) or None,
            unit="s",
            disable=not sys.stderr.isatty(),
            file=sys.stderr,
            bar_format=BAR if total else BAR_WITHOUT_END,
        )

    def add(self, seconds: float) -> None:
        """Count seconds of audio that have been transcribed."""
        self.heard += seconds
        factor = (time.monotonic() - self.begin) / self.heard if self.heard else 0.0
        self.bar.set_postfix_str(f"RTF {factor:.2f}", refresh=False)
        self.bar.update(seconds)

    def above(self):
        """Return a context in which lines are printed above the bar."""
        return self.bar.external_write_mode(sys.stderr)

    def say(self, line: str) -> None:
        """Print a line above the bar, after the command's name."""
        with self.above():
            say(line)

    def show(self, line: str) -> None:
        """Print a line above the bar."""
        with self.above():
            print(line, file=sys.stderr, flush=True)

    def summary(self) -> str:
        """Return the seconds of audio, the time that they took, and the RTF."""
        spent = time.monotonic() - self.begin
        factor = f", RTF {spent / self.heard:.2f}" if self.heard else ""
        return f"{self.heard:.1f} s of audio in {spent:.1f} s{factor}"


def _load(args: argparse.Namespace):
    """Return the transcriber; a model that cannot stream is rejected with --stream."""
    if args.model.endswith(ONNX):
        return _load_exported(args)
    recognise = load_transcriber(
        args,
        inference_config=args.inference_config,
        max_segment=args.max_segment,
        times=args.stream or set(args.format) != {"txt"},
        say=say,
        block=args.block,
    )
    if args.stream:
        with located(f"--model {args.model}"):
            recognise.stream()
    return recognise


def _transcribe_one(job: Job, recognise, args, several: bool, meter: Meter, records):
    """Transcribe a recording and write it; return the latency of --stream, or None.

    Args:
        records: Sources of the output folder; None: the transcript is printed.
    """
    path, late = job.source.path, None
    name = "stdin" if path == STDIN else path
    if args.stream:
        seconds = CHUNK if args.chunk is None else args.chunk
        chunks = _chunks(job.source, recognise.trained.rate, seconds)
        show = None if several else meter.show
        transcript, late = _stream(recognise, chunks, name, meter.add, show)
    else:
        wave = read_audio(path, recognise.trained.rate, say=meter.say)
        transcript = recognise.transcribe(wave, name, meter.add)
    if transcript.silent:
        where = "standard input" if path == STDIN else shown(path)
        meter.say(f"{where}: only silence; no words")
    # a pipe cannot be read again
    if records is not None and os.path.isfile(path):
        records.take_over(job.name, path, job.outputs.values())
    with meter.above():
        _write(transcript, job, args, several)
    return late


def transcribe(args: argparse.Namespace) -> int:
    """Transcribe all recordings; return the exit status."""
    jobs, records, unread = _check(args)
    before = sum(job.done for job in jobs)
    if before:
        say(
            f"{before} of {len(jobs)} recordings are already done "
            "(--overwrite true transcribes them again)"
        )
    blocked = [job for job in jobs if job.obstacle]
    again = sum(job.outdated for job in jobs if not job.obstacle)
    if again:
        say(
            f"{again} of {len(jobs)} recordings are transcribed again, because the "
            "model or the options have changed"
        )
    for job in blocked:
        say(f"error: {job.obstacle}")
    todo = [job for job in jobs if not job.done and not job.obstacle]
    if not todo:
        return int(bool(blocked or unread))
    recognise, meter, late = _load(args), Meter(todo), []
    with meter.bar:
        try:
            for job in todo:
                try:
                    several = len(jobs) > 1
                    given = job, recognise, args, several, meter, records
                    late.append(_transcribe_one(*given))
                except AudioError as error:
                    meter.say(f"error: {error}")
        except UnknownTimesError as error:
            raise UserError(f"{error}; --format txt needs no times") from None
        except KeyboardInterrupt:
            meter.bar.close()
            line = f"interrupted: {len(late)} of {len(todo)} recordings are done"
            if records is not None:
                line += " and kept; run the same command to resume"
            say(line)
            return 130
    if args.output_dir is not None or sys.stderr.isatty():
        say(f"{counted(len(late), 'recording')}, {meter.summary()}")
    if args.stream and late:
        from espnet_adastride.timing.latency import describe_latency

        say(f"latency: {describe_latency(late)}")
    failed = len(blocked) + len(todo) - len(late)
    if failed:
        say(f"{failed} of {len(todo) + len(blocked)} recordings failed")
    return int(bool(failed or unread))


@command(get_parser)
def main(args) -> None:
    raise SystemExit(transcribe(args))


if __name__ == "__main__":
    main()
