"""Connected digits, made from the Free Spoken Digit Dataset (FSDD).

    FSDD/recordings/DIGIT_SPEAKER_TAKE.wav     3,000 digits, 6 speakers, 8 kHz

    find_recordings -> plan_digits (speakers, digits and parts) -> build_digits:
    AUDIO/{train,dev,test}/ID.flac and data directories with text, utt2recordings and
    words.ctm (the times of each digit)

An utterance is 3 to 8 recordings of one speaker, no recording twice, with silences
between and around them and faint noise throughout. The parts share no recordings:

* test: speakers who are in no other part. Their takes are divided into groups, and an
  utterance uses recordings of one group: utterances share recordings and are therefore
  not independent, but groups are. ``utt2spk`` names the groups (``jackson-07``);
* dev: the first takes of the other speakers (the publisher's test takes);
* train: all their other takes.

Every recording of a speaker (or group) is used equally often, give or take one. All
randomness is seeded by the seed and the part: the same options give the same samples.
"""

import os
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np
import soundfile

from espnet_adastride.corpora.kaldi import (
    PathLike,
    Utterance,
    write_data_dir,
    write_lines,
)
from espnet_adastride.corpora.librispeech import check_audio
from espnet_adastride.errors import UserError, counted
from espnet_adastride.files import fresh_dir, replace_dir, write_flac, write_text
from espnet_adastride.timing.ctc import Timed
from espnet_adastride.timing.transcripts import ctm_lines

FS = 8000  # Hz
PARTS = ("train", "dev", "test")
WORDS = "ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split()

MIN_DIGITS, MAX_DIGITS = 3, 8
SILENCES = (0.1, 0.4)  # seconds
FLOORS = (-65.0, -55.0)  # dB re full scale
FADE = 0.005  # seconds at both ends of a recording: no clicks
GROUP_TAKES = 2  # of each digit: an utterance may repeat a digit, but not a recording

FIX = "set FSDD=/path/to/free-spoken-digit-dataset or edit db.sh"


@dataclass(frozen=True)
class Recording:
    """One spoken digit.

    Attributes:
        path: Absolute path of the file, named ``DIGIT_SPEAKER_TAKE.wav``.
        digit: 0 to 9.
        speaker: Name.
        take: Number of the recording among those of this digit and speaker.
        samples: Length.
    """

    path: str
    digit: int
    speaker: str
    take: int
    samples: int

    @property
    def name(self) -> str:
        """``DIGIT_SPEAKER_TAKE``."""
        return Path(self.path).stem


@dataclass(frozen=True)
class DigitSequence:
    """One utterance, before it is concatenated.

    Attributes:
        id: E.g. ``jackson-07-0012``.
        speaker: As in ``utt2spk``: the speaker and the number of the group.
        recordings: In order.
        silences: Samples before, between and after them: one more than recordings.
        floor: Level of the noise in dB.
        noise_seed: Seed of the noise.
    """

    id: str
    speaker: str
    recordings: Tuple[Recording, ...]
    silences: Tuple[int, ...]
    floor: float
    noise_seed: int

    @property
    def text(self) -> str:
        """The transcript."""
        return " ".join(WORDS[r.digit] for r in self.recordings)

    @property
    def samples(self) -> int:
        """Length of the utterance."""
        return sum(self.silences) + sum(r.samples for r in self.recordings)

    @property
    def parts(self) -> str:
        """Silences and recordings in order: ``2044 7_jackson_0 995 ...``."""
        words = [str(self.silences[0])]
        for recording, silence in zip(self.recordings, self.silences[1:]):
            words += [recording.name, str(silence)]
        return " ".join(words)

    @property
    def word_times(self) -> List[Timed]:
        """Begin and end of each digit's recording, in seconds."""
        times, begin = [], self.silences[0]
        for recording, silence in zip(self.recordings, self.silences[1:]):
            end = begin + recording.samples
            times.append(Timed(WORDS[recording.digit], begin / FS, end / FS, 1.0))
            begin = end + silence
        return times


# --------------------------------------------------------------------------- recordings


