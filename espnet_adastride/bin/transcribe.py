#!/usr/bin/env python3
"""Transcribe recordings with a trained model, with times.

    adastride-transcribe --model exp/asr_train_... talk.mp3
    adastride-transcribe --model model.zip --output_dir out --format txt,srt folder/

Files, folders (recursively) and ``-`` (standard input), in any format, rate and number
of channels that libsndfile reads. Without ``--output_dir``, the result is printed. A
file that cannot be used is named on standard error and the others go on; the exit
status is then 1.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from espnet_adastride.audio import (
    AUDIO_SUFFIXES,
    STDIN,
    AudioError,
    Source,
    find_audio,
    read_audio,
)
from espnet_adastride.bin.model_options import add_model_options, load_transcriber
from espnet_adastride.corpus import atomic_open
from espnet_adastride.recipe.errors import RecipeError, str2bool
from espnet_adastride.recipe.numbers import real
from espnet_adastride.transcripts import FORMATS, Transcript, to_dict

NAME = "adastride-transcribe"
BAR = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s, {remaining} left{postfix}"
BAR_WITHOUT_END = "{n:.0f} s, {elapsed}{postfix}"


class UsageError(Exception):
    """Options or arguments that do not fit together; one line."""


class Job(NamedTuple):
    """A recording and the files to write it to, by format; none: standard output."""

    source: Source
    outputs: Dict[str, Path]


def read_formats(words: str) -> List[str]:
    """Read ``txt,srt``."""
    formats = list(dict.fromkeys(words.split(",")))
    for word in formats:
        if word not in FORMATS:
            raise argparse.ArgumentTypeError(
                f"{word!r} is none of {', '.join(FORMATS)}"
            )
    return formats


def get_parser() -> argparse.ArgumentParser:
    """Build the command's argument parser."""
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Transcribe recordings with a trained model, with times.",
    )
    parser.add_argument(
        "audio", nargs="+", help="files, folders (recursively), or - for stdin"
    )
    add_model_options(parser)
    parser.add_argument(
        "--inference_config",
        help="YAML of ESPnet's beam search (default: greedy CTC, which is faster)",
    )
    parser.add_argument("--output_dir", help="folder to write to (default: print)")
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
        help="transcribe again what has been written before (default: false)",
    )
    parser.add_argument(
        "--max_segment",
        type=real(),
        default=20.0,
        help="seconds; longer recordings are cut at pauses (default: 20)",
    )
    return parser


def plan(sources: Sequence[Source], output_dir, formats: Sequence[str]) -> List[Job]:
    """Return a job per recording; two never write to the same file.

    Recordings that differ in the suffix alone keep theirs: ``a.wav.txt``.

    Raises:
        UsageError: for two recordings of one name.
    """
    if output_dir is None:
        return [Job(source, {}) for source in sources]
    counts: Dict[str, int] = {}
    for source in sources:
        counts[source.name] = counts.get(source.name, 0) + 1
    jobs, owners = [], {}
    for source in sources:
        name = source.name if counts[source.name] == 1 else source.full
        outputs = {f: Path(output_dir) / f"{name}.{f}" for f in formats}
        for path in outputs.values():
            if path in owners:
                raise UsageError(
                    f"{owners[path]} and {source.path} would both be written to "
                    f"{path}: give their folder, or an --output_dir to each"
                )
            owners[path] = source.path
        jobs.append(Job(source, outputs))
    return jobs


def _check(args: argparse.Namespace) -> List[Job]:
    """Return what is to be done; all that can be told before the model is loaded."""
    if args.ngpu not in (0, 1):
        raise UsageError(f"--ngpu {args.ngpu}: give 0 or 1")
    if not args.max_segment >= 1:
        raise UsageError(f"--max_segment {args.max_segment:g}: give 1 second or more")
    if not os.path.exists(args.model):
        raise UsageError(
            f"--model {args.model}: no such file or folder; give an experiment's "
            "folder (exp/asr_...) or a packed .zip"
        )
    if args.output_dir is None and len(args.format) > 1:
        raise UsageError("several formats at once need --output_dir")
    try:
        sources, skipped = find_audio(args.audio)
    except AudioError as error:
        raise UsageError(str(error)) from None
    if skipped:
        what = "file that is" if skipped == 1 else "files that are"
        _say(f"{skipped} {what} not audio left out")
    if not sources:
        raise UsageError(
            f"{', '.join(args.audio)}: no audio in it "
            f"({' '.join(sorted(AUDIO_SUFFIXES))})"
        )
    if args.output_dir is None and len(sources) > 1 and args.format[0] in "srt vtt":
        raise UsageError(
            f"{len(sources)} recordings as {args.format[0]} need --output_dir"
        )
    return plan(sources, args.output_dir, args.format)


