"""A few seconds of speech, and files of it in every container."""

import io
import math
import struct
from functools import lru_cache

import numpy as np
import pytest
import soundfile

RATE = 16000


@lru_cache(maxsize=None)
def speech(text="The doctor is late, and the train left an hour ago."):
    """Return speech (n,) float32 at 16 kHz, by eSpeak NG."""
    pytest.importorskip("espeakng_loader")
    from espnet_adastride.corpora import espeak

    wave = espeak.synthesise(text, espeak.Voice(), RATE) / 32768
    assert len(wave) > RATE
    return (0.7 * wave / np.abs(wave).max()).astype(np.float32)


def encode(path, codec, wave, rate=RATE, streams=1, video=False, delays=(), **options):
    """Write samples (n,) or (n, channels) by PyAV, in the container of the name.

    Args:
        path: file.
        codec: FFmpeg's name.
        wave: samples.
        rate: samples per second.
        streams: number of audio streams, all with these samples.
        video: add pictures, from 0 s to the end.
        delays: (a, b): all sound from a s on is b s later, and nothing in between.
        options: ``bit_rate``, and ``open``: further arguments of ``av.open``.

    Returns:
        ``path``.
    """
    av = pytest.importorskip("av")
    wave = np.atleast_2d(wave.T)
    layout = "mono" if len(wave) == 1 else "stereo"

    def mux(container, packets):
        for packet in packets:
            second = packet.pts * packet.time_base
            late = sum(by for begin, by in delays if second >= begin)
            packet.pts += round(late / packet.time_base)
            packet.dts = packet.pts
            container.mux(packet)

    with av.open(str(path), "w", **options.get("open", {})) as container:
        tracks = [
            container.add_stream(codec, rate=rate, layout=layout)
            for _ in range(streams)
        ]
        pictures = None
        if video:
            pictures = container.add_stream("mpeg4", rate=5)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
            seconds = wave.shape[1] / rate + sum(by for _, by in delays)
            for index in range(math.ceil(5 * seconds)):
                image = np.full((48, 64, 3), index % 256, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode(None))
        for track in tracks:
            if "bit_rate" in options:
                track.bit_rate = options["bit_rate"]
            form = track.codec_context.format
            resampler = av.AudioResampler(
                format=form.name if form else "fltp", layout=layout, rate=rate
            )
            for begin in range(0, wave.shape[1], 1024):
                part = np.ascontiguousarray(wave[:, begin : begin + 1024])
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
                frame.sample_rate, frame.pts = rate, begin
                for piece in resampler.resample(frame):
                    mux(container, track.encode(piece))
            mux(container, track.encode(None))
    return path


def film_without_sound(path):
    """Write a film of pictures alone."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=5)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(
                np.zeros((48, 64, 3), np.uint8), format="rgb24"
            )
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
    return path


def sound_file(wave, rate=RATE, **options):
    """Return the bytes of a file that libsndfile writes."""
    content = io.BytesIO()
    soundfile.write(content, wave, rate, **options)
    return content.getvalue()


def without_length_table(mp3):
    """Take the first frame, with the Xing or Info table, out of an MP3 file's bytes."""
    if mp3[:3] == b"ID3":
        size = sum((byte & 127) << 7 * n for n, byte in enumerate(mp3[9:5:-1]))
        mp3 = mp3[10 + size :]
    head = struct.unpack(">I", mp3[:4])[0]
    version, rate = head >> 19 & 3, head >> 10 & 3
    assert version == 2, "MPEG 2, as 16 kHz is"
    kbits = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160]
    hertz = [22050, 24000, 16000][rate]
    length = 72 * 1000 * kbits[head >> 12 & 15] // hertz + (head >> 9 & 1)
    assert b"Xing" in mp3[:length] or b"Info" in mp3[:length]
    return mp3[length:]