def find_recordings(corpus: PathLike) -> List[Recording]:
    """Find and decode the recordings.

    Args:
        corpus: Folder of the data set, its parent, or ``recordings`` itself.

    Returns:
        Recordings, sorted by speaker, take and digit.

    Raises:
        UserError: No such folder, no recording in it, an unexpected file name, or a
            file that does not decode as 8 kHz mono.
    """
    folder = _recordings_folder(corpus)
    found: Dict[tuple, Recording] = {}
    for path in sorted(folder.glob("*.wav")):
        name = re.fullmatch(r"(\d)_([A-Za-z]+)_(\d+)", path.stem)
        if not name:
            raise UserError(
                f"{path}: the name is not DIGIT_SPEAKER_NUMBER.wav, such as "
                "7_jackson_12.wav; rename or remove the file"
            )
        digit, speaker, take = int(name[1]), name[2], int(name[3])
        samples, kind, detail = check_audio(path, FS)
        if kind:
            raise UserError(
                f"{path}: {kind} ({detail}); copy it from the data set again, or "
                "remove it"
            )
        key = (speaker, take, digit)
        if key in found:
            raise UserError(
                f"{path}: the same digit, speaker and number as {found[key].path}; "
                "remove one of the two"
            )
        found[key] = Recording(str(path), digit, speaker, take, samples)
    return [found[key] for key in sorted(found)]


def _recordings_folder(corpus: PathLike) -> Path:
    if not str(corpus).strip():
        raise UserError(f"the path of the spoken digits is empty; {FIX}")
    root = Path(os.path.expanduser(corpus)).absolute()
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"the folder of the spoken digits {root} {what}; {FIX}")
    for name in ("recordings", "fsdd/recordings", "*/recordings", "."):
        for folder in sorted(root.glob(name)) if "*" in name else [root / name]:
            if next(folder.glob("*_*_*.wav"), None):
                return folder
    raise UserError(f"no recordings/DIGIT_SPEAKER_NUMBER.wav in {root}; {FIX}")


# --------------------------------------------------------------------------------- plan


def plan_digits(
    recordings: Sequence[Recording],
    seed: int = 0,
    train_minutes: float = 78.0,
    dev_utterances: int = 200,
    test_utterances: int = 1100,
    test_speakers: Sequence[str] = ("jackson",),
    dev_takes: int = 5,
) -> Dict[str, List[DigitSequence]]:
    """Draw the utterances of every part.

    Args:
        recordings: From :func:`find_recordings`.
        seed: Random seed.
        train_minutes: Length of train, silences included.
        dev_utterances: Number of utterances of dev.
        test_utterances: Number of utterances of test.
        test_speakers: Speakers held out for the test.
        dev_takes: Takes of each digit by each other speaker that are held out.

    Raises:
        UserError: An unknown or no test speaker, a part without length, or a speaker
            (or group) with too few recordings.
    """
    speakers = sorted({r.speaker for r in recordings})
    unknown = sorted(set(test_speakers) - set(speakers))
    if unknown or not test_speakers:
        raise UserError(
            f"--test_speakers {', '.join(unknown) or 'is empty'}: "
            f"choose among {', '.join(speakers)}"
        )
    if set(test_speakers) == set(speakers):
        raise UserError("--test_speakers names all speakers; leave one for training")
    if not train_minutes > 0 or min(dev_utterances, test_utterances) < 1:
        raise UserError("train, dev and test must not be empty: give lengths above 0")
    pools: Dict[str, Dict[str, List[Recording]]] = {part: {} for part in PARTS}
    for speaker in speakers:
        own = [r for r in recordings if r.speaker == speaker]
        takes = sorted({r.take for r in own})
        if speaker in test_speakers:
            for start in range(0, len(takes), GROUP_TAKES):
                group = takes[start : start + GROUP_TAKES]
                name = f"{speaker}-{start // GROUP_TAKES:02d}"
                pools["test"][name] = [r for r in own if r.take in group]
        else:
            held_out = takes[:dev_takes]
            pools["dev"][f"{speaker}-00"] = [r for r in own if r.take in held_out]
            pools["train"][f"{speaker}-00"] = [r for r in own if r.take not in held_out]
    return {
        "train": _draw("train", pools["train"], seed, seconds=train_minutes * 60),
        "dev": _draw("dev", pools["dev"], seed, number=dev_utterances),
        "test": _draw("test", pools["test"], seed, number=test_utterances),
    }