def _say(message: str) -> None:
    print(f"{NAME}: {message}", file=sys.stderr, flush=True)


def _seconds(source: Source) -> float:
    """Return the length in the file's header, 0 where it is not known."""
    import soundfile

    try:
        info = soundfile.info(source.path)
        return info.frames / info.samplerate
    except (OSError, RuntimeError, ZeroDivisionError):
        return 0.0


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
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_open(path) as file:
            file.write(FORMATS[kind](transcript))


def transcribe(args: argparse.Namespace) -> int:
    """Transcribe all recordings; return the exit status."""
    jobs = _check(args)
    todo = [
        job
        for job in jobs
        if args.overwrite or not job.outputs or not _all_there(job.outputs.values())
    ]
    if len(todo) < len(jobs):
        _say(
            f"{len(jobs) - len(todo)} of {len(jobs)} recordings were done before "
            "(--overwrite true does them again)"
        )
    if not todo:
        return 0
    from tqdm import tqdm

    try:
        recognise = load_transcriber(
            args,
            inference_config=args.inference_config,
            max_segment=args.max_segment,
            times=set(args.format) != {"txt"},
        )
    except RecipeError as error:
        raise UsageError(str(error)) from None
    from espnet_adastride.plugin.errors import UnknownTimesError

    terminal = sys.stderr.isatty()
    total = sum(_seconds(j.source) for j in todo if j.source.path != STDIN)
    failed = done = 0
    heard, begin = 0.0, time.monotonic()
    with tqdm(
        total=round(total, 1) or None,
        unit="s",
        disable=not terminal,
        file=sys.stderr,
        bar_format=BAR if total else BAR_WITHOUT_END,
    ) as bar:

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
                    wave = read_audio(source.path, recognise.trained.rate)
                    name = "stdin" if source.path == STDIN else source.path
                    transcript = recognise.transcribe(wave, name, progress)
                    if transcript.silent:
                        with tqdm.external_write_mode(sys.stderr):
                            _say(f"{source.path}: nothing but silence; no words")
                    with tqdm.external_write_mode(sys.stderr):
                        _write(transcript, job, args, len(jobs) > 1)
                    done += 1
                except AudioError as error:
                    failed += 1
                    with tqdm.external_write_mode(sys.stderr):
                        _say(f"error: {error}")
        except UnknownTimesError as error:
            bar.close()
            raise UsageError(f"{error}; --format txt needs no times") from None
        except KeyboardInterrupt:
            bar.close()
            _say(f"interrupted: {done} of {len(todo)} recordings done and kept")
            return 130
    spent = time.monotonic() - begin
    if args.output_dir is not None or terminal:
        rtf = f", RTF {spent / heard:.2f}" if heard else ""
        _say(f"{done} recordings, {heard:.1f} s of audio in {spent:.1f} s{rtf}")
    if failed:
        _say(f"{failed} of {len(todo)} recordings failed")
    return 1 if failed else 0


def _all_there(paths) -> bool:
    return all(path.is_file() for path in paths)


def main(cmd=None) -> None:
    """Run the command; a mistake ends in one line and status 1."""
    args = get_parser().parse_args(cmd)
    try:
        status = transcribe(args)
    except BrokenPipeError:
        # whoever read has had enough; nothing is left to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        status = 130
    except (UsageError, OSError) as error:
        raise SystemExit(f"{NAME}: error: {error}") from None
    raise SystemExit(status)


if __name__ == "__main__":
    main()
