"""The files of the demo's corpus: made in order, resumed, checked."""

import functools
import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional

from espnet_adastride.corpora import espeak
from espnet_adastride.corpora.kaldi import shorten
from espnet_adastride.corpora.mini_espeak.grammar import (
    PARTS,
    transcript,
    words_of,
)
from espnet_adastride.corpora.mini_espeak.plan import (
    DEFAULT_LM_SENTENCES,
    LM_TEXT,
    Chapter,
    Plan,
    plan_corpus,
    seed_of,
)
from espnet_adastride.corpora.mini_espeak.speech import (
    FS,
    LEVELS,
    NOISE_SHARE,
    SNRS,
    speak,
)
from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike, locked, write_flac, write_text

FORMAT = 3  # raise when the audio made from the same options changes


def build_corpus(
    output: PathLike,
    seed: int = 0,
    minutes: Optional[Dict[str, float]] = None,
    nj: int = 1,
    say: Callable[[str], None] = print,
    lm_sentences: int = DEFAULT_LM_SENTENCES,
) -> Path:
    """Make the corpus, resume an interrupted one, or leave a complete one alone.

    Work happens in ``OUTPUT/.LibriSpeech.partial``, chapter by chapter; a chapter is
    renamed when it is complete. At the end the folder becomes ``OUTPUT/LibriSpeech``.

    Args:
        output: Parent folder of ``LibriSpeech``.
        seed, minutes, lm_sentences: See :func:`plan_corpus`.
        nj: Number of processes; the files do not depend on it.
        say: Called with progress messages, one line each.

    Returns:
        ``OUTPUT/LibriSpeech``.

    Raises:
        UserError: There is another corpus, the existing one is damaged, or eSpeak NG
            is missing or fails.
        OSError: The folder cannot be written.
    """
    started = time.time()
    final = Path(output) / "LibriSpeech"
    partial = Path(output) / ".LibriSpeech.partial"
    plan = plan_corpus(seed, minutes, lm_sentences=lm_sentences)
    made_of = {
        "format": FORMAT,
        "seed": seed,
        "minutes": plan.minutes,
        "lm_sentences": lm_sentences,
        "espeak_ng": espeak.version(),
        # Include sentences and voices: the grammar file may have been edited.
        "plan": hashlib.sha256(repr(plan).encode()).hexdigest()[:16],
    }
    Path(output).mkdir(parents=True, exist_ok=True)
    with locked(output, wait=False) as free:
        if not free:
            raise UserError(
                f"another process is making the corpus in {output}; wait for it or "
                "stop it"
            )
        if final.exists():
            _check_finished(final, made_of, plan)
            say(f"{final}: already complete ({_summary(plan)})")
        else:
            _build(partial, made_of, plan, nj, say)
            os.rename(partial, final)
            say(f"{final}: finished [{time.time() - started:.1f} s]")
    return final


def _build(
    partial: Path, made_of: dict, plan: Plan, nj: int, say: Callable[[str], None]
) -> None:
    output = partial.parent
    partial.mkdir(exist_ok=True)
    stamp = partial / "plan.json"
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == _json(made_of)):
        if any(partial.iterdir()):
            say(f"{output}: an interrupted run had other options: starting over")
            shutil.rmtree(partial)
            partial.mkdir()
        write_text(stamp, _json(made_of))
    for leftover in partial.glob("*/*/.*.tmp"):  # left by killed processes
        shutil.rmtree(leftover)
    todo = [c for c in plan.chapters if not (partial / c.folder).is_dir()]
    done = len(plan.chapters) - len(todo)
    if done:
        say(f"{output}: resuming an interrupted run, {done} chapters kept")
    say(f"{output}: {_summary(plan)}, {nj} processes")
    _make_chapters(partial, plan, todo, nj, say)

    lm_text = "".join(f"{transcript(s)}\n" for s in plan.lm_sentences)
    write_text(partial / LM_TEXT, lm_text)
    _write_descriptions(partial, made_of, plan)
    _check_files(partial, plan)
    stamp.unlink()