def _draw(
    part: str,
    pools: Dict[str, List[Recording]],
    seed: int,
    seconds: float = float("inf"),
    number: float = float("inf"),
) -> List[DigitSequence]:
    """Draw from the pools in turn until there are ``seconds`` or ``number``."""
    for name, pool in pools.items():
        if len(pool) < MAX_DIGITS:
            raise UserError(
                f"{part}: {name} has {len(pool)} recordings, but an utterance takes up "
                f"to {MAX_DIGITS}; complete the data set, or choose other speakers or "
                "--dev_takes"
            )
    rng = random.Random(f"{seed} {part}")
    decks = {name: _Deck(pool, rng) for name, pool in pools.items()}
    counts = {name: 0 for name in pools}
    drawn, total = [], 0
    while total < seconds * FS and len(drawn) < number:
        name = list(pools)[len(drawn) % len(pools)]
        recordings = decks[name].draw(rng.randint(MIN_DIGITS, MAX_DIGITS))
        silences = [round(FS * rng.uniform(*SILENCES)) for _ in range(len(recordings))]
        silences.append(round(FS * rng.uniform(*SILENCES)))
        sequence = DigitSequence(
            f"{name}-{counts[name]:04d}",
            name,
            tuple(recordings),
            tuple(silences),
            rng.uniform(*FLOORS),
            rng.getrandbits(32),
        )
        counts[name] += 1
        total += sequence.samples
        drawn.append(sequence)
    return drawn


class _Deck:
    """Draws recordings so that all are used equally often."""

    def __init__(self, recordings: Sequence[Recording], rng: random.Random):
        self.recordings, self.rng = list(recordings), rng
        self.left: List[Recording] = []

    def draw(self, count: int) -> List[Recording]:
        hand: List[Recording] = []
        while len(hand) < count:
            if not self.left:
                self.left = self.rng.sample(self.recordings, len(self.recordings))
            # skip recordings already used in this utterance
            hand.append(next(r for r in self.left if r not in hand))
            self.left.remove(hand[-1])
        return hand


# -------------------------------------------------------------------------------- audio


def speak(sequence: DigitSequence) -> np.ndarray:
    """Concatenate an utterance.

    Returns:
        Samples, int16 (sequence.samples,), 8 kHz.
    """
    rng = np.random.default_rng(sequence.noise_seed)
    wave = 10 ** (sequence.floor / 20) * rng.standard_normal(sequence.samples)
    ramp = np.linspace(0.0, 1.0, round(FADE * FS))
    start = sequence.silences[0]
    for recording, silence in zip(sequence.recordings, sequence.silences[1:]):
        speech, _ = soundfile.read(recording.path, dtype="float64")
        edge = min(len(ramp), len(speech))
        speech[:edge] *= ramp[:edge]
        speech[len(speech) - edge :] *= ramp[:edge][::-1]
        wave[start : start + len(speech)] += speech
        start += len(speech) + silence
    return np.rint(32767 * np.clip(wave, -1.0, 1.0)).astype(np.int16)


def build_digits(
    plan: Dict[str, List[DigitSequence]], output: PathLike, audio: PathLike
) -> List[str]:
    """Write the audio and the data directories ``OUTPUT/{train,dev,test}``.

    Args:
        plan: From :func:`plan_digits`.
        output: Folder of the data directories; ``wav.scp`` is written last.
        audio: Audio folder; replaced when the new one is complete.

    Returns:
        One line for each part.

    Raises:
        UserError: The audio folder has something else than an earlier call's audio.
    """
    output, audio = Path(output), Path(audio).absolute()
    for path in sorted(audio.iterdir()) if audio.is_dir() else ():
        if path.name not in PARTS:
            raise UserError(
                f"{audio} would be replaced, and {path.name} in it was not made here; "
                "give another --audio"
            )
    for part in PARTS:  # their audio will be replaced
        (output / part / "wav.scp").unlink(missing_ok=True)
    staging = fresh_dir(audio)
    try:
        for part in PARTS:
            (staging / part).mkdir()
            for sequence in plan[part]:
                path = staging / part / f"{sequence.id}.flac"
                write_flac(path, speak(sequence), FS)
        replace_dir(staging, audio)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    lines = []
    for part in PARTS:
        sequences = plan[part]
        write_lines(
            output / part / "utt2recordings", {s.id: s.parts for s in sequences}
        )
        times = [x for s in sequences for x in ctm_lines(s.id, s.word_times)]
        write_text(output / part / "words.ctm", "".join(f"{x}\n" for x in times))
        utterances = [
            Utterance(s.id, f"{audio / part / s.id}.flac", s.text, s.speaker, s.samples)
            for s in sequences
        ]
        write_data_dir(output / part, utterances)
        recordings = {r.name for s in sequences for r in s.recordings}
        voices = sorted({r.speaker for s in sequences for r in s.recordings})
        hours = sum(s.samples for s in sequences) / FS / 3600
        lines.append(
            f"{output / part}: {counted(len(sequences), 'utterance')}, {hours:.2f} h, "
            f"{sum(len(s.recordings) for s in sequences)} digits of {len(recordings)} "
            f"recordings by {', '.join(voices)}"
        )
    return lines
