"""Your own recordings as Kaldi-style data directories: checked, cut, split.

    sources, in any of the layouts of layouts.py and tables.py
        -> OUTPUT/{train,valid,test}/{wav.scp,text,utt2spk,spk2utt}
        -> OUTPUT/SET/audio/*.flac    excerpts and converted files

Every recording is decoded. Mono WAV and FLAC files are used in place; anything else
(other containers, several channels, parts of recordings, pipes, names that are not
UTF-8) is written as mono FLAC. Unusable entries are counted and listed by name.
``prepare.py`` makes the sets with ``rows.py`` (ids, speakers, files), ``audio.py``
and ``split.py``.
"""
