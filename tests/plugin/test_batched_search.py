"""Beam search over several utterances at once, which ESPnet 202611 can."""

import numpy as np
import pytest
import soundfile
from espnet2.bin import asr_inference

from espnet_adastride.bin import unpack_model
from espnet_adastride.plugin import espnet
from espnet_adastride.transcribe import Transcriber
from tests.plugin.releases import NEWER
from tests.release_models import DATA, RATE, SAID, tones

newer = pytest.mark.skipif(not NEWER, reason="202511 decodes one utterance at a time")
TEXTS = [*SAID, "CAB", "A", "BCBC AC"]


@pytest.fixture(scope="module", params=["202611_adastride", "202511_conv2d"])
def files(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    unpack_model.main([str(DATA / f"{request.param}.zip"), str(folder)])
    exp = folder / f"asr_{request.param[7:]}"
    return str(exp / "config.yaml"), str(exp / "valid.loss_ctc.ave.pth")


def search(files, **options):
    return espnet.Speech2Text(*files, beam_size=3, ctc_weight=0.7, **options)


@newer
def test_a_batch_says_what_its_utterances_say_alone(files):
    waves = [tones(text, seed) for seed, text in enumerate(TEXTS, 7)]
    one, many = search(files), search(files, batch_size=3)
    alone = [one(wave)[0] for wave in waves]
    together = [results[0] for results in many.batch_decode(waves)]
    assert alone[0][0] == SAID[0]
    assert [result[0] for result in together] == [result[0] for result in alone]
    scores = [float(result[3].score) for result in alone]
    np.testing.assert_allclose(
        [float(result[3].score) for result in together], scores, atol=0.02
    )


@newer
def test_the_command_and_an_utterance_that_is_too_short(files, tmp_path):
    lines = []
    for seed, text in enumerate(TEXTS, 7):
        path = tmp_path / f"{seed}.wav"
        soundfile.write(path, tones(text, seed), RATE, subtype="FLOAT")
        lines.append(f"u{seed:02d} {path}")
    soundfile.write(tmp_path / "short.wav", tones("A")[:300], RATE)
    lines.append(f"u99 {tmp_path}/short.wav")
    (tmp_path / "wav.scp").write_text("\n".join(lines) + "\n")
    words = ["--asr_train_config", files[0], "--asr_model_file", files[1]]
    words += ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,sound"]
    words += ["--output_dir", f"{tmp_path}/out", "--beam_size", "3", "--ngpu", "0"]
    words += ["--ctc_weight", "0.7", "--batch_size", "3", "--num_workers", "0"]
    # not by run.main: in a process of pytest-xdist the main module has no source, which
    # type checks ask for
    asr_inference.main(words)
    text = (tmp_path / "out" / "1best_recog" / "text").read_text().splitlines()
    said = dict(line.split(" ", 1) for line in text)
    one = search(files)
    for seed, letters in enumerate(TEXTS, 7):
        assert said.pop(f"u{seed:02d}") == one(tones(letters, seed))[0][0]
    # beside longer ones it is decoded; what conv2d makes of it is no frame at all
    assert set(said) == {"u99"}


def test_transcription_takes_a_batched_configuration(files, tmp_path):
    """Its batch_size is the command's; recordings are decoded one after another."""
    config = tmp_path / "decode.yaml"
    config.write_text("{beam_size: 3, ctc_weight: 0.7, batch_size: 4}\n")
    result = Transcriber(files[1], inference_config=config)(tones(SAID[0], 7))
    assert result.text == SAID[0]