def _make_chapters(
    partial: Path, plan: Plan, todo: List[Chapter], nj: int, say: Callable[[str], None]
) -> None:
    total = len(plan.chapters)

    def report(results: Iterable) -> None:
        for number, _ in enumerate(results, 1):
            if number == len(todo) or number % max(1, total // 5) == 0:
                say(f"{total - len(todo) + number} of {total} chapters")

    work = functools.partial(make_chapter, partial, plan.seed)
    if nj <= 1:
        report(map(work, todo))
        return
    with ProcessPoolExecutor(nj, initializer=_start_worker) as pool:
        try:
            report(pool.map(work, todo))
        except BrokenProcessPool:
            raise UserError(
                "a process died (out of memory?); run the command again to "
                "resume, with a smaller --nj"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C goes to the whole group; only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def follow():
        # A killed parent cannot stop its workers: they would wait forever and keep
        # holding its lock.
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def make_chapter(root: Path, seed: int, chapter: Chapter) -> None:
    """Write the recordings and transcripts of a chapter below ``root``."""
    final = root / chapter.folder
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    lines = []
    for key, sentence in chapter.sentences.items():
        samples = speak(sentence, chapter.speaker, seed_of(seed, key))
        write_flac(temporary / f"{key}.flac", samples, FS)
        lines.append(f"{key} {transcript(sentence)}\n")
    (temporary / chapter.transcripts).write_text("".join(lines), encoding="utf-8")
    os.rename(temporary, final)


def _write_descriptions(root: Path, made_of: dict, plan: Plan) -> None:
    import soundfile

    seconds: Dict[int, float] = Counter()
    for chapter in plan.chapters:
        for key in chapter.sentences:
            info = soundfile.info(root / chapter.folder / f"{key}.flac")
            seconds[chapter.speaker.id] += info.frames / FS
    lines = [
        "; Speakers of mini_espeak: voices of eSpeak NG, in LibriSpeech's format.\n",
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n",
    ]
    for s in plan.speakers:
        v = s.voice
        lines.append(
            f"{s.id:<5}| {s.sex} | {s.part:<17}| {seconds[s.id] / 60:<5.2f} | "
            f"{v.name}, {v.rate} words per minute, pitch {v.pitch}, "
            f"range {v.pitch_range}\n"
        )
    write_text(root / "SPEAKERS.TXT", "".join(lines))
    parts = {}
    for part in PARTS:
        here = [s for s in plan.speakers if s.part == part]
        sentences = plan.sentences(part)
        parts[part] = {
            "utterances": len(sentences),
            "seconds": round(sum(seconds[s.id] for s in here), 3),
            "speakers": len(here),
            "words": sum(len(words_of(s)) for s in sentences),
            "word_types": len({w for s in sentences for w in words_of(s)}),
        }
    table = "".join(
        f"    {part:<12} {p['utterances']:>5} utterances {p['seconds'] / 60:6.1f} min "
        f"{p['speakers']:>3} speakers {p['words']:>6} words "
        f"({p['word_types']} different)\n"
        for part, p in parts.items()
    )
    write_text(
        root / "README.TXT",
        f"""mini_espeak: a small synthetic corpus in LibriSpeech's layout

{table}
Made by `python -m espnet_adastride.bin.make_espeak_corpus` with seed {plan.seed}
and eSpeak NG {made_of['espeak_ng']}.

The sentences come from a grammar (espnet_adastride/corpora/mini_espeak_grammar.yaml).
No sentence and no voice variant occurs in two parts; every word of dev and test
occurs in train. {LM_TEXT} holds {len(plan.lm_sentences)} further sentences, none of
which is spoken in any part. The rate of a speaker varies by 6 % between utterances;
commas are pauses of 0.1 to 0.6 s, and 0.1 to 0.5 s of silence stand at both ends.
{NOISE_SHARE:.0%} of the utterances have white noise, pink noise or the babble of six
voices at {SNRS[0]:.0f} to {SNRS[1]:.0f} dB SNR; all have a faint hiss. Speech levels
are {-LEVELS[1]:.0f} to {-LEVELS[0]:.0f} dB below full scale.
SPEAKERS.TXT names the voice of each speaker.
""",
    )
    write_text(root / "mini_espeak.json", _json({"made_of": made_of, "parts": parts}))


def _check_finished(final: Path, made_of: dict, plan: Plan) -> None:
    try:
        stamp = json.loads((final / "mini_espeak.json").read_text(encoding="utf-8"))
        there = stamp["made_of"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{final} exists and is not a mini_espeak corpus; give another --output"
        ) from None
    differing = [
        f"{k}: {there.get(k)} there, {v} requested"
        for k, v in made_of.items()
        if there.get(k) != v
    ]
    if differing:
        raise UserError(
            f"{final} was made with other options ({'; '.join(differing)}); give "
            "another --output, or remove it"
        )
    _check_files(final, plan)


def _check_files(root: Path, plan: Plan) -> None:
    wanted = [root / LM_TEXT]
    for chapter in plan.chapters:
        names = [*(f"{key}.flac" for key in chapter.sentences), chapter.transcripts]
        wanted += [root / chapter.folder / name for name in names]
    missing = [path.name for path in wanted if not path.is_file()]
    if missing:
        raise UserError(
            f"{root}: {len(missing)} files are missing ({shorten(missing, 3)}); remove "
            "the folder and run again"
        )


def _summary(plan: Plan) -> str:
    return ", ".join(
        f"{part} {len(plan.sentences(part))} utterances of "
        f"{sum(s.part == part for s in plan.speakers)} speakers"
        for part in PARTS
    )


def _json(value: dict) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
