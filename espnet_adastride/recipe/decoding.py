"""Count and join the output of the parallel decoding jobs (stage 12)."""

import glob
import os
import re
import sys
import time
from pathlib import Path
from typing import List

from espnet_adastride.corpora.datadir import read_table, write_table
from espnet_adastride.errors import UserError, counted
from espnet_adastride.evaluation.logs import decoding_seconds
from espnet_adastride.files import PathLike
from espnet_adastride.progress import format_span

FILES = ("token", "token_int", "score", "frames", "text")  # frames: of greedy CTC


def count_decoded(logdir: PathLike) -> int:
    """Return the number of utterances decoded so far by the running jobs.

    Writers only flush their files from time to time, so each job is counted by its
    ``text`` or its log (one ``best hypo:`` per utterance), whichever has more.
    """
    total = 0
    for folder in glob.glob(os.path.join(glob.escape(str(logdir)), "output.*")):
        text = os.path.join(folder, "1best_recog", "text")
        log = os.path.join(logdir, f"asr_inference.{folder.rsplit('.', 1)[1]}.log")
        total += max(_count(text, b"\n"), _count(log, b"best hypo:"))
    return total


def _count(path: str, what: bytes) -> int:
    try:
        with open(path, "rb") as file:
            return file.read().count(what)
    except OSError:
        return 0


class DecodingProgress:
    """Prints utterances done/total: in place on a terminal, otherwise periodically."""

    def __init__(self, folder: str, total: int):
        self.folder, self.total = folder, total
        self.start = time.monotonic()
        self.terminal = sys.stdout.isatty()
        self.next, self.last = self.start, -1

    def __call__(self):
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + (1 if self.terminal else 30)
        done = min(count_decoded(self.folder), self.total)
        if done == self.last:
            return
        self.last = done
        spent = now - self.start
        line = f"decoded {done}/{self.total} utterances, {format_span(spent)}"
        if 0 < done < self.total:
            line += f", ETA {format_span(spent / done * (self.total - done))}"
        if self.terminal:
            end = "\n" if done == self.total else ""
            print(f"\r\033[K{line}", end=end, flush=True)
        elif done:
            print(line, flush=True)


def join_decoded(
    logdir: PathLike, output: PathLike, wav_scp: PathLike, samples: PathLike, rate: int
) -> str:
    """Join the jobs' 1-best files, sorted by utterance, into ``output``.

    Args:
        logdir: Folder of ``output.N/1best_recog/{token,token_int,text,...}`` and logs.
        wav_scp: All of its utterances must have been decoded.
        samples: ``utt2num_samples`` of the set, for the real-time factor.
        rate: Sampling rate in Hz.

    Returns:
        One line: utterances, real-time factor, empty hypotheses.

    Raises:
        UserError: An utterance is missing from the output.
    """
    logdir, output = Path(logdir), Path(output)
    keys = sorted(read_table(wav_scp))
    folders: List[Path] = [p / "1best_recog" for p in logdir.glob("output.*")]
    tables = {}
    for name in FILES:
        merged = {}
        for folder in folders:
            if (folder / name).exists():
                merged.update(read_table(folder / name))
        tables[name] = merged
    missing = [k for k in keys if k not in tables["text"]]
    if missing:
        raise UserError(
            f"{logdir}: {len(missing)} of {len(keys)} utterances were not decoded; the "
            f"first: {missing[0]}; see the logs in this folder"
        )
    for name, table in tables.items():
        if table:
            write_table(output / name, table)

    length = read_table(samples)
    audio = sum(int(length[k]) for k in keys) / rate
    logs = sorted(logdir.glob("asr_inference.*.log"))
    seconds = [decoding_seconds(log) for log in logs]
    number = counted(len(keys), "utterance")
    line = f"{output}/text: {number}, {format_span(audio)} of audio"
    if all(s is not None for s in seconds):
        line += f", real-time factor {sum(seconds) / audio:.3f}"
        line += " (decoding time of all jobs / audio, without loading)"
    short = set()
    for log in logs:
        text = log.read_text(encoding="utf-8", errors="replace")
        short.update(re.findall(r"WARNING: Utterance (.*too short.*)", text))
    empty = [k for k in keys if not tables["text"][k].strip()]
    if empty:
        line += f"; {len(empty)} empty hypotheses (the first: {empty[0]})"
    if short:
        line += f"; too short for the model: {len(short)} ({sorted(short)[0]})"
    return line
