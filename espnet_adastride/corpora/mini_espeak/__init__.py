"""The demo's corpus: mini_espeak, synthetic speech in the layout of LibriSpeech.

    OUTPUT/LibriSpeech/train-mini/SPK/CHAP/SPK-CHAP-0000.flac ... SPK-CHAP.trans.txt
    OUTPUT/LibriSpeech/{dev-mini,test-mini}/...
    OUTPUT/LibriSpeech/mini-lm-norm.txt   text for a language model, a sentence a line
    OUTPUT/LibriSpeech/SPEAKERS.TXT       voice, rate and pitch of each speaker
    OUTPUT/LibriSpeech/README.TXT         how it was made
    OUTPUT/LibriSpeech/mini_espeak.json   the same for programs; marks it as complete

``grammar.py`` draws sentences, ``plan.py`` assigns them to speakers and parts,
``speech.py`` synthesises one, and ``build.py`` writes the files.

All randomness is seeded by the corpus seed and the name of the drawn item: the same
options give the same bytes, with any number of processes.
"""
