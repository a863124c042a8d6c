"""Short trainings on a GPU: the same minutes' worth of updates for every input layer.

A part of gpu_kit.py; ``--sections train`` of gpu.py. The model is
conf/train_asr_gpu_kit.yaml, built by ESPnet (log-mel, SpecAugment, normalisation,
Conformer, CTC over SentencePiece units); the recordings, at three speeds, stay on the
GPU, so that nothing waits for a disk. Four settings:

    strided_conv 4x, adastride 4x, strided_conv 8x, adastride 8x

The cell ``train/updates`` times a few updates of each and takes as many as the slowest
makes in its time: all settings then see the same batches, in the same order, and the
learning rate rises and falls over the same number of updates. One seed. Greedy CTC on
the dev set; word errors of every utterance are kept, so that settings can be compared
pairwise.
"""

import copy
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from gpu_records import Cell

RATE = 16000
SETTINGS = (
    ("strided_conv", 4),
    ("adastride", 4),
    ("strided_conv", 8),
    ("adastride", 8),
)
SPEEDS = (90, 100, 110)  # per cent
PIECES = 500
#: shares of the updates, and of the highest learning rate
WARM_UP, FINAL = 0.1, 0.02
#: updates that are timed for ``train/updates``, and those before them
TIMED, UNTIMED = 20, 8
SUFFIXES = (".opus", ".ogg", ".flac", ".wav")
SEED = 1


# ----------------------------------------------------------------------------- speech


def read_folder(folder, at_most=None):
    """Return names, texts and int16 waves of a folder of recordings and ``text``.

    Args:
        folder: of recordings.
        at_most: so many recordings.

    Raises:
        ValueError: in one line, if something is missing.
    """
    import soundfile

    folder = Path(folder)
    table = folder / "text"
    if not table.is_file():
        raise ValueError(f"{table} is missing: unpack the parts again")
    from espnet_adastride.corpora.kaldi import read_text

    texts = read_text(table)
    paths = {p.stem: p for p in folder.iterdir() if p.suffix in SUFFIXES}
    missing = sorted(set(texts) - set(paths))
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} of {len(texts)} recordings are missing, such as "
            f"{missing[0]}: have all parts been unpacked?"
        )

    def read(name):
        wave, rate = soundfile.read(paths[name], dtype="int16")
        if rate != RATE or wave.ndim != 1:
            raise ValueError(f"{paths[name]}: must be mono at {RATE} Hz")
        return torch.from_numpy(wave)

    names = sorted(texts)[:at_most]
    with ThreadPoolExecutor() as pool:  # libsndfile decodes outside Python's lock
        waves = list(pool.map(read, names))
    return names, [texts[name] for name in names], waves


class Corpus:
    """Training and dev speech, on the device, and the text's pieces.

    Args:
        folder: with ``train`` and ``dev``.
        scale: of gpu.py.
    """

    def __init__(self, folder, scale):
        import sentencepiece

        from espnet_adastride.corpora.tokens import train_bpe

        folder = Path(folder)
        # pieces and statistics of a dry run are of a few recordings
        self.folder = folder / "dry_run" if scale.dry_run else folder
        self.folder.mkdir(exist_ok=True)
        self.device = scale.device
        train, dev = (24, 4) if scale.dry_run else (None, None)
        _, texts, waves = read_folder(folder / "train", train)
        self.dev_names, self.dev_texts, dev = read_folder(folder / "dev", dev)
        self.dev = [wave.to(scale.device) for wave in dev]
        self.hours = sum(map(len, waves)) / RATE / 3600
        waves = [wave.to(scale.device) for wave in waves]
        self.waves = {speed: [at_speed(w, speed) for w in waves] for speed in SPEEDS}
        characters = len(set("".join(texts)))
        size = characters + 12 if scale.dry_run else PIECES
        model = self.folder / "bpe.model"
        if not model.exists():  # once: all settings have the same pieces
            train_bpe(texts, self.folder, size, "unigram", 1.0)
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
        count = self.pieces.get_piece_size()
        tokens = [self.pieces.id_to_piece(i) for i in range(3, count)]
        self.tokens = ["<blank>", "<unk>", *tokens, "<sos/eos>"]
        number = {token: place for place, token in enumerate(self.tokens)}
        self.ids = [
            torch.tensor(
                [number.get(p, 1) for p in self.pieces.encode(t, out_type=str)]
            )
            for t in texts
        ]

    def statistics_file(self, frontend):
        """Write and return what ESPnet's global_mvn reads: sums over the frames."""
        path = self.folder / "feats_stats.npz"
        if not path.exists():
            count, total, square = 0, 0.0, 0.0
            with torch.no_grad():
                for wave in self.waves[100]:
                    speech = wave.float().div(2**15).unsqueeze(0)
                    lengths = torch.tensor([len(wave)], device=wave.device)
                    frames = frontend(speech, lengths)[0][0].double()
                    count += len(frames)
                    total = total + frames.sum(dim=0)
                    square = square + frames.square().sum(dim=0)
            arrays = {"sum": total, "sum_square": square}
            arrays = {key: value.float().cpu().numpy() for key, value in arrays.items()}
            np.savez(path, count=count, **arrays)
        return path

    def epoch(self, number, bins):
        """Return the batches of an epoch: lists of (utterance, speed).

        Args:
            number: of the epoch: another order, and other speeds.
            bins: samples of a batch at most, padding included.
        """
        draw = np.random.default_rng([SEED, number])
        speeds = draw.choice(SPEEDS, len(self.ids))
        lengths = [len(self.waves[s][i]) for i, s in enumerate(speeds)]
        # not always the same neighbours
        order = np.argsort(np.array(lengths) * draw.uniform(0.95, 1.05, len(lengths)))
        batches, batch, longest = [], [], 0
        for i in order:
            longest = max(longest, lengths[i])
            if batch and longest * (len(batch) + 1) > bins:
                batches.append(batch)
                batch, longest = [], lengths[i]
            batch.append((int(i), int(speeds[i])))
        batches.append(batch)
        return [batches[place] for place in draw.permutation(len(batches))]

    def tensors(self, batch):
        """Return a batch as ESPnet's model takes it."""
        waves = [self.waves[speed][i] for i, speed in batch]
        texts = [self.ids[i] for i, _ in batch]
        text = torch.nn.utils.rnn.pad_sequence(texts, True, -1)
        return {
            **speech_tensors(waves),
            "text": text.to(self.device),
            "text_lengths": torch.tensor(list(map(len, texts)), device=self.device),
        }


