"""Pretrained encoders with random parameters, small enough for a test."""

import json

import pytest


def save_wave_model(folder, kind="wav2vec2", normalize=True, **options):
    """Save a random WavLM, HuBERT or wav2vec2 with the published convolutions.

    Args:
        options: further ones of its configuration.
    """
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    names = {"wavlm": "WavLM", "hubert": "Hubert", "wav2vec2": "Wav2Vec2"}
    config = getattr(transformers, f"{names[kind]}Config")(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        num_codevectors_per_group=4,
        codevector_dim=8,
        num_buckets=32,
        **options,
    )
    model = getattr(transformers, f"{names[kind]}Model")(config).eval()
    model.save_pretrained(folder)
    extractor = {"sampling_rate": 16000, "do_normalize": normalize}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    return model


def whisper_model():
    """Return a random Whisper of ``transformers`` with windows of 30 s."""
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=200,
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=80,
        max_source_positions=1500,
        pad_token_id=1,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=2,
    )
    return transformers.WhisperForConditionalGeneration(config).eval()


def save_ctranslate2(model, folder):
    """Convert a Whisper of ``transformers`` to a faster-whisper folder."""
    pytest.importorskip("ctranslate2")
    from ctranslate2.converters.transformers import WhisperLoader

    folder.mkdir(parents=True, exist_ok=True)
    spec = WhisperLoader().get_model_spec(model)
    spec.register_vocabulary([f"<{n}>" for n in range(200)])
    spec.validate()
    spec.optimize(quantization=None)
    spec.save(str(folder))
    return folder