def at_speed(wave, speed):
    """Return a wave (n,) int16 at a speed in per cent: pitch changes, too."""
    if speed == 100:
        return wave
    from torchaudio.functional import resample

    changed = resample(wave.float(), speed, 100)
    return changed.round().clamp(-(2**15), 2**15 - 1).to(torch.int16)


def speech_tensors(waves):
    """Return {speech, speech_lengths} of int16 waves on one device."""
    speech = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    lengths = torch.tensor(list(map(len, waves)), device=speech.device)
    return {"speech": speech.float().div_(2**15), "speech_lengths": lengths}


@lru_cache(maxsize=1)
def corpus(folder, scale):
    """Return the corpus, read once a process."""
    return Corpus(folder, scale)


# --------------------------------------------------------------------------- training


@lru_cache(maxsize=1)
def options():
    """Return the configuration as ESPnet reads it."""
    from espnet_adastride.plugin.espnet import asr_task
    from published import CONF

    path = CONF / "train_asr_gpu_kit.yaml"
    return asr_task.ASRTask.get_parser().parse_args(["--config", str(path)])


class Training:
    """One setting: a model, its optimizer, and updates with batches of a corpus."""

    def __init__(self, method, rate, speech: Corpus, scale):
        import espnet_adastride.plugin  # noqa: F401
        from espnet_adastride.plugin.espnet import asr_task

        self.speech, self.device = speech, scale.device
        conf = copy.deepcopy(options())
        conf.token_list = speech.tokens
        conf.encoder_conf["input_layer"] = method
        conf.encoder_conf["input_layer_conf"] = {"stride": rate}
        if scale.dry_run:
            small = {"output_size": 32, "linear_units": 32, "attention_heads": 2}
            conf.encoder_conf.update(small, num_blocks=2, interctc_layer_idx=[1])
            conf.batch_bins = 3 * RATE
        conf.normalize, conf.normalize_conf = None, {}
        frontend = asr_task.ASRTask.build_model(conf).frontend.to(scale.device)
        stats = speech.statistics_file(frontend)
        conf.normalize, conf.normalize_conf = "global_mvn", {"stats_file": str(stats)}
        torch.manual_seed(SEED)
        np.random.seed(SEED)
        self.model = asr_task.ASRTask.build_model(conf).to(scale.device).train()
        (self.optimizer,) = asr_task.ASRTask.build_optimizers(conf, self.model)
        self.conf, self.highest = conf, conf.optim_conf["lr"]
        amp = conf.use_amp and scale.device == "cuda"
        bfloat16 = amp and torch.cuda.is_bf16_supported()
        dtype = torch.bfloat16 if bfloat16 else torch.float16
        self.amp = {"device_type": scale.device, "dtype": dtype, "enabled": amp}
        self.scaler = torch.amp.GradScaler(scale.device, enabled=amp and not bfloat16)
        self.stats = {}

    def batches(self):
        """Yield batches without end, epoch after epoch."""
        number = 0
        while True:
            yield from self.speech.epoch(number, self.conf.batch_bins)
            number += 1

    def update(self, batch, share):
        """Take one update.

        Args:
            batch: of :meth:`Corpus.epoch`.
            share: of all updates that are done.

        Returns:
            The loss, a tensor on the device.
        """
        rising = share / WARM_UP
        falling = 1.0 - (1.0 - FINAL) * (share - WARM_UP) / (1.0 - WARM_UP)
        for group in self.optimizer.param_groups:
            group["lr"] = self.highest * max(min(rising, falling), 1e-3)
        with torch.autocast(**self.amp):
            loss, self.stats, _ = self.model(**self.speech.tensors(batch))
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        parameters = self.model.parameters()
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.conf.grad_clip)
        if torch.isfinite(norm):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss.detach()

    def decode(self):
        """Return {utterance: text} of the dev set by greedy CTC."""
        from espnet_adastride.plugin.greedy import ctc_collapse, main_frames

        self.model.eval()
        names, waves, found = self.speech.dev_names, self.speech.dev, {}
        order = sorted(range(len(waves)), key=lambda i: len(waves[i]))
        for start in range(0, len(order), 16):
            rows = order[start : start + 16]
            with torch.no_grad(), torch.autocast(**self.amp):
                batch = speech_tensors([waves[i] for i in rows])
                frames, lengths = self.model.encode(**batch)
                scores = self.model.ctc.log_softmax(main_frames(frames))
            for i, path, n in zip(rows, scores.argmax(2).tolist(), lengths.tolist()):
                tokens = [self.speech.tokens[t] for t in ctc_collapse(path[:n], 0)]
                found[names[i]] = self.speech.pieces.decode(tokens)
        self.model.train()
        return found


def time_of_updates(method, rate, speech, scale):
    """Return the median seconds of an update of a setting."""
    training = Training(method, rate, speech, scale)
    timed, untimed = (2, 1) if scale.dry_run else (TIMED, UNTIMED)
    seconds = []
    for number, batch in enumerate(training.batches()):
        start = time.perf_counter()
        training.update(batch, 0.0)
        if scale.device == "cuda":
            torch.cuda.synchronize()
        if number >= untimed:
            seconds.append(time.perf_counter() - start)
        if len(seconds) == timed:
            return statistics.median(seconds)


def plan_updates(args, scale):
    """Return the cell ``train/updates``."""
    speech = corpus(args.data, scale)
    seconds = {
        f"{method} {rate}x": round(time_of_updates(method, rate, speech, scale), 5)
        for method, rate in SETTINGS
    }
    updates = int(0.9 * args.train_seconds / max(seconds.values()))
    return {
        "updates": max(updates, 4),
        "seconds_an_update": seconds,
        "train_seconds": args.train_seconds,
        "hours": round(speech.hours, 2),
        "dev_utterances": len(speech.dev_names),
    }


def train(method, rate, args, scale, records):
    """Return the cell of one setting."""
    from espnet_adastride.evaluation import scoring

    speech = corpus(args.data, scale)
    updates = records.value("train/updates", "updates")
    if not updates:
        raise RuntimeError("train/updates has not been measured")
    training = Training(method, rate, speech, scale)
    if scale.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start, losses, seen = time.time(), [], 0
    last = start + 1.5 * records.value("train/updates", "train_seconds")
    done = 0
    for batch in training.batches():
        losses.append(training.update(batch, done / updates))
        seen += sum(len(speech.waves[speed][i]) for i, speed in batch)
        done += 1
        # on a machine that has become slower: what has been trained is kept
        if done == updates or time.time() > last:
            break
    losses = torch.stack(losses).float().cpu()
    took = time.time() - start
    hypotheses = training.decode()
    references = dict(zip(speech.dev_names, speech.dev_texts))
    rows = scoring.align(references, hypotheses, scoring.words)
    counts = scoring.total(rows)
    letters = scoring.total(scoring.align(references, hypotheses, scoring.characters))
    stats = {
        name: round(float(training.stats[name]), 4)
        for name in ("loss_vp", "empty_slots", "largest_jump", "stride_entropy")
        if name in training.stats
    }
    peak = None
    if scale.device == "cuda":
        peak = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    parts = max(len(losses) // 20, 1)
    return {
        "wer": round(scoring.percent(counts.errors, counts.words), 2),
        "cer": round(scoring.percent(letters.errors, letters.words), 2),
        "substitutions": counts.substitutions,
        "deletions": counts.deletions,
        "insertions": counts.insertions,
        "words": counts.words,
        "updates": done,
        "planned_updates": updates,
        "hours_of_speech": round(seen / RATE / 3600, 3),
        "seconds": round(took, 1),
        "peak_gib": peak,
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "seed": SEED,
        "stats": stats,
        "losses": [round(float(part.mean()), 3) for part in losses.split(parts)],
        "errors": {row.id: row.counts.errors for row in rows},
        "examples": {name: hypotheses[name] for name in speech.dev_names[:3]},
    }


def train_cells(args, scale, records, until):
    """Yield the cells of ``train``."""
    if args.data is None or not (Path(args.data) / "complete").exists():
        records.note("train", "left out: no speech, or not all parts of it, is there")
        return
    plan = partial(plan_updates, args, scale)
    yield Cell("train/updates", plan, 0 if scale.dry_run else 60)
    planned = records.value("train/updates", "train_seconds") or args.train_seconds
    for method, rate in SETTINGS:
        work = partial(train, method, rate, args, scale, records)
        yield Cell(f"train/{rate}x/{method}", work, 1.1 * planned + 10)
